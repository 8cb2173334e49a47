"""Deployment: classify raw files, folders and streams with trained networks, and export networks to single files."""
