"""Splits into training, validation and test rows that keep whole objects, or whole nights, in one part.

`split` draws a split, `fold_of` assigns cross-validation folds, and `apply_prescribed` follows the split of a file.
"""

import logging
import warnings
from math import ceil
from typing import Any, Literal

import numpy as np

from alerce_early.construct import construct
from alerce_early.errors import InputError, one_line

log = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
By = Literal["object", "night"]
KEPT_TOGETHER: dict[By, str] = {"object": "object", "night": "object and night"}
MAX_OBJECT_SHARE = 0.2  # largest fraction of the validation or test rows of a class that one object may have
MAX_HELD_OUT = 0.3  # largest fraction of a class outside the training split, so that rare classes can be trained


def split(
    labels: np.ndarray,
    ids: np.ndarray,
    classes: tuple[str, ...],
    *,
    validation: float = 100,
    test: float = 200,
    seed: int = 0,
    folds: int | None = None,
    fold: int | None = 0,
    by: By = "object",
) -> np.ndarray:
    """Assign each row to training, validation or test, with a fixed number of rows per class held out.

    Whole objects are drawn, so a part may have fewer rows than requested, by less than the rows of one object. No
    object has more than `MAX_OBJECT_SHARE` of the rows of a class in a part. The result depends only on the arguments.

    Parameters
    ----------
    labels : ndarray
        (N,) int64, -1 for unlabelled rows.
    ids : ndarray
        (N,) str: the object of each row or, by night, the group of objects connected by nights (`nights.connect`).
    classes : tuple of str
        Class names in label order.
    validation, test : float
        Number of rows per class or, below 1, fraction of each class. A class that is too small keeps at least 70 % of
        its rows for training, shares the rest in the same proportion, and is logged.
    seed : int
        Seed of the draw.
    folds : int, optional
        Number of cross-validation folds. If given, the test rows are one fold (see `fold_of`), `test` is ignored, and
        the validation rows are drawn from the other folds.
    fold : int or None
        Fold used for testing, in [0, `folds`); None means 0.
    by : {"object", "night"}
        Whether `ids` are objects, each of a single class, or groups with rows of several classes.

    Returns
    -------
    ndarray
        (N,) int8 indices into `PARTS`.

    Raises
    ------
    InputError
        If the fractions leave no training rows, or `folds` or `fold` is out of range.
    """
    if folds is not None:
        held = fold_of(labels, ids, folds, seed, by) == _check_fold(fold or 0, folds)
        parts = np.full(len(labels), TEST, dtype=np.int8)
        parts[~held] = split(labels[~held], ids[~held], classes, validation=validation, test=0, seed=seed, by=by)
        return parts
    if sum(size for size in (validation, test) if size < 1) >= 1:
        raise InputError(
            f"data.split: validation={validation} and test={test} of each class leave no training rows. "
            "Choose fractions whose sum is below 1."
        )
    rng = np.random.default_rng([seed, 0x5EED])
    _, first, group = np.unique(ids, return_index=True, return_inverse=True)
    rows_of_group = np.bincount(group)
    part_of_group = np.zeros(len(first), dtype=np.int8)
    if by == "night":
        counts = np.zeros((len(first), len(classes)), dtype=np.int64)
        np.add.at(counts, (group[labels >= 0], labels[labels >= 0]), 1)
        class_limits = [
            _held_out_rows(name, int(n), validation, test) for name, n in zip(classes, counts.sum(0), strict=True)
        ]
        return _draw_groups(counts, class_limits, rng)[group]
    for index, name in enumerate(classes):
        groups = rng.permutation(np.flatnonzero(labels[first] == index))
        part_limits = _held_out_rows(name, int(rows_of_group[groups].sum()), validation, test)
        # objects with many rows stay in training, so that no recall is dominated by a single object
        most = max(1, MAX_OBJECT_SHARE * min(filter(None, part_limits.values()), default=0))
        groups = groups[rows_of_group[groups] <= most]
        for part, count in part_limits.items():
            fits = np.cumsum(rows_of_group[groups]) <= count
            part_of_group[groups[fits]] = part
            groups = groups[~fits]
    return part_of_group[group]


def _held_out_rows(name: str, n: int, validation: float, test: float) -> dict[int, int]:
    """Return the number of test and validation rows, in this order, of a class with `n` rows."""
    rows = {part: size * n if size < 1 else size for part, size in {TEST: test, VALIDATION: validation}.items()}
    most = 1.0 if max(validation, test) < 1 else MAX_HELD_OUT  # fractions determine the training rows themselves
    shrink = min(1.0, most * n / max(sum(rows.values()), 1))
    # a class of three rows has one in each part
    limits = {part: min(ceil(size), max(int(shrink * size), int(n > 2))) for part, size in rows.items()}
    if shrink < 1:
        log.info(
            "class %s has %d rows: %d for validation and %d for test instead of %d and %d",
            *(name, n, limits[VALIDATION], limits[TEST], rows[VALIDATION], rows[TEST]),
        )
    return limits


def _draw_groups(counts: np.ndarray, limits: list[dict[int, int]], rng: np.random.Generator) -> np.ndarray:
    """Draw the part, (G,) int8, of groups whose rows of each class are `counts` (G, classes).

    Classes with few groups are drawn first. A group is added to a part unless a class would then exceed its limit. A
    class that gets no group in this way gets its smallest one, if every class keeps a group for training.
    """
    part, has = np.full(len(counts), TRAIN, dtype=np.int8), counts > 0
    for which in (TEST, VALIDATION):
        most = np.array([rows[which] for rows in limits])
        for c in np.argsort(has.sum(0), kind="stable"):
            groups = rng.permutation(np.flatnonzero((part == TRAIN) & has[:, c]))
            smallest_last = [*groups, *groups[np.argsort(counts[groups].sum(1), kind="stable")]]
            for turn, group in enumerate(smallest_last):
                rows_so_far = counts[part == which].sum(0)
                dispensable = (has[part == TRAIN].sum(0) > 1)[has[group]].all()
                fits = (rows_so_far + counts[group] <= most)[has[group]].all()
                needed = turn >= len(groups) and most[c] and not rows_so_far[c]
                if part[group] == TRAIN and dispensable and (fits or needed):
                    part[group] = which
    return part


