"""Train, trust and deploy early classifiers of astronomical alerts."""

__version__ = "0.1.0"
