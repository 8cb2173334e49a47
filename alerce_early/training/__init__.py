"""What a run needs beside its network: trainer, folder, processes, progress; and sweeps."""
