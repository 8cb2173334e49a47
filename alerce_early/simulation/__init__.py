"""Simulated surveys in the raw formats of the real ones, which can be used like any data file."""
