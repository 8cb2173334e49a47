"""From raw files to batches: read, clean, store, split, sample."""
