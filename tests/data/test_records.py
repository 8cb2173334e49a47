"""Joining records into one data set with a prescribed split."""

import numpy as np
import pytest

from alerce_early.data import splits
from alerce_early.data.records import Records, join, number_rows
from alerce_early.errors import InputError


def records(n: int, classes: tuple[str, ...] = ("a", "b"), **options) -> Records:
    return Records(
        images=np.zeros((n, 4, 2)),
        labels=np.arange(n) % len(classes),
        ids=options.pop("ids", number_rows(n)),
        features=np.arange(n, dtype=np.float64)[:, None],
        feature_names=("z",),
        classes=classes,
        origin=f"{n} rows",
        kind="spectra",
        **options,
    )


def test_join_sets_the_part_of_each_row_and_prefixes_row_ids():
    joined = join({"train": records(3, set_aside={"bad": 1}), "test": records(2, set_aside={"bad": 2, "odd": 1})})
    assert joined.part.tolist() == ["train"] * 3 + ["test"] * 2
    assert joined.features[:, 0].tolist() == [0, 1, 2, 0, 1]
    assert len(set(joined.ids)) == 5
    assert joined.set_aside == {"bad": 3, "odd": 1}
    assert joined.kind == "spectra"


def test_join_keeps_real_ids():
    joined = join({"train": records(1, ids=np.array(["x"])), "test": records(1, ids=np.array(["y"]))})
    assert joined.ids.tolist() == ["x", "y"]


def test_join_requires_the_same_classes():
    with pytest.raises(InputError, match="classes"):
        join({"train": records(2), "test": records(2, classes=("a", "c"))})


def test_validation_rows_are_drawn_from_training_if_none_are_prescribed():
    joined = join({"train": records(100), "test": records(20)})
    part = splits.apply_prescribed(
        joined.part, joined.labels, joined.ids, joined.classes, validation=10, test=50, seed=0
    )
    assert np.bincount(part).tolist() == [80, 20, 20]
    assert (part[100:] == splits.TEST).all()
    assert np.bincount(joined.labels[part == splits.VALIDATION]).tolist() == [10, 10]
