"""Pages state how the evaluated rows were used in training."""

import numpy as np
import pytest

from alerce_early.evaluation.kinds import choose_kind
from alerce_early.report import page, sections
from tests.helpers.tiny import sections_of

N = 8
KEYS = {"id": np.arange(N).astype(str), "row": np.arange(N), "label": np.repeat(["QSO", "QSO_BAL"], N // 2)}
VALUES = np.linspace(0.1, 2.0, N)
TABLES = {
    "regression": {"true": VALUES, "predicted": VALUES + 0.01},
    "generation": {"reconstruction": VALUES, "nll": VALUES, "kl": VALUES},
}


@pytest.mark.parametrize(
    ("split", "words"), [("validation", "used for model selection"), ("test", "unused in training")]
)
@pytest.mark.parametrize("name", TABLES)
def test_the_page_names_the_evaluated_split(name: str, split: str, words: str) -> None:
    table = KEYS | TABLES[name] | {"split": np.full(N, split)}
    kind = choose_kind(table)
    judged = kind.judge(table)
    images = sections.Images(lambda rows: np.ones((len(rows), 1, 21, 21)) * np.arange(21), ["science"])
    shown = sections.describe(kind, judged, table, images)
    assert len(shown["tiles"]) == N
    first, *_ = sections_of(page.render(f"{name}.html", **shown, drawn={}, notes=[]))
    assert first.title == f"Result on the {split} split" and first.words[0].startswith(f"{N} {split} rows, {words}")
