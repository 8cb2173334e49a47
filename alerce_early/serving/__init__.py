"""A trained network at work: raw files in, a table of calibrated probabilities out, whatever runs it."""
