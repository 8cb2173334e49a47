"""Which keys of a long stream have been met before, at eight bytes a key."""

from hashlib import blake2b

import numpy as np


class Seen:
    """Keys met so far, as 64-bit digests in sorted runs of growing length.

    Ten million keys take 80 MB, a tenth of a set of strings; the chance that any two of them share a digest, so
    that one is taken for a duplicate, is three in a million.
    """

    def __init__(self) -> None:
        self.runs: list[np.ndarray] = []

    def fresh(self, keys: np.ndarray) -> np.ndarray:
        """Keys (n,) str to (n,) bool: whether each is here for the first time. Only what is added counts as met."""
        return self._fresh(_numbers(keys))

    def add(self, keys: np.ndarray) -> np.ndarray:
        """Return the same. All count as met from now on."""
        numbers = _numbers(keys)
        fresh = self._fresh(numbers)
        if fresh.any():
            self.runs.append(np.sort(numbers[fresh]))
        while len(self.runs) > 1 and len(self.runs[-2]) < 2 * len(self.runs[-1]):  # so that runs stay few
            self.runs[-2:] = [np.sort(np.concatenate(self.runs[-2:]))]
        return fresh

    def _fresh(self, numbers: np.ndarray) -> np.ndarray:
        fresh = np.zeros(len(numbers), dtype=bool)
        fresh[np.unique(numbers, return_index=True)[1]] = True
        for run in self.runs:
            fresh &= run[np.minimum(np.searchsorted(run, numbers), len(run) - 1)] != numbers
        return fresh


def _numbers(keys: np.ndarray) -> np.ndarray:
    """(n,) uint64."""
    digests = b"".join(blake2b(key.encode(), digest_size=8).digest() for key in keys.tolist())
    return np.frombuffer(digests, dtype=np.uint64)
