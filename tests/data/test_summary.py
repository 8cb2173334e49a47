"""Summary of a store: comparison with the published counts, for the published file only."""

from alerce_early.data.readers.stamps_file import CLASSES
from alerce_early.report import data_summary
from alerce_early.simulation.settings import COUNTS

# Counts in the report of the course.
PUBLISHED = {
    **dict.fromkeys(("images", "labels", "metadata"), 52_244),
    "raw_by_class": [14_966, 1_620, 14_996, 9_899, 10_763],
    "dropped_by_class": [224, 24, 273, 100, 29],
    "kept_by_class": [14_742, 1_596, 14_723, 9_799, 10_734],
    "nan_values": 9_743_759,
    "kept_with_nan_after_crop": 2_598,
}
BY_CLASS = [f"{part}_by_class" for part in ("raw", "dropped", "lacking", "kept")]


def meta(**changes: object) -> dict[str, object]:
    return {
        **PUBLISHED,
        "classes": list(CLASSES),
        "raw_shape": [63, 63, 3],
        "origin": "file real.pkl",
        "set_aside": {},
        "lacking_by_class": [0] * len(CLASSES),
        "odd_values": 0,
        "unmatched_labels": 0,
        "unlabelled": dict.fromkeys(BY_CLASS, 0),
    } | changes


def test_the_published_file_has_the_published_counts() -> None:
    rows = [(here, there) for _, here, there in data_summary.list_counts(meta()) if there is not None]
    assert len(rows) == 23 and all(here == there for here, there in rows)
    assert "differs" not in data_summary.format_summary(meta())
    assert COUNTS.tolist() == PUBLISHED["raw_by_class"]


def test_differences_from_the_published_counts_are_marked() -> None:
    odd = data_summary.format_summary(meta(nan_values=9_743_758, dropped_by_class=[224, 24, 273, 101, 29]))
    marked = [line.split("  ")[0].strip() or line.split()[0] for line in odd.splitlines() if "differs" in line]
    assert len(marked) == 3 and "NaN values" in marked  # the class, the sum over classes, the NaN


def test_other_files_are_not_compared_with_the_published_counts() -> None:
    assert "published" not in data_summary.format_summary(meta(images=496))
    assert "published" not in data_summary.format_summary(meta(origin="simulated survey of 52,244 stamps, seed 0"))
