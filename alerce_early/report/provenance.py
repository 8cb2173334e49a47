"""Which rows a result stands on, in words: a page must not call a result a test that is none."""

from collections.abc import Mapping

import numpy as np

from alerce_early.report import foreign

WHAT_THEY_DID = {
    "test": "neither trained nor chose the network",
    "validation": "chose the network, calibration, sets, thresholds, which flatters all; the test rows have no labels",
    foreign.SPLIT: "came as they are: whether the classifier was trained or chosen on them is not known here",
}


def describe_rows(table: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """Return a heading and a sentence without its full stop for the rows of one split, (N,) columns with `split`."""
    split = str(table["split"][0])
    title = "Result" if split == foreign.SPLIT else f"Result on the {split} split"
    return title, f"{len(table['split']):,} {split} rows that {WHAT_THEY_DID[split]}"
