"""No page calls rows a test that chose the network."""

import numpy as np
import pytest

from alerce_early.evaluation.kinds import choose_kind
from alerce_early.report import sections

N = 8
KEYS = {"id": np.arange(N).astype(str), "row": np.arange(N), "label": np.repeat(["QSO", "QSO_BAL"], N // 2)}
VALUES = np.linspace(0.1, 2.0, N)
TABLES = {
    "regression": {"true": VALUES, "predicted": VALUES + 0.01},
    "generation": {"reconstruction": VALUES, "nll": VALUES, "kl": VALUES},
}


@pytest.mark.parametrize(("split", "words"), [("validation", "chose the network"), ("test", "neither trained nor")])
@pytest.mark.parametrize("name", TABLES)
def test_the_page_names_the_split_it_judges(name: str, split: str, words: str) -> None:
    table = KEYS | TABLES[name] | {"split": np.full(N, split)}
    kind = choose_kind(table)
    judged = kind.judge(table)
    drawn = sections.draw(kind, judged, table)
    first, *_ = sections.write(kind, judged, table, drawn, lambda rows: np.zeros((len(rows), 1, 21, 21)))
    assert first.title == f"Result on the {split} split" and first.words[0].startswith(f"{N} {split} rows that {words}")
