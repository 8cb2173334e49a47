"""Batch samplers: class proportions, coverage, ranks, and dependence on seed and epoch only."""

from typing import Any

import numpy as np
import pytest
import torch

from alerce_early.data.sampling import EpochBatches, MixedBatches, Rows

SIZES = [300, 20, 130]
LABELS = np.repeat([0, 1, 2], SIZES)
ROWS = 1000 + np.arange(len(LABELS))  # row numbers in the store


def batches(**options: Any) -> EpochBatches:
    return EpochBatches(ROWS, LABELS, **{"batch_size": 64, "seed": 3, **options})


def shown(**options: Any) -> np.ndarray:
    return np.concatenate(list(batches(**options)))


def shares(rows: np.ndarray) -> list[int]:
    return np.bincount(LABELS[rows - 1000]).tolist()


def test_as_is_shows_every_row_once() -> None:
    assert sorted(shown(sampling="as_is")) == ROWS.tolist()


def test_balanced_shows_classes_and_their_rows_equally_often() -> None:
    rows = shown(sampling="balanced")
    assert shares(rows) == [150, 150, 150]
    rare = np.bincount(rows[LABELS[rows - 1000] == 1] - 1000)[300:320]
    assert set(rare) == {7, 8}  # 150 draws of 20 rows
    frequent = np.bincount(rows[LABELS[rows - 1000] == 0] - 1000)
    assert frequent.max() == 1  # no row is repeated before all were shown


def test_the_remainder_of_a_batch_goes_to_varying_classes() -> None:
    sampler = batches(sampling="balanced", batches=1)  # 64 rows of three classes
    seen = []
    for epoch in range(30):
        sampler.set_epoch(epoch)
        seen.append(shares(np.concatenate(list(sampler))))
    assert {tuple(sorted(one)) for one in seen} == {(21, 21, 22)}
    assert min(np.sum(np.array(seen) == 22, axis=0)) >= 3


@pytest.mark.parametrize("sampling", ("balanced", "as_is", "undersample", "oversample"))
def test_rows_of_all_classes_are_mixed(sampling: str) -> None:
    """Every third of an epoch has about the class proportions of the whole."""
    classes = LABELS[shown(sampling=sampling) - 1000]
    whole = np.bincount(classes) / len(classes)
    for part in np.array_split(classes, 3):
        spread = np.sqrt(whole * (1 - whole) / len(part))
        assert (np.abs(np.bincount(part, minlength=3) / len(part) - whole) < 4 * spread).all()


def test_balanced_shows_nearly_every_row_in_twelve_epochs() -> None:
    sampler, seen = batches(sampling="balanced"), set()
    for epoch in range(12):
        sampler.set_epoch(epoch)
        seen |= set(np.concatenate(list(sampler)).tolist())
    assert len(seen) > 0.99 * len(ROWS)  # each epoch shows half of the largest class


