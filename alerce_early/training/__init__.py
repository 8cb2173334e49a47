"""What a run is beside its network: a trainer, a folder, processes, what to go on from, what people see; and sweeps."""
