from alerce_early.data import alerce
from alerce_early.data.records import Records
from alerce_early.data.simulate import simulate


def read(n: int = 52_244, seed: int = 0) -> Records:
    """The simulated survey as records, through the same door as the real file."""
    return alerce.from_raw(simulate(n, seed), origin=f"simulated survey of {n:,} stamps, seed {seed}")
