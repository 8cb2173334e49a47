"""Shared by the tests: tiny raw files, commands in processes of their own, constant networks, a broker."""
