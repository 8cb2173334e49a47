"""Read raw files: one file for each source, and what only readers need."""