def test_rounds_epochs_and_seeds_have_different_orders() -> None:
    n = len(ROWS)
    sampler = batches(sampling="as_is", batches=15)  # 960 rows, two rounds of all rows and a part of a third
    orders = []
    for seed in (3, 4, 5):
        for epoch in (0, 1, 2):
            sampler.seed = seed
            sampler.set_epoch(epoch)
            rows = np.concatenate(list(sampler))
            orders += [rows[:n], rows[n : 2 * n]]
    assert all(sorted(order) == ROWS.tolist() for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == len(orders) == 18


def test_undersample_shows_the_same_rows_of_each_class_every_epoch() -> None:
    sampler = batches(sampling="undersample")
    first = np.concatenate(list(sampler))
    sampler.set_epoch(1)
    second = np.concatenate(list(sampler))
    assert shares(first) == [20, 20, 20]
    assert sorted(first) == sorted(second) and first.tolist() != second.tolist()
    assert sorted(first) != sorted(shown(sampling="undersample", seed=4))


def test_oversample_repeats_rows_up_to_the_largest_class() -> None:
    rows = shown(sampling="oversample")
    assert shares(rows) == [300, 300, 300]
    assert set(np.bincount(rows - 1000)[300:320]) == {15}


@pytest.mark.parametrize("sampling", ("balanced", "as_is", "undersample", "oversample"))
def test_the_number_of_batches_can_be_set(sampling: str) -> None:
    for n in (1, 5, 40):
        sizes = [len(rows) for rows in batches(sampling=sampling, batches=n)]
        assert sizes == [64] * n == [64] * len(batches(sampling=sampling, batches=n))


def test_the_order_depends_only_on_seed_and_epoch() -> None:
    sampler = batches(sampling="balanced")
    first, again = np.concatenate(list(sampler)), np.concatenate(list(sampler))
    sampler.set_epoch(1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, np.concatenate(list(sampler)))
    assert not np.array_equal(first, shown(sampling="balanced", seed=4))


@pytest.mark.parametrize("sampling", ("balanced", "as_is"))
@pytest.mark.parametrize("world", (2, 3))
def test_all_ranks_together_have_the_rows_of_one_process(sampling: str, world: int) -> None:
    image = torch.arange(2000)
    whole = list(batches(sampling=sampling, batch_size=61, world=world))
    assert [len(rows) for rows in whole] == [len(rows) for rows in batches(sampling=sampling, batch_size=61)]
    for rows in whole:
        parts = [Rows(rank, world, image=image)[rows] for rank in range(world)]
        assert sorted(torch.cat([part["image"] for part in parts]).tolist()) == sorted(rows.tolist())
        mean = torch.stack([part["image"].double().mean() * part["share"] for part in parts]).mean()
        assert mean.item() == pytest.approx(rows.double().mean().item())  # as DDP averages over ranks


def test_a_last_batch_too_small_for_all_ranks_is_merged() -> None:
    for n, world, sizes in ((129, 2, [64, 65]), (131, 2, [64, 67]), (132, 2, [64, 64, 4]), (131, 1, [64, 64, 3])):
        found = list(EpochBatches(ROWS[:n], LABELS[:n], batch_size=64, world=world))
        assert [len(rows) for rows in found] == sizes and sorted(np.concatenate(found)) == ROWS[:n].tolist()


def test_batches_are_on_the_device_of_the_rows() -> None:
    """Use the meta device of torch in place of a GPU."""
    rows, order = Rows(image=torch.zeros(2000, 3, device="meta")), list(batches(sampling="balanced", device="meta"))
    assert order and all(batch.device.type == "meta" for batch in order)
    assert all(rows[batch][name].device.type == "meta" for batch in order for name in ("image", "row", "share"))


def test_the_length_is_the_number_of_batches() -> None:
    for sampling in ("balanced", "as_is", "undersample", "oversample"):
        assert len(batches(sampling=sampling)) == len(list(batches(sampling=sampling)))


def test_the_description_says_how_often_each_class_is_shown() -> None:
    text = batches(sampling="balanced", batches=15).describe(("a", "b", "c"))  # 320 rows of each class
    assert text.startswith("an epoch is 15 batches of 64 rows") and text.endswith(": a 1.1, b 16, c 2.5")
    assert batches(sampling="as_is").describe(("a", "b", "c", "none")).endswith(": a 1, b 1, c 1")


def test_a_last_batch_of_a_single_row_is_merged() -> None:
    rows = np.arange(9)
    batches = list(EpochBatches(rows, np.zeros(9, np.int64), batch_size=4))
    assert [len(batch) for batch in batches] == [4, 5]


def test_mixed_batches_depend_only_on_seed_and_epoch() -> None:
    def mixed(epoch: int, **options: Any) -> list[torch.Tensor]:
        own = batches(sampling="balanced", batch_size=20, **options)
        added = EpochBatches(
            5000 + np.arange(100), np.arange(100) % 5, batch_size=20, sampling="balanced", batches=len(own)
        )
        sampler = MixedBatches(own, added)
        sampler.set_epoch(epoch)
        assert len(sampler) == len(list(sampler)) == len(own)
        return list(sampler)

    for options in ({"batches": 7}, {}):
        first, again, other = mixed(1, **options), mixed(1, **options), mixed(2, **options)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not any(torch.equal(a[-20:], b[-20:]) for a, b in zip(first, other, strict=True))
        assert not any(torch.equal(a[:5], b[:5]) for a, b in zip(first, other, strict=True))
        for rows in first:
            assert (rows[-20:] >= 5000).all() and (rows[:-20] < 5000).all()
        drawn = torch.cat([rows[-20:] for rows in first]).numpy() % 5
        assert np.ptp(np.bincount(drawn)) <= 1
