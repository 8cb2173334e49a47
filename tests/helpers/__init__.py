"""Helpers shared by the tests: small inputs, commands in subprocesses, constant classifiers, a browser and a broker."""
