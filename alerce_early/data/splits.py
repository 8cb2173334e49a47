"""Which rows train, which choose the model, which judge it. Rows of one object, or one night, always stay together."""

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
LARGEST_SHARE = 0.2  # of the validation or test rows of a class that one object may make up
MOST_HELD_OUT = 0.3  # of a class; below it a rare class would hardly be left for training


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
    """Assign each row to a part, with a fixed number or fraction of the rows per class for validation and test.

    labels: (N,) int64; ids: (N,) str, the objects, or, by night, the groups of objects that nights connect;
    validation, test: rows wanted of each class, or, below 1, the fraction of each class. A class too small to supply
    that many rows keeps at least 70 % for training and gives the rest in the same proportion; the log says so. Whole
    objects are drawn, so a part may fall short by less than the rows of one object, and no object has more than a fifth
    of the rows of a class within a part. By night, where a group has rows of several classes, see `_draw_groups`.

    folds, fold: the test rows are fold `fold` of `folds` (see `fold_of`), whatever `test` says, and validation is
    drawn from the rest; None, of what was joined from all folds, counts as 0. Raises InputError for fractions that
    leave nothing for training, or a fold out of range.

    Returns (N,) int8 indices into `PARTS`; a pure function of its arguments.
    """
    if folds is not None:
        held = fold_of(labels, ids, folds, seed, by) == _check_fold(fold or 0, folds)
        parts = np.full(len(labels), TEST, dtype=np.int8)
        parts[~held] = split(labels[~held], ids[~held], classes, validation=validation, test=0, seed=seed, by=by)
        return parts
    if sum(size for size in (validation, test) if size < 1) >= 1:
        raise InputError(f"data.split: validation={validation} and test={test} of each class leave none for training.")
    rng = np.random.default_rng([seed, 0x5EED])
    _, first, group = np.unique(ids, return_index=True, return_inverse=True)
    rows_of_group = np.bincount(group)
    part_of_group = np.zeros(len(first), dtype=np.int8)
    if by == "night":
        counts = np.zeros((len(first), len(classes)), dtype=np.int64)
        np.add.at(counts, (group[labels >= 0], labels[labels >= 0]), 1)
        rows_wanted = [_wanted(name, int(n), validation, test) for name, n in zip(classes, counts.sum(0), strict=True)]
        return _draw_groups(counts, rows_wanted, rng)[group]
    for index, name in enumerate(classes):
        groups = rng.permutation(np.flatnonzero(labels[first] == index))
        wanted = _wanted(name, int(rows_of_group[groups].sum()), validation, test)
        # an object of many rows stays in training: a recall measured on one object would say little
        groups = groups[rows_of_group[groups] <= max(1, LARGEST_SHARE * min(filter(None, wanted.values()), default=0))]
        for part, count in wanted.items():
            taken = np.cumsum(rows_of_group[groups]) <= count
            part_of_group[groups[taken]] = part
            groups = groups[~taken]
    return part_of_group[group]


def _wanted(name: str, n: int, validation: float, test: float) -> dict[int, int]:
    """Return how many rows each part is to get of a class of n rows, test first."""
    rows = {part: size * n if size < 1 else size for part, size in {TEST: test, VALIDATION: validation}.items()}
    most = 1.0 if max(validation, test) < 1 else MOST_HELD_OUT  # who gives shares says what is left
    shrink = min(1.0, most * n / max(sum(rows.values()), 1))
    # a class of three rows still has one in each part
    wanted = {part: min(ceil(size), max(int(shrink * size), int(n > 2))) for part, size in rows.items()}
    if shrink < 1:
        log.info(
            "class %s has %d rows: %d for validation and %d for test instead of %d and %d",
            *(name, n, wanted[VALIDATION], wanted[TEST], rows[VALIDATION], rows[TEST]),
        )
    return wanted


def _draw_groups(counts: np.ndarray, wanted: list[dict[int, int]], rng: np.random.Generator) -> np.ndarray:
    """Draw the parts of groups of several classes, (G,) int8; counts: (G, classes) rows; wanted: rows of each class.

    Classes of few groups come first. A group is taken if no class then has more rows than wanted. A class that gets
    none in this way gets the smallest of its groups, unless a class would be left without a group for training.
    """
    part, has = np.full(len(counts), TRAIN, dtype=np.int8), counts > 0
    for which in (TEST, VALIDATION):
        most = np.array([rows[which] for rows in wanted])
        for c in np.argsort(has.sum(0), kind="stable"):
            groups = rng.permutation(np.flatnonzero((part == TRAIN) & has[:, c]))
            smallest_last = [*groups, *groups[np.argsort(counts[groups].sum(1), kind="stable")]]
            for turn, group in enumerate(smallest_last):
                taken = counts[part == which].sum(0)
                spared = (has[part == TRAIN].sum(0) > 1)[has[group]].all()
                fits = (taken + counts[group] <= most)[has[group]].all()
                if part[group] == TRAIN and spared and (fits or (turn >= len(groups) and most[c] and not taken[c])):
                    part[group] = which
    return part


