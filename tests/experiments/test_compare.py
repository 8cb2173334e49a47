"""Comparison of runs: seeds are pooled, options distinguished, and unfinished runs listed."""

import csv
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alerce_early import compare
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.experiments import compare as leaderboard
from alerce_early.experiments.compare import find_runs, group_runs
from alerce_early.experiments.run import train
from alerce_early.report import __main__ as report

MINE = "tests.experiments.test_compare.sure"
SHORT = ("trainer.max_epochs=1", "data.batches_per_epoch=2", "data.batch_size=64")


def sure(table: dict[str, np.ndarray]) -> float:
    """Return the mean of the highest probability, as an example of a user-defined metric."""
    return float(np.max([table[name] for name in table if name.startswith("p_")], axis=0).mean())


@pytest.fixture(scope="module")
def sweep(quick, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (0, 1):
        for recipe in ("minmax", "joint"):
            train(quick(f"seed={seed}", f"recipe={recipe}", *SHORT), folder / f"{recipe}{seed}")
    return folder


def test_seeds_of_one_config_are_one_row(sweep: Path) -> None:
    finished, unfinished = find_runs([str(sweep)])
    assert len(finished) == 4 and not unfinished
    rows = leaderboard.rank(group_runs(finished)[0])
    assert len(rows) == 2
    for row in rows:
        name = row.cells["differs in"].removeprefix("recipe=")
        runs = [Run(sweep / f"{name}{seed}").read_json("metrics.json") for seed in (0, 1)]
        a, b = (run["test"]["values"]["balanced_accuracy"] for run in runs)
        spread = abs(a - b) / 2**0.5  # the sample standard deviation of two numbers
        assert f"balanced accuracy {(a + b) / 2:.3f} +- {spread:.3f}" in row.cells["test result"]
        assert row.cells["n"] == "2" and row.cells["system"] == "preliminary_cnn" and name in ("minmax", "joint")


def test_a_run_older_than_an_option_is_pooled_with_later_runs(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "sweep")
    config = tmp_path / "sweep" / "joint0" / "config.yaml"
    config.write_text(config.read_text().replace("distil: null\n", ""))
    assert len(group_runs(find_runs([str(tmp_path / "sweep")])[0])[0]) == 2


def test_the_best_comes_first_and_the_other_is_tested_against_it(sweep: Path) -> None:
    entries, said = group_runs(find_runs([str(sweep)])[0])
    best, other = entries
    assert said == [] and best.order <= other.order
    forest = [run.result["baselines"]["metadata"]["values"]["balanced_accuracy"] for e in entries for run in e.runs]
    average = f"balanced accuracy {sum(forest) / len(forest):.3f}"
    assert any(
        note.startswith("random forest on metadata") and average in note for note in leaderboard.make_notes(entries)
    )
    first, second = (row.cells["against the best"] for row in leaderboard.rank(entries))
    assert first == "" and all(
        f"{test}: " in second for test in ("balanced accuracy", "rows right (McNemar)", "over seeds (Welch)")
    )


@pytest.fixture(scope="module")
def folds(quick, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    for seed, fold in ((0, 0), (0, 1), (1, 0)):
        options = ("data.split.folds=2", f"data.split.fold={fold}", f"seed={seed}", f"metrics=[{MINE}]", *SHORT)
        train(quick(*options), folder / f"{seed}{fold}")
    return folder


def test_runs_on_different_rows_are_not_ranked_against_each_other(sweep: Path, folds: Path) -> None:
    entries, _ = group_runs(find_runs([str(sweep), str(folds)])[0])
    assert [len(entry.runs) for entry in entries] == [2, 2, 2] and len({entry.rows for entry in entries}) == 2
    assert "not ranked against each other" in leaderboard.make_notes(entries)[0]
    rows = leaderboard.rank(entries)
    assert [row.cells["test rows"][0] for row in rows] == ["A", "A", "B"]
    assert rows[2].cells["against the best"] == ""


def test_a_generator_is_not_ranked_against_a_classifier(quick, sweep: Path, tmp_path: Path) -> None:
    train(quick("model=stamp_vae", "recipe=invertible", *SHORT), tmp_path / "vae")
    entries, _ = group_runs(find_runs([str(sweep), str(tmp_path)])[0])
    generator = next(entry for entry in entries if entry.choices["model"] == "stamp_vae")
    assert sorted(generator.tables[0]["row"]) == sorted(entries[0].tables[0]["row"])
    assert generator.rows not in {entry.rows for entry in entries if entry is not generator}
    rows = leaderboard.rank(entries)
    assert rows[entries.index(generator)].cells["against the best"] == ""
    csv_rows = list(csv.DictReader(leaderboard.as_csv(rows).splitlines()))
    assert {csv_rows[entries.index(generator)][f"{test}_p"] for test in ("bootstrap", "mcnemar", "welch")} == {""}


def test_the_folds_of_a_seed_are_evaluated_together(folds: Path, survey: dict[str, Any]) -> None:
    (entry,), said = group_runs(find_runs([str(folds)])[0])
    assert said == ["preliminary_cnn, seed 1: 1 of 2 folds; excluded."]
    assert len(entry.values) == 1 and len(entry.runs) == 2
    kept = sum(np.shape(image)[:2] == (63, 63) for image in survey["images"])
    assert len(entry.tables[0]["row"]) == len(set(entry.tables[0]["row"])) == kept
    recalls = [entry.values[0][f"recall/{name}"] for name in ("AGN", "SN", "VS", "asteroid", "bogus")]
    assert entry.scores[0] == pytest.approx(np.mean(recalls))
    (row,) = leaderboard.rank([entry])
    assert row.cells["n"] == "1 x 2 folds"
    assert f"sure {sure(entry.tables[0]):.3f}" in row.cells["test result"] and "sure_mean" in row.values


def test_only_randomly_selected_labels_are_compared(folds: Path, tmp_path: Path) -> None:
    (whole,), _ = group_runs(find_runs([str(folds)])[0])
    ids = whole.tables[0]["id"].tolist()
    drawn = {name: "random" if i % 3 == 0 else "uncertain" for i, name in enumerate(ids)}
    lines = [f"{name},SN,{queue}" for name, queue in drawn.items()]
    (file := tmp_path / "labels.csv").write_text("\n".join(["id,label,queue", *lines]))
    (entry,), _ = group_runs(find_runs([str(folds)])[0], file)
    kept = np.array([drawn[name] == "random" for name in ids])
    right = whole.tables[0]["label"] == whole.tables[0]["predicted"]
    assert 0 < kept.sum() < len(ids) and entry.tables[0]["id"].tolist() == [n for n in ids if drawn[n] == "random"]
    assert entry.values[0]["accuracy"] == pytest.approx(right[kept].mean())
    file.write_text("id,label,queue\nnobody,SN,random\n")
    with pytest.raises(InputError, match="--labels"):
        group_runs(find_runs([str(folds)])[0], file)


def test_a_repeated_run_counts_once(sweep: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(sweep / "minmax0", tmp_path / name)
    (entry,), said = group_runs(find_runs([str(tmp_path)])[0])
    assert len(entry.runs) == 1 and "b repeats" in said[0]


def test_csv_and_html_files_are_written(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["compare", str(sweep), "--csv", f"{tmp_path}/c.csv", "--html", f"{tmp_path}/c.html"]
    )
    compare.main()
    with open(tmp_path / "c.csv") as file:
        first, second = csv.DictReader(file)
    assert float(first["balanced_accuracy_mean"]) >= float(second["balanced_accuracy_mean"])
    for test in ("bootstrap_p", "mcnemar_p", "welch_p"):
        assert first[test] == "" and 0 < float(second[test]) <= 1
    page = (tmp_path / "c.html").read_text()
    assert "balanced accuracy" in page and "recipe=joint" in page


def test_a_single_run_has_no_spread(sweep: Path) -> None:
    finished, _ = find_runs([str(sweep / "minmax0")])
    assert "+-" not in leaderboard.as_text(leaderboard.rank(group_runs(finished)[0]))


def test_unfinished_runs_are_listed(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "minmax0", tmp_path / "cut")
    (tmp_path / "cut" / "metrics.json").unlink()
    assert find_runs([str(tmp_path)]) == ([], [tmp_path / "cut"])


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no run"):
        find_runs([str(tmp_path)])


def test_pages_of_several_runs_link_to_the_page_of_each(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sweep, folder := tmp_path / "sweep")
    (folder / "joint1" / "metrics.json").unlink()
    for verb, *options in (
        (report, str(folder)),
        (compare, str(folder), "--html", str(tmp_path / "pages.html")),
    ):
        monkeypatch.setattr(sys, "argv", ["verb", *options])
        verb.main()
    assert capsys.readouterr().out.startswith(f"{folder / 'index.html'}\n")
    for page in (folder / "index.html", tmp_path / "pages.html"):
        links = re.findall('<a href="([^"]+)">', page.read_text())
        assert {(page.parent / link).resolve() for link in links} == {
            Run(folder / name).page for name in ("minmax0", "joint0", "minmax1")
        }
    text = (folder / "index.html").read_text()
    value = Run(folder / "minmax1").metrics["test/balanced_accuracy"]
    assert f"<td>{value:.3f} [" in text and "3 finished and 1 unfinished" in text and "<p>joint1</p>" in text
