"""Columns is_<class>: the operating points of a run, stored in its checkpoint, applied to alerts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import alerce_early
from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.evaluation import tables, thresholds
from alerce_early.predict import main
from alerce_early.serving import flags
from alerce_early.serving.runtimes import Facts
from tests.helpers.networks import constant

CLASSES = ("SN", "VS")
POINTS = {"SN": {"rows": 7, "completeness": [0.5] * 100, "purity": [0.25] * 60 + [None] * 40}}
SETS = {"coverage": 0.9, "thresholds": {"set": [0.75, 0.5], "set_marginal": [0.5, 0.5]}}


@pytest.mark.parametrize("end", predictions.EXTENSIONS)
def test_alerts_are_flagged_by_the_operating_point_of_the_run(
    end: str, finished_run: Run, stamps_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = tables.select_judged(predictions.read(finished_run.predictions), "validation")
    wanted = thresholds.operating_points(trained["label"] == "SN", trained["p_SN"].astype(float), (0.8,))[0]
    out = tmp_path / f"night{end}"
    with pytest.MonkeyPatch.context() as patch:
        options = ("--threshold", "SN:completeness=.8", "--threshold", "VS:completeness=1", "--out", str(out))
        patch.setattr("sys.argv", ["predict", str(finished_run.path), str(stamps_file), *options])
        main()
    table = predictions.read(out)
    assert table["is_SN"].dtype == table["is_VS"].dtype == bool
    assert table["is_SN"].tolist() == (table["p_SN"] >= np.float32(wanted["threshold"])).tolist()
    assert 0 < table["is_SN"].sum() < len(table["is_SN"])
    assert f"is_SN: p_SN of at least {wanted['threshold']:.4g}" in capsys.readouterr().out


def facts_of(**fits: object) -> Facts:
    return replace(constant(*CLASSES).members[0], **fits)  # type: ignore[arg-type]


def test_a_network_without_operating_points_has_the_completeness_of_its_sets() -> None:
    flag = flags.find("SN:completeness=0.90", facts_of(conformal=SETS))
    assert flag.column == "is_SN" and flag.threshold == 0.25


@pytest.mark.parametrize(
    ("text", "fits", "named"),
    (
        ("SN:purity=.9", {"conformal": SETS}, "SN:completeness=0.9"),
        ("SN:purity=.9", {}, "SN. Train again"),
        ("SN=.9", {"operating_points": POINTS}, "CLASS:purity=LEVEL"),
        ("TDE:purity=.9", {"operating_points": POINTS}, "SN, VS"),
        ("SN:purity=.905", {"operating_points": POINTS}, r"\.905"),
        ("SN:purity=1.5", {"operating_points": POINTS}, r"1\.5"),
        ("SN:purity=.9", {"operating_points": POINTS}, r"0\.6"),
        ("VS:purity=.9", {"operating_points": POINTS}, "VS"),
    ),
)
def test_a_threshold_that_does_not_exist_is_refused(text: str, fits: dict, named: str) -> None:
    with pytest.raises(InputError, match=rf"^--threshold {text}: .*{named}"):
        flags.find(text, facts_of(**fits))


def test_a_second_threshold_of_a_class_and_an_ensemble_are_refused(finished_run: Run) -> None:
    network = alerce_early.load(finished_run.path)
    network.flag("SN:completeness=.5")
    assert network.predict([], []).get("is_SN", np.array(0)).dtype == bool
    with pytest.raises(InputError, match="--threshold SN:purity"):
        network.flag("SN:purity=.2")
    with pytest.raises(InputError, match="--ensemble"):
        alerce_early.load(finished_run.path, finished_run.path).flag("SN:completeness=.5")


def test_an_exported_file_keeps_operating_points_and_refuses_damaged_ones() -> None:
    assert Facts.from_texts(facts_of(operating_points=POINTS).texts()).operating_points == POINTS
    with pytest.raises(InputError, match="operating_points"):
        facts_of(operating_points={"SN": {"completeness": [0.5], "purity": [0.5]}})