def fold_of(labels: np.ndarray, ids: np.ndarray, folds: int, seed: int = 0, by: By = "object") -> np.ndarray:
    """(N,) int64, the fold 0..folds-1 of each row: whole objects, each class spread evenly.

    Within a class the objects are dealt in turn, from the one of most rows to those of one, there and back
    like children choosing teams. scikit-learn's StratifiedGroupKFold takes seconds for 50,000 objects, one at a
    time, in every run anew. By night there are few groups, of several classes each, and it deals them: the most uneven
    first, each to the fold that leaves the classes spread most evenly. Raises InputError for fewer than two folds.
    """
    if folds < 2:
        raise InputError(f"data.split.folds={folds}: at least 2 are needed, or null for a single split.")
    if by == "night":
        from sklearn.model_selection import StratifiedGroupKFold  # who only predicts can spare it

        dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
        fold = np.empty(len(labels), dtype=np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a class of fewer rows than folds
            try:
                for number, (_, held) in enumerate(dealer.split(labels, labels, ids)):
                    fold[held] = number
            except ValueError as error:
                raise InputError(f"data.split.folds={folds}: {one_line(error)}. Choose fewer folds.") from None
        return fold
    _, first, group = np.unique(ids, return_index=True, return_inverse=True)
    rng = np.random.default_rng([seed, 0xF01D])
    label, rows = labels[first], np.bincount(group)
    dealt = np.lexsort((rng.permutation(len(first)), -rows, label))
    turn = np.arange(len(first)) - np.searchsorted(label[dealt], label[dealt])
    lap, seat = turn // folds, turn % folds
    fold_of_group = np.empty(len(first), dtype=np.int64)
    # each class begins at another fold, so that the remainders do not all fall to the first
    fold_of_group[dealt] = (np.where(lap % 2, folds - 1 - seat, seat) + label[dealt]) % folds
    return fold_of_group[group]


def describe_split(
    validation: float = 100,
    test: float = 200,
    seed: int = 0,
    folds: int | None = None,
    fold: int | None = 0,
    by: By = "object",
) -> str:
    """Return the options of `split` as a sentence; fold: None where each is judged by what was trained without it."""
    what = f"Split by {KEPT_TOGETHER[by]}, seed {seed}"
    if folds is not None and fold is None:
        return f"{what}, into {folds} folds, each judged by what was trained without it."
    if folds is not None:
        return (
            f"{what}: the test rows are fold {fold} of {folds} (0 to {folds - 1}); of the rest "
            f"at most {validation} rows of a class for validation."
        )
    return f"{what}; at most {validation} rows of a class for validation and {test} for test."


def _check_fold(fold: int, folds: int) -> int:
    if not 0 <= fold < folds:
        raise InputError(f"data.split.fold={fold} is not there: data.split.folds={folds} makes folds 0 to {folds - 1}.")
    return fold


def apply_prescribed(
    part: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
    classes: tuple[str, ...],
    **options: Any,
) -> np.ndarray:
    """Return the split a file itself holds: (N,) part names to (N,) int8 indices into `PARTS`.

    Rows without a part, "", are split among themselves by `split`, whose options the rest are. If a file that
    assigns every row names none for validation, they are taken from training in the same way. Extra rows train,
    but for those of an object that is held out, which are in no part (-1), as simulated rows are. Raises InputError
    where folds are asked of a file that assigns every row.
    """
    names, index = np.unique(part, return_inverse=True)
    number = {**{name: i for i, name in enumerate(PARTS)}, "extra": TRAIN, "simulated": -1, "": TRAIN}
    parts = np.array([number[str(name)] for name in names], dtype=np.int8)[index]
    if len(free := np.flatnonzero(part == "")):
        parts[free] = construct(split, labels[free], ids[free], classes, **options)
    elif options.get("folds") is not None:
        raise InputError("data.split.folds: this file itself says which rows are for test; leave that out.")
    elif not (parts == VALIDATION).any():
        train = np.flatnonzero(part == "train")
        parts[train] = construct(split, labels[train], ids[train], classes, **{**options, "test": 0})
    extra = part == "extra"
    known = extra & np.isin(ids, ids[~extra & (parts > TRAIN)])
    if known.any():
        log.info("%d of %d extra rows are of objects held out, and do not train", known.sum(), extra.sum())
    return np.where(known, -1, parts).astype(np.int8)
