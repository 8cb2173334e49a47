"""Train, trust and deploy early classifiers of astronomical alerts."""

import os

__version__ = "0.1.0"

# Threads that wait for each other by spinning slow a run down to a tenth as soon as another process wants a
# core, which on shared machines is always. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
