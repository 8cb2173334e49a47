"""Intervals: what few objects leave open."""

import numpy as np
import pytest

from alerce_early.evaluation.intervals import share, wilson


@pytest.mark.parametrize("hit", (False, True))
def test_all_or_no_hits_among_shared_objects_are_no_certainty(hit: bool) -> None:
    groups = np.array(["a", "a", "b", "c", "d"])
    assert share(np.full(5, hit), groups) == wilson(4 * hit, 4)


def test_a_share_of_rows_of_different_objects_is_wilsons() -> None:
    hits = np.array([True, False, True, False, False, True, True])
    assert share(hits, np.arange(7)) == wilson(4, 7)
