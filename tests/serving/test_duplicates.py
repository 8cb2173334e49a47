"""Keys met before are told from new ones, however they come in portions."""

import numpy as np

from alerce_early.serving.predict import Seen


def test_as_a_set_would() -> None:
    rng = np.random.default_rng(0)
    seen, known = Seen(), set[str]()
    for n in rng.integers(0, 90, 60).tolist():
        keys = rng.integers(0, 2_000, n).astype(str)
        expected = [key not in known and key not in keys[:i].tolist() for i, key in enumerate(keys.tolist())]
        assert seen.add(keys).tolist() == expected
        known |= set(keys.tolist())
    assert sum(map(len, seen.runs)) == len(known) and len(seen.runs) < 10
