"""Readers of raw files: one module per kind of file, each returning `records.Records`."""
