"""Data pipeline from raw files to batches: readers, cleaning, stores, splits and sampling."""
