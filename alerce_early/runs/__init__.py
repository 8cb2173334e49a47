"""What a run is beside its network: a folder, processes, signals, what to go on from, what people see, sweeps."""
