"""Experiments: single runs, sweeps, searches, ensembles, comparisons, and the composition of their configs."""
