"""Splits: a fixed number of rows per class, whole objects, and reproducible."""

import logging
import pickle
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from alerce_early.artifacts import predictions
from alerce_early.data.coordinates import match_objects
from alerce_early.data.nights import find_nights
from alerce_early.data.readers.stamps_file import COLUMNS
from alerce_early.data.splits import PARTS, TEST, apply_prescribed, describe_split, fold_of, split
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.evaluation.kinds import Classification
from alerce_early.experiments.instantiate import make_data
from alerce_early.experiments.run import train as train_run

CLASSES = ("AGN", "SN", "VS")
SN = CLASSES.index("SN")


def counts(part: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    return [np.bincount(part[labels == c], minlength=3).tolist() for c in range(len(CLASSES))]


def test_each_class_has_the_same_number_of_held_out_rows() -> None:
    labels = np.repeat([0, 1, 2], [2000, 1000, 5000])
    part = split(labels, np.arange(8000).astype(str), CLASSES, validation=100, test=200)
    assert counts(part, labels) == [[1700, 100, 200], [700, 100, 200], [4700, 100, 200]]


def test_a_small_class_keeps_seventy_percent_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    labels = np.repeat([0, 1, 2], [2000, 100, 2000])
    with caplog.at_level(logging.INFO):
        part = split(labels, np.arange(4100).astype(str), CLASSES, validation=100, test=200)
    assert counts(part, labels)[1] == [70, 10, 20]
    assert "class SN has 100 rows: 10 for validation and 20 for test instead of 100 and 200" in caplog.text


def test_objects_stay_whole() -> None:
    rng = np.random.default_rng(0)
    objects = rng.integers(300, size=1000)
    labels = objects % 3
    part = split(labels, objects.astype(str), CLASSES, validation=30, test=60)
    assert all(len(set(part[objects == o])) == 1 for o in set(objects))
    for train, validation, test in counts(part, labels):
        assert 25 <= validation <= 30 and 55 <= test <= 60 and train > 200


def test_an_object_with_many_rows_stays_in_training() -> None:
    objects = np.concatenate([np.zeros(50, int), np.arange(1, 101)])
    part = split(np.zeros(150, int), objects.astype(str), ("AGN",), validation=10, test=20)
    assert part[0] == PARTS.index("train") and np.bincount(part).tolist() == [120, 10, 20]


def test_no_object_has_more_than_a_fifth_of_a_part() -> None:
    objects = np.repeat(np.arange(120), [3] * 20 + [2] * 20 + [1] * 80)
    parts = [
        split(np.zeros(180, int), objects.astype(str), ("AGN",), validation=10, test=20, seed=s) for s in range(20)
    ]
    held = np.array([part != PARTS.index("train") for part in parts])
    assert not held[:, :60].any() and held[:, 60:100].any()  # a fifth of 10 rows is 2 rows
    assert all(np.bincount(part)[1] >= 9 and np.bincount(part)[2] >= 19 for part in parts)


def test_the_split_depends_only_on_its_seed() -> None:
    labels, ids = np.arange(900) % 3, np.arange(900).astype(str)
    first, again, other = (split(labels, ids, CLASSES, validation=20, test=20, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_prescribed_split_is_followed() -> None:
    parts, labels, ids = np.array(["train", "test", "validation", "train"]), np.zeros(4, np.int64), np.arange(4)
    assert apply_prescribed(parts, labels, ids.astype(str), CLASSES).tolist() == [0, 2, 1, 0]


def test_rows_without_a_prescribed_part_are_split_by_the_options() -> None:
    labels, ids = np.arange(300) % 3, np.arange(300).astype(str)
    for options in ({"validation": 5, "test": 7, "seed": 2}, {"validation": 5, "folds": 3, "fold": 1}):
        found = apply_prescribed(np.full(300, ""), labels, ids, CLASSES, **options)
        assert np.array_equal(found, split(labels, ids, CLASSES, **options))
        assert counts(found, labels)[0][1] == 5


def test_extra_rows_of_held_out_objects_do_not_train() -> None:
    parts = np.array(["train", "validation", "test", "extra", "extra", "extra", "extra"])
    ids = np.array(["a", "b", "c", "a", "b", "c", "d"])
    assert apply_prescribed(parts, np.zeros(7, int), ids, CLASSES).tolist() == [0, 1, 2, 0, -1, -1, 0]


def test_a_class_of_three_has_one_row_in_each_part() -> None:
    labels = np.repeat([0, 1, 2], [900, 3, 900])
    part = split(labels, np.arange(1803).astype(str), CLASSES, validation=100, test=200)
    assert counts(part, labels)[1] == [1, 1, 1]
    none = split(labels, np.arange(1803).astype(str), CLASSES, validation=0, test=200)
    assert counts(none, labels)[1] == [2, 0, 1]


def test_a_size_below_one_is_a_fraction_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 200])
    part = split(labels, np.arange(350).astype(str), CLASSES, validation=0.2, test=0.5)
    assert counts(part, labels) == [[30, 20, 50], [15, 10, 25], [60, 40, 100]]
    with pytest.raises(InputError, match=r"data\.split: validation=0\.5 and test=0\.5"):
        split(labels, np.arange(350).astype(str), CLASSES, validation=0.5, test=0.5)


def test_folds_cover_every_row_once_and_objects_stay_whole() -> None:
    objects = np.random.default_rng(0).integers(300, size=1000)
    labels, ids = objects % 3, objects.astype(str)
    parts = np.stack([split(labels, ids, CLASSES, validation=30, folds=5, fold=k) for k in range(5)])
    assert ((parts == TEST).sum(0) == 1).all()  # so the test rows of all folds are all rows
    for part in parts:
        assert all(len(set(part[objects == o])) == 1 for o in set(objects))
        for c, (train, validation, test) in enumerate(counts(part, labels)):
            rows = (labels == c).sum()
            assert abs(test - rows / 5) <= 0.05 * rows and 25 <= validation <= 30 and train > rows / 2


def test_folds_of_single_row_objects_differ_by_at_most_one_row() -> None:
    labels = np.repeat([0, 1, 2], [103, 11, 57])
    fold = fold_of(labels, np.arange(171).astype(str), 5)
    by_class = [np.bincount(fold[labels == c], minlength=5) for c in range(3)]
    assert all(np.ptp(sizes) <= 1 for sizes in by_class) and by_class[1].tolist().count(3) == 1


def test_objects_are_assigned_to_folds_in_snake_order() -> None:
    objects = np.repeat(np.arange(6), [8, 7, 6, 5, 4, 3])
    fold = fold_of(np.zeros(33, int), objects.astype(str), 4)
    assert [int(fold[objects == o][0]) for o in range(6)] == [0, 1, 2, 3, 3, 2]
    assert np.bincount(fold).tolist() == [8, 7, 9, 9]
    # each class starts one fold later, so that the first fold does not collect all remainders
    both = fold_of(np.repeat([0, 1, 2], 33), np.concatenate([objects, objects + 6, objects + 12]).astype(str), 4)
    assert [int(both[33 * c]) for c in range(3)] == [0, 1, 2]


def test_folds_depend_only_on_the_seed_of_the_split() -> None:
    labels, ids = np.arange(900) % 3, np.arange(900).astype(str)
    first, again, other = (fold_of(labels, ids, 5, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_fold_out_of_range_is_an_error() -> None:
    labels, ids = np.arange(90) % 3, np.arange(90).astype(str)
    for fold in (-1, 5):
        with pytest.raises(InputError, match=r"data\.split\.fold=-?\d"):
            split(labels, ids, CLASSES, folds=5, fold=fold)
    with pytest.raises(InputError, match=r"data\.split\.folds=1"):
        split(labels, ids, CLASSES, folds=1)
    with pytest.raises(InputError, match=r"data\.split\.folds"):
        apply_prescribed(np.full(90, "train"), labels, ids, CLASSES, folds=5)


def test_ids_at_one_position_are_one_object() -> None:
    rows = (  # id, ra, and dec in arcsec
        *(("d", 10, 0), ("b", 10, 1), ("c", 10, 2.4), ("far", 10, 5), ("b", 200, -9000)),
        *(("unknown", -999, -999 * 3600), ("lost", np.nan, np.nan), ("unknown too", -999, -999 * 3600)),
        *(("west", 359.9999, 0), ("east", 0.0001, 0)),  # 0.72 arcsec apart
        *(("half", 10, -999 * 3600), ("half too", 10, -999 * 3600), ("other half", -999, 0), ("other too", -999, 0)),
    )
    ids, ra, dec = (np.array(column) for column in zip(*rows, strict=True))
    found = match_objects(ids, ra, dec / 3600, 1.5)
    # d is near b, and b near c; the other row of b is far from all of them, but has the same id
    assert found[:5].tolist() == ["b", "b", "b", "far", "b"] and found[8:10].tolist() == ["east", "east"]
    # a position with only one valid coordinate is not used
    assert found[5:8].tolist() == ids[5:8].tolist() and found[10:].tolist() == ids[10:].tolist()
    assert match_objects(ids, ra, dec / 3600, 0.5).tolist() == ids.tolist()


def test_recurring_sources_without_ids_are_matched_by_position() -> None:
    rng = np.random.default_rng(0)
    source = np.repeat(np.arange(10_000), 5)
    ra, dec = rng.uniform(0, 360, 10_000), rng.uniform(-30, 80, 10_000)
    scatter = rng.normal(0, 0.15 / 3600, (2, 50_000))  # arcsec, as in real alerts
    ids = np.char.add("row", np.arange(50_000).astype(str))
    found = match_objects(ids, ra[source] + scatter[0], dec[source] + scatter[1], 1.5)
    assert (found == ids[5 * source]).all()


def test_a_file_without_ids_keeps_rows_at_one_position_together(
    survey: dict[str, Any], quick: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """All classes but SN have two rows per position; the table has the object, and intervals resample objects."""
    metadata, labels = np.array(survey["metadata"]), np.array(survey["labels"])
    places = [COLUMNS.index("ra"), COLUMNS.index("dec")]
    by_class = [row for row in np.argsort(labels, kind="stable") if labels[row] != SN]
    by_class = by_class[: len(by_class) // 2 * 2]
    metadata[np.ix_(by_class[1::2], places)] = metadata[np.ix_(by_class[::2], places)]
    file = tmp_path / "unnamed.pkl"
    file.write_bytes(pickle.dumps({"images": survey["images"], "labels": labels, "metadata": metadata}))
    config = quick(f"data.path={file}", "trainer.max_epochs=1", "data.split={validation:20,test:20}")
    run, data = train_run(config, tmp_path / "run"), make_data(config)
    pairs = data.store.features[:, places]
    parts = np.empty(len(pairs), dtype=int)
    for i, rows in enumerate(data.parts.values()):
        parts[rows] = i
    apart = [len({*parts[(pairs == place).all(1)]}) > 1 for place in pairs]
    assert not any(apart) and len(np.unique(data.objects)) < 0.6 * len(pairs)
    table = predictions.read(run.predictions)
    assert (table["object"] == data.objects[table["row"]]).all() and len(set(table["id"])) == len(table["id"])
    test = tables.select_judged(table, "test")
    by_object = Classification().summarise({**test, "id": test["object"]})
    assert run.read_json("metrics.json")["test"]["intervals"] == by_object["intervals"]
    assert f"belong to {len(set(test['object']))} objects; the intervals resample whole objects" in run.page.read_text()
    config.data.match_radius = None
    alone = make_data(config)
    assert (alone.objects == alone.store.ids).all()


def test_a_night_lasts_from_noon_to_noon_at_the_observatory() -> None:
    """Nights at Palomar include noon UT, when the JD changes, and nights in Chile midnight UT, when the MJD changes."""
    evening, morning, next_evening = (jd_of(58000 + hours / 24) for hours in (3, 13, 27))
    assert find_nights({"jd": [evening, morning, next_evening]}, "ZTF").tolist() == [58000, 58000, 58001]
    evening, morning, next_evening = (jd_of(60000 + hours / 24) for hours in (-0.5, 9.5, 23.5))
    assert find_nights({"jd": [evening, morning, next_evening]}, "Rubin").tolist() == [60000, 60000, 60001]


def test_all_time_columns_give_the_same_night() -> None:
    candid, mjd = 697252845615015014, 58451.25284561502  # of a real packet
    for columns in ({"jd": [jd_of(mjd)]}, {"mjd": [mjd]}, {"candid": [candid]}, {"night": [58451.0]}):
        assert find_nights(columns, "ZTF").tolist() == [58451]
    assert find_nights({"candid": [1]}, "Rubin") is None and find_nights({}, "ZTF") is None
    assert find_nights({"night": [1.0], "mjd": [np.nan]}, "ZTF").tolist() == [-1]  # mjd has precedence over night


def jd_of(mjd: float) -> float:
    return mjd + 2400000.5


def test_folds_by_night_keep_groups_whole_and_spread_each_class() -> None:
    """One of sixty nights has most rows of the first class, so its folds cannot have equal sizes."""
    rng = np.random.default_rng(0)
    night = rng.integers(60, size=1200)
    labels = rng.integers(3, size=1200)
    night[labels == 0] = np.where(rng.random((labels == 0).sum()) < 0.8, 7, night[labels == 0])
    parts = np.stack(
        [split(labels, night.astype(str), CLASSES, validation=10, folds=5, fold=k, by="night") for k in range(5)]
    )
    assert ((parts == TEST).sum(0) == 1).all()
    for part in parts:
        assert all(len(set(part[night == n])) == 1 for n in set(night))
        for c, (train, validation, test) in enumerate(counts(part, labels)):
            # the other classes are spread evenly over all folds
            assert train and 1 <= validation <= 10 and (c == 0 or abs(test - (labels == c).sum() / 5) < 25)
    fold = fold_of(labels, night.astype(str), 5, by="night")
    assert sorted(np.bincount(fold[labels == 0], minlength=5) > 300) == [False] * 4 + [True]
    assert np.array_equal(fold, fold_of(labels, night.astype(str), 5, by="night"))


def test_a_class_with_as_many_nights_as_parts_is_in_each_part() -> None:
    """Its smallest groups are held out, even if they have more rows than requested."""
    night = np.repeat(np.arange(6), [40, 20, 10, 30, 30, 30])
    labels = np.repeat([0, 1], [70, 90])
    part = split(labels, night.astype(str), CLASSES[:2], validation=2, test=2, by="night")
    assert np.bincount(part[labels == 0], minlength=3).tolist() == [40, 20, 10]
    assert np.bincount(part[labels == 1], minlength=3).tolist() == [30, 30, 30]


@pytest.fixture
def observed(survey: dict[str, Any], tmp_path: Path) -> dict[str, Path]:
    """Write two files, the second with objects and nights of the first, and a table of nights of the first."""
    rng = np.random.default_rng(3)
    names = np.array([f"ZTF{i}" for i in range(400)])
    names[rng.permutation(400)[:40]] = names[rng.permutation(400)[:40]]
    labels = np.where(rng.random(400) < 0.1, -1, survey["labels"])
    night = 58000 + rng.integers(120, size=400)
    metadata = np.array(survey["metadata"])
    metadata[:, [COLUMNS.index("ra"), COLUMNS.index("dec")]] = -999
    square = np.flatnonzero([image.shape == (63, 63, 3) for image in survey["images"]])  # other shapes are rejected
    own, extra = square[square < 300], square[square >= 300]

    def write(name: str, rows: np.ndarray) -> Path:
        file = tmp_path / name
        images = [survey["images"][row] for row in rows]
        columns = {"labels": labels[rows], "metadata": metadata[rows], "oid": names[rows]}
        file.write_bytes(pickle.dumps({"images": images, **columns, "jd": jd_of(0) + night[rows] + 0.3}))
        return file

    table = [
        "objectId,candid",
        *(f"{o},{(n - 57754) * 10**15 + 3 * 10**14}" for o, n in zip(names[own], night[own], strict=True)),
    ]
    (tmp_path / "nights.csv").write_text("\n".join(table))
    return {"path": write("own.pkl", own), "extra": write("extra.pkl", extra)}


@pytest.mark.parametrize("by", ("object", "night"))
def test_no_object_and_no_night_is_in_two_parts(
    by: str, observed: dict[str, Path], quick: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """Splitting by object alone puts nights in two parts, which shows that the test can fail."""
    options = [f"data.path={observed['path']}", f"data.extra={observed['extra']}", f"outputs={tmp_path}"]
    options += ["data.simulated_share=0.5", "data.simulated_n=20"]
    seen, tested = [], []
    for fold in range(3):
        data = make_data(quick(*options, f"data.split={{validation:5,folds:3,fold:{fold},by:{by}}}"))
        assert data.store.night is not None
        data.set_soft_labels(np.full((len(data.store.ids), 5), 0.2, np.float32))  # so that unlabelled rows train
        extra = data.store.part == "extra"
        assert extra.any() and (data.store.labels[data.parts["train"]] == -1).any()
        assert extra[data.parts["train"]].sum() > 5 and not extra[data.parts["validation"]].any()
        simulated = np.flatnonzero(data.store.part == "simulated")
        assert len(simulated) and not np.isin(simulated, np.concatenate([*data.parts.values()])).any()
        for column in (data.store.ids, data.store.night):
            held = [set(column[rows].tolist()) for rows in data.parts.values()]
            seen.append(any(a & b for a, b in combinations(held, 2)))
        assert not seen[2 * fold]  # by object in any case
        tested.append(set(data.store.night[data.parts["test"]].tolist()))
    assert any(seen[1::2]) == (by == "object")
    assert any(a & b for a, b in combinations(tested, 2)) == (by == "object")  # nor in the test rows of two folds


def test_nights_are_read_from_a_table_or_must_be_known(
    observed: dict[str, Path], quick: Callable[..., DictConfig], tmp_path: Path
) -> None:
    by_night = [f"outputs={tmp_path}", "data.split={validation:5,folds:3,by:night}"]
    own = make_data(quick(f"data.path={observed['path']}", *by_night))
    table = make_data(quick(f"data.path={observed['path']}", *by_night, f"data.nights={tmp_path / 'nights.csv'}"))
    assert all(np.array_equal(own.parts[part], table.parts[part]) for part in PARTS)
    with pytest.raises(InputError, match=r"data\.nights"):
        _ = make_data(quick(*by_night)).parts
    (tmp_path / "wrong.csv").write_text("objectId,when\nZTF1,5\n")
    with pytest.raises(InputError, match=r"data\.nights.*when"):
        _ = make_data(quick(*by_night, f"data.nights={tmp_path / 'wrong.csv'}")).parts


def test_the_description_names_what_is_kept_together() -> None:
    assert "by object and night" in describe_split(folds=5, fold=None, by="night")
    assert "night" not in describe_split()


def test_nights_of_real_packets(real_data: Path, quick: Callable[..., DictConfig], tmp_path: Path) -> None:
    """A table of candids gives the nights of a stamps file, and no night is in two parts."""
    config = quick(
        f"data.path={real_data / 'ztf_public_stamps_2.pkl'}",
        f"data.nights={real_data / 'ztf_context.csv'}",
        f"outputs={tmp_path}",
        "data.split={validation:2,folds:5,by:night}",
    )
    data = make_data(config)
    rows, found = data.observed
    held = [set(found[np.isin(rows, part)]) for part in data.parts.values()]
    assert all(held) and not any(a & b for a, b in combinations(held, 2))
