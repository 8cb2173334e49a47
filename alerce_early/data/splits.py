"""Which rows train, which choose the model, which judge it. Rows of one object always stay together."""

import logging
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
LARGEST_SHARE = 0.2  # of the validation or test rows of a class that one object may make up
MOST_HELD_OUT = 0.3  # of a class; below it a rare class would hardly be left for training


def split(
    labels: np.ndarray,
    ids: np.ndarray,
    classes: tuple[str, ...],
    *,
    validation: int = 100,
    test: int = 200,
    seed: int = 0,
) -> np.ndarray:
    """Assign each row to a part, with a fixed number of rows per class for validation and test.

    labels: (N,) int64; ids: (N,) str, the objects; validation, test: rows wanted of each class. A class too
    small to give that many keeps at least 70 % for training and gives the rest in the same proportion; the
    log says so. Whole objects are drawn, so a part may fall short by less than the rows of one object, and
    no object makes up more than a fifth of a class's part.

    Returns (N,) int8 indices into `PARTS`; a pure function of its arguments.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    _, first, group = np.unique(ids, return_index=True, return_inverse=True)
    rows_of_group = np.bincount(group)
    part_of_group = np.zeros(len(first), dtype=np.int8)
    asked = {TEST: test, VALIDATION: validation}
    for index, name in enumerate(classes):
        groups = rng.permutation(np.flatnonzero(labels[first] == index))
        n = int(rows_of_group[groups].sum())
        shrink = min(1.0, MOST_HELD_OUT * n / max(validation + test, 1))
        # a class of three rows still has one in each part
        wanted = {part: min(count, max(int(shrink * count), int(n > 2))) for part, count in asked.items()}
        if shrink < 1:
            log.info(
                "class %s has %d rows: %d for validation and %d for test instead of %d and %d",
                *(name, n, wanted[VALIDATION], wanted[TEST], validation, test),
            )
        # an object of many rows stays in training: a recall measured on one object would say little
        groups = groups[rows_of_group[groups] <= max(1, LARGEST_SHARE * min(filter(None, wanted.values()), default=0))]
        for part, count in wanted.items():
            taken = np.cumsum(rows_of_group[groups]) <= count
            part_of_group[groups[taken]] = part
            groups = groups[~taken]
    return part_of_group[group]


def prescribed(
    part: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
    classes: tuple[str, ...],
    **options: Any,
) -> np.ndarray:
    """The split a file itself holds: (N,) part names to (N,) int8 indices into `PARTS`.

    If it names no validation rows they are taken from training by `split`, whose options the rest are.
    """
    names, index = np.unique(part, return_inverse=True)
    parts = np.array([PARTS.index(str(name)) for name in names], dtype=np.int8)[index]
    if not (parts == VALIDATION).any():
        train = np.flatnonzero(parts == TRAIN)
        parts[train] = split(labels[train], ids[train], classes, **{**options, "test": 0})
    return parts
