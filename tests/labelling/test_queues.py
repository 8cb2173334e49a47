"""Order of the alerts in each queue."""

import numpy as np
import pytest

from alerce_early.labelling import queues

RNG = np.random.default_rng
UNLABELLED = np.zeros(4, bool)
TWO = np.array([[0.9, 0.1, 0.0], [0.4, 0.35, 0.25], [0.5, 0.5, 0.0], [0.2, 0.2, 0.6]])
LINE = np.array([[0.0], [1.0], [10.0], [4.0]])


def choose(strategy: str, labelled: np.ndarray = UNLABELLED, n: int = 4, **options: int) -> list[int]:
    return queues.choose(strategy, TWO, LINE, labelled, n, RNG(0), **options).tolist()


def test_each_strategy_orders_four_rows_as_computed_by_hand() -> None:
    assert choose("probable") == [0, 2, 1, 3]
    assert choose("probable", target=2) == [3, 1, 2, 0] or choose("probable", target=2) == [3, 1, 0, 2]
    assert choose("uncertain") == [1, 3, 2, 0]
    assert choose("margin") == [2, 1, 3, 0]
    assert choose("similar", target=2) == [2, 3, 1, 0]
    assert choose("unlike") == [2, 0, 1, 3]  # from the mean, 3.75
    assert choose("unlike", np.array([0, 0, 1, 0], bool)) == [0, 1, 3]
    assert choose("diverse") == [3, 2, 0, 1]
    assert choose("diverse", np.array([1, 0, 0, 0], bool), 2) == [2, 3]


def test_disagreement_is_highest_for_confident_networks_of_other_classes() -> None:
    other = np.array([[0.9, 0.1, 0.0], [0.35, 0.4, 0.25], [0.0, 0.0, 1.0], [0.6, 0.2, 0.2]])
    found = queues.choose("disagree", np.stack([TWO, other]), LINE, UNLABELLED, 4, RNG(0))
    assert found.tolist() == [2, 3, 1, 0]


@pytest.mark.parametrize("strategy", queues.STRATEGIES)
def test_no_strategy_offers_labelled_rows_or_repeats_rows(strategy: str) -> None:
    rng = RNG(1)
    probabilities, points = rng.dirichlet(np.ones(5), 200), np.repeat(rng.normal(size=(20, 3)), 10, 0)
    labelled = rng.random(200) < 0.3
    found = queues.choose(strategy, probabilities, points, labelled, 500, RNG(2))
    assert sorted(found) == np.flatnonzero(~labelled).tolist()
    assert found.tolist() == queues.choose(strategy, probabilities, points, labelled, 500, RNG(2)).tolist()
    assert not queues.choose(strategy, probabilities, points, np.ones(200, bool), 5, RNG(2)).size


def test_random_rows_are_a_uniform_sample_and_larger_shares_include_smaller() -> None:
    keys = [str(3_251_000_000_015_000_000 + i) for i in range(4000)]
    few, all_ = queues.reserve(keys, 0.05), queues.reserve(keys, 1)
    assert few.tolist() == all_[:200].tolist() and sorted(all_) == list(range(4000))
    assert len(queues.reserve(keys, 0.5)) == queues.MOST_RESERVED and not len(queues.reserve(keys, 0))
    assert abs(few.mean() - 1999.5) < 4 * 4000 / np.sqrt(12 * 200)  # four standard errors of a uniform draw


def test_mixed_rows_have_the_requested_share_of_random_rows() -> None:
    mixed = queues.mix(np.arange(100), np.arange(100, 130), 0.2, 20, RNG(0))
    assert [row for row, random in mixed if random] == [100, 101, 102, 103]
    assert [row for row, random in mixed if not random] == list(range(16))
    left = queues.mix(np.arange(2), np.arange(100, 130), 0.2, 20, RNG(0))
    assert sum(random for _, random in left) == 18
    assert len(queues.mix(np.arange(2), np.arange(0), 0.2, 20, RNG(0))) == 2
