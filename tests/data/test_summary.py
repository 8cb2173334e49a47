"""The table of the course report: published counts stand beside the real file's, and only there."""

from alerce_early.data import summary
from alerce_early.data.readers.stamps_file import CLASSES
from alerce_early.simulation.settings import COUNTS


def meta(**changes: object) -> dict[str, object]:
    return {
        **summary.ORACLE,
        "classes": list(CLASSES),
        "raw_shape": [63, 63, 3],
        "origin": "file real.pkl",
        "set_aside": {},
        "lacking_by_class": [0] * len(CLASSES),
        "odd_values": 0,
    } | changes


def test_the_published_counts_add_up() -> None:
    oracle = summary.ORACLE
    assert sum(oracle["raw_by_class"]) == oracle["images"] == oracle["labels"] == oracle["metadata"]
    dropped_and_kept = zip(oracle["dropped_by_class"], oracle["kept_by_class"], strict=True)
    assert [dropped + kept for dropped, kept in dropped_and_kept] == oracle["raw_by_class"]
    assert oracle["raw_by_class"] == COUNTS.tolist()


def test_a_file_of_the_published_size_is_checked_against_the_published_counts() -> None:
    odd = summary.format_summary(meta(nan_values=9_743_758, dropped_by_class=[224, 24, 273, 101, 29]))
    marked = [line.split("  ")[0].strip() or line.split()[0] for line in odd.splitlines() if "differs" in line]
    assert len(marked) == 3 and "NaN values" in marked  # the class, the sum over classes, the NaN


def test_other_files_and_simulations_are_not() -> None:
    assert "published" not in summary.format_summary(meta(images=496))
    assert "published" not in summary.format_summary(meta(origin="simulated survey of 52,244 stamps, seed 0"))
