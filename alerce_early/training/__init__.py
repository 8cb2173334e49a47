"""Training: the trainer, its callbacks, several processes, and signals."""
