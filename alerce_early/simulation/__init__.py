"""Simulated surveys in the raw formats of the real ones, each a source like any file."""