def fold_of(labels: np.ndarray, ids: np.ndarray, folds: int, seed: int = 0, by: By = "object") -> np.ndarray:
    """Assign each row to a cross-validation fold, stratified by class, keeping objects whole.

    By object, the objects of a class are sorted by their number of rows and assigned to folds in alternating (snake)
    order; scikit-learn's StratifiedGroupKFold would take seconds per run for 50,000 objects. By night, the groups are
    few and have rows of several classes, and StratifiedGroupKFold assigns them.

    Parameters
    ----------
    labels : ndarray
        (N,) int64.
    ids : ndarray
        (N,) str: object or group of each row, as in `split`.
    folds : int
        Number of folds, at least 2.
    seed : int
        Seed of the order among objects with the same number of rows.
    by : {"object", "night"}
        Meaning of `ids`.

    Returns
    -------
    ndarray
        (N,) int64 in [0, `folds`).

    Raises
    ------
    InputError
        If there are fewer than two folds, or, by night, every class has fewer rows than there are folds.
    """
    if folds < 2:
        raise InputError(f"data.split.folds={folds}: expected at least 2. Use null for a single split.")
    if by == "night":
        from sklearn.model_selection import StratifiedGroupKFold  # slow to import, and prediction does not need it

        dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
        fold = np.empty(len(labels), dtype=np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class has fewer rows than folds
            try:
                for number, (_, held) in enumerate(dealer.split(labels, labels, ids)):
                    fold[held] = number
            except ValueError as error:
                raise InputError(f"data.split.folds={folds}: {one_line(error)}. Choose fewer folds.") from None
        return fold
    _, first, group = np.unique(ids, return_index=True, return_inverse=True)
    rng = np.random.default_rng([seed, 0xF01D])
    label, rows = labels[first], np.bincount(group)
    order = np.lexsort((rng.permutation(len(first)), -rows, label))
    rank = np.arange(len(first)) - np.searchsorted(label[order], label[order])
    lap, position = rank // folds, rank % folds
    fold_of_group = np.empty(len(first), dtype=np.int64)
    # classes start at different folds, so that the first fold does not collect all the remainders
    fold_of_group[order] = (np.where(lap % 2, folds - 1 - position, position) + label[order]) % folds
    return fold_of_group[group]


def describe_split(
    validation: float = 100,
    test: float = 200,
    seed: int = 0,
    folds: int | None = None,
    fold: int | None = 0,
    by: By = "object",
) -> str:
    """Describe the options of `split` in a sentence; `fold=None` means that the results of all folds are combined."""
    start = f"Split by {KEPT_TOGETHER[by]}, seed {seed}"
    if folds is not None and fold is None:
        return f"{start}, into {folds} folds, each evaluated with the network trained on the others."
    if folds is not None:
        return (
            f"{start}: the test rows are fold {fold} of {folds} (0 to {folds - 1}); "
            f"at most {validation} of the other rows per class are for validation."
        )
    return f"{start}; at most {validation} rows per class for validation and {test} for test."


def _check_fold(fold: int, folds: int) -> int:
    """Return the fold; raise InputError if there is no such fold."""
    if not 0 <= fold < folds:
        raise InputError(f"data.split.fold={fold}: expected 0 to {folds - 1}, since data.split.folds={folds}.")
    return fold


def apply_prescribed(
    part: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
    classes: tuple[str, ...],
    **options: Any,
) -> np.ndarray:
    """Apply the split that a file prescribes, and draw parts for the other rows.

    Rows without a part are split among themselves. If the file assigns every row and none to validation, the
    validation rows are drawn from the training rows. Extra rows are for training, unless their object is held out.

    Parameters
    ----------
    part : ndarray
        (N,) str: a name of `PARTS`, "extra", "simulated" or "" (see `Records`).
    labels, ids, classes
        As in `split`.
    **options
        Other options of `split`.

    Returns
    -------
    ndarray
        (N,) int8 indices into `PARTS`; -1 for simulated rows and extra rows of objects that are held out.

    Raises
    ------
    InputError
        If folds are requested and the file assigns every row.
    """
    names, index = np.unique(part, return_inverse=True)
    number = {**{name: i for i, name in enumerate(PARTS)}, "extra": TRAIN, "simulated": -1, "": TRAIN}
    parts = np.array([number[str(name)] for name in names], dtype=np.int8)[index]
    if len(free := np.flatnonzero(part == "")):
        parts[free] = construct(split, labels[free], ids[free], classes, **options)
    elif options.get("folds") is not None:
        raise InputError("data.split.folds: the file prescribes the test rows. Remove the option.")
    elif not (parts == VALIDATION).any():
        train = np.flatnonzero(part == "train")
        parts[train] = construct(split, labels[train], ids[train], classes, **{**options, "test": 0})
    extra = part == "extra"
    known = extra & np.isin(ids, ids[~extra & (parts > TRAIN)])
    if known.any():
        log.info("%d of %d extra rows are not used: their objects are in validation or test", known.sum(), extra.sum())
    return np.where(known, -1, parts).astype(np.int8)
