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

    def add(self, keys: np.ndarray) -> np.ndarray:
        """Keys (n,) str to (n,) bool: whether each is here for the first time. All count as met from now on."""
        if not len(keys):
            return np.zeros(0, dtype=bool)
        digests = b"".join(blake2b(key.encode(), digest_size=8).digest() for key in keys.tolist())
        numbers = np.frombuffer(digests, dtype=np.uint64)
        fresh = np.zeros(len(numbers), dtype=bool)
        fresh[np.unique(numbers, return_index=True)[1]] = True
        for run in self.runs:
            fresh &= run[np.minimum(np.searchsorted(run, numbers), len(run) - 1)] != numbers
        if fresh.any():
            self.runs.append(np.sort(numbers[fresh]))
        while len(self.runs) > 1 and len(self.runs[-2]) < 2 * len(self.runs[-1]):  # so that runs stay few
            self.runs[-2:] = [np.sort(np.concatenate(self.runs[-2:]))]
        return fresh
