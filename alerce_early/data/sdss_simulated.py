from pathlib import Path

from alerce_early.data import sdss
from alerce_early.data.records import Records, join
from alerce_early.data.simulate_spectra import simulate


def read(n: int = 6000, seed: int = 0, test_path: str | Path | None = None) -> Records:
    """Simulated spectra as records, through the same door as real arrays; test_path: as in `sdss.read`."""
    simulated = sdss.from_raw(simulate(n, seed), origin=f"{n:,} simulated spectra, seed {seed}")
    return simulated if test_path is None else join({"train": simulated, "test": sdss.read(test_path)})
