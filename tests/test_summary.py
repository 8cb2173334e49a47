"""The table of the course report: published counts stand beside the real file's, and only there."""

from alerce_early.data import summary
from alerce_early.data.alerce import CLASSES


def meta(**changes: object) -> dict[str, object]:
    return {
        **summary.ORACLE,
        "classes": list(CLASSES),
        "raw_shape": [63, 63, 3],
        "origin": "file real.pkl",
        "set_aside": {},
    } | changes


def test_a_file_of_the_published_size_is_checked_against_the_published_counts() -> None:
    text = summary.text(meta())
    assert "published" in text and "differs" not in text
    assert text.count("52,244") == 8  # images, labels, metadata and all that was read, here and published

    odd = summary.text(meta(nan_values=9_743_758, dropped_by_class=[224, 24, 273, 101, 29]))
    marked = [line.split("  ")[0].strip() or line.split()[0] for line in odd.splitlines() if "differs" in line]
    assert len(marked) == 3 and "NaN values" in marked  # the class, the sum over classes, the NaN


def test_other_files_and_simulations_are_not() -> None:
    assert "published" not in summary.text(meta(images=496))
    assert "published" not in summary.text(meta(origin="simulated survey of 52,244 stamps, seed 0"))
