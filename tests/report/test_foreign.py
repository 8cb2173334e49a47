"""Tables of any classifier: reading, error messages, and reports from the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from alerce_early.artifacts import predictions
from alerce_early.errors import InputError
from alerce_early.evaluation.intervals import wilson
from alerce_early.report import foreign_table
from alerce_early.report.__main__ import main
from alerce_early.report.run_page import write_table_page


def written(path: Path, text: str) -> Path:
    path.write_text(text.replace("|", "\n"))
    return path


def test_a_score_becomes_two_probabilities(tmp_path: Path) -> None:
    table = foreign_table.read(written(tmp_path / "t.csv", "id,label,score|7,1,0.8|8,0,0.4|9,1,0.3"))
    assert table["id"].tolist() == ["7", "8", "9"] and table["label"].tolist() == ["1", "0", "1"]
    assert table["p_1"].tolist() == [0.8, 0.4, 0.3] and table["p_0"].tolist() == pytest.approx([0.2, 0.6, 0.7])
    assert table["predicted"].tolist() == ["1", "0", "0"] and list(foreign_table.tables.classes_of(table)) == ["0", "1"]
    named = foreign_table.read(written(tmp_path / "t.csv", "id,label,score|a,SN,0.8|b,rest,0.4"))
    assert named["p_SN"].tolist() == [0.8, 0.4]


def test_unlabelled_rows_and_training_rows_are_excluded(tmp_path: Path) -> None:
    text = "id,label,split,p_a,p_b|1,a,test,.9,.1|2,,test,.9,.1|3,b,train,.2,.8"
    assert foreign_table.read(written(tmp_path / "t.csv", text))["id"].tolist() == ["1"]


def test_conflicting_and_unmatched_labels_are_rejected(tmp_path: Path) -> None:
    table = written(tmp_path / "t.csv", "id,candid,p_a,p_b|x,7,.9,.1|y,8,.1,.9")
    assert foreign_table.read(table, written(tmp_path / "l.csv", "candid,label|7,a|7,a|8,|8,b"))["label"].tolist() == [
        "a",
        "b",
    ]
    with pytest.raises(InputError, match="7 has two labels, a and b"):
        foreign_table.read(table, written(tmp_path / "l.csv", "candid,label|7,a|7,b|8,b"))
    with pytest.raises(InputError, match=r"by candid.* 10, the rows 7\."):
        foreign_table.read(table, written(tmp_path / "l.csv", "candid,label|9,a|10,b"))


@pytest.mark.parametrize("name", ("7.0", "1.09558e+18", "1E+18", ".7", "########"))
def test_ids_damaged_by_a_spreadsheet_are_rejected_by_name(tmp_path: Path, name: str) -> None:
    table = written(tmp_path / "t.csv", "id,candid,p_a,p_b|x,7,.9,.1|y,8,.1,.9")
    with pytest.raises(InputError, match=rf"l\.csv: column candid holds {re.escape(name)} "):
        foreign_table.read(table, written(tmp_path / "l.csv", f"candid,label|8,b|{name},a"))
    predictions.write(tmp_path / "l.parquet", {"candid": np.array([7.0, 8.0]), "label": np.array(["a", "b"])})
    with pytest.raises(InputError, match=r"column candid holds 7\.0"):
        foreign_table.read(table, tmp_path / "l.parquet")


def test_labels_are_matched_in_a_file_with_a_byte_order_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = written(tmp_path / "t.csv", f"id,candid,p_a,p_b|x,{10**18 + 1},.9,.1|y,8,.1,.9|z,9,.1,.9")
    (tmp_path / "l.csv").write_text(f"candid,label\n{10**18 + 1},a\n8,b\n,b\n5,b\n", encoding="utf-8-sig")
    monkeypatch.setattr("sys.argv", ["report", str(table), "--labels", str(tmp_path / "l.csv")])
    main()
    words = "l.csv: 2 of 3 labels name a row by candid; 1 of 3 rows have no label."
    assert words in capsys.readouterr().out and words in (tmp_path / "t_report" / "index.html").read_text()


ALERCE = (
    "oid,classifier_name,classifier_version,class_name,probability,ranking|"
    "ZTF1,stamp_classifier,s_1.0.9,SN,.1,2|ZTF1,stamp_classifier,s_1.0.9,AGN,.9,1|"
    "ZTF1,stamp_classifier,s_1.0.10,SN,.7,1|ZTF1,stamp_classifier,s_1.0.10,AGN,.3,2|"
    "ZTF2,stamp_classifier,s_1.0.9,AGN,1,1|"
    "ZTF1,lc_classifier,l_1,SNIa,1,1|ZTF2,lc_classifier,l_1,SNIa,.4,2|ZTF2,lc_classifier,l_1,QSO,.6,1"
)


def test_the_long_table_of_a_broker_is_evaluated_with_survey_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The latest version counts, and a class without a row has probability 0."""
    table = written(tmp_path / "t.csv", ALERCE)
    labels = written(tmp_path / "l.csv", "ZTFID,type|ZTF1,SN Ia-CSM|ZTF2,AGN?|ZTF3,CV|ZTF4,TDE")
    monkeypatch.setattr("sys.argv", ["report", str(table), "--labels", str(labels)])
    main()
    said = capsys.readouterr().out
    assert "stamp_classifier; the table also has lc_classifier" in said
    assert "2 of 3 labels" in said and "TDE 1" in said
    found = foreign_table.read(table, labels)
    assert found["p_SN"].tolist() == [0.7, 0] and found["p_AGN"].tolist() == [0.3, 1]
    assert found["label"].tolist() == ["SN", "AGN"] == found["predicted"].tolist()
    labels = written(tmp_path / "l.csv", "oid,label|ZTF1,SN Ia|ZTF2,QSO")
    found = foreign_table.read_with_notes(table, labels, classifier="lc_classifier")[0]
    assert found["label"].tolist() == ["SNIa", "QSO"] == found["predicted"].tolist()
    with pytest.raises(InputError, match=r"--classifier atat|--classifier NAME"):
        foreign_table.read_with_notes(table, labels, classifier="atat")
    written(table, ALERCE.replace("stamp", "old"))
    with pytest.raises(InputError, match=r"lc_classifier, old_classifier.*--classifier"):
        foreign_table.read(table, labels)


def test_the_target_class_has_the_thresholds(tmp_path: Path) -> None:
    text = "id,label,p_SN,p_TDE|1,TidalDisruptionEvent,.2,.8|2,SN II,.9,.1|3,TDE,.4,.6|4,Other,.5,.5"
    page, notes = write_table_page(written(tmp_path / "t.csv", text), tmp_path / "page", target="TDE")
    judged = json.loads((tmp_path / "page" / "metrics.json").read_text())
    assert judged["n"] == 3 and judged["thresholds"]["of"] == "TDE" and "f2/TDE" in judged["values"]
    assert "TDE recall" in page.read_text() and "F2 of TDE" in page.read_text() and "Other 1" in notes[0]


def test_validation_rows_choose_the_thresholds(tmp_path: Path) -> None:
    text = "id,label,split,score|1,1,test,.9|2,1,validation,.6|3,0,validation,.5|4,0,test,.7|5,1,train,.8"
    table, constants, _ = foreign_table.read_with_notes(written(tmp_path / "t.csv", text))
    assert table["id"].tolist() == ["1", "4"] and constants["threshold_purity_0.9"] == 0.6
    assert foreign_table.read_with_notes(written(tmp_path / "u.csv", text.replace("split", "s")))[1] == {}


@pytest.mark.parametrize("end", predictions.EXTENSIONS)
def test_constants_are_read_from_metadata_and_from_older_columns(tmp_path: Path, end: str) -> None:
    """The third operating point is not reached by any threshold."""
    names = ("set_coverage", *(f"threshold_{name}" for name in ("completeness_0.9", "completeness_0.95", "purity_0.9")))
    promised = dict(zip(names, (0.8, 0.6, 0.6, None), strict=True)) | {"threshold_purity_0.95": 0.7}
    rows = {"id": np.arange(4), "label": np.array(["SN", "a", "SN", "a"]), "p_SN": np.array([0.9, 0.1, 0.5, 0.2])}
    rows |= {"p_a": 1 - rows["p_SN"], "set": np.array(["SN", "a", "SN|a", "a"]), "set_marginal": np.full(4, "SN")}
    columns = {name: np.full(4, np.nan if value is None else value) for name, value in promised.items()}
    now, before = tmp_path / "now" / f"t{end}", tmp_path / "before" / f"t{end}"
    predictions.write(now, rows, promised)
    predictions.write(before, rows | columns)
    pages = []
    for path in (now, before):
        table, constants, _ = foreign_table.read_with_notes(path)
        assert constants == promised and not set(promised) & set(table)
        page, _ = write_table_page(path, path.parent)
        judged = json.loads((path.parent / "metrics.json").read_text())
        assert judged["conformal"]["wanted"] == 0.8 and judged["thresholds"]["chosen"]
        assert [point["threshold"] for point in judged["thresholds"]["points"]] == [0.6, 0.6, None, 0.7]
        pages.append(page.read_text())
    assert pages[0] == pages[1]


def test_a_class_without_rows_has_no_recall_in_the_headline(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "id,label,p_SN,p_b,p_c|1,b,0,.9,.1|2,c,0,.2,.8")
    page, _ = write_table_page(path, tmp_path / "page")
    assert "SN recall" not in page.read_text() and "balanced accuracy" in page.read_text()


@pytest.mark.parametrize("yes", ("true", "True", "1"))
def test_objects_used_in_training_are_excluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], yes: str
) -> None:
    no = {"true": "false", "True": "False", "1": "0"}[yes]
    text = f"id,label,trained,p_a,p_b|1,a,{yes},.9,.1|2,b,{yes},.2,.8|3,a,{no},.2,.8|4,b,{no},.3,.7|5,,{no},.3,.7"
    path = written(tmp_path / "t.csv", text)
    assert foreign_table.read(path)["id"].tolist() == ["3", "4"]
    monkeypatch.setattr("sys.argv", ["report", str(path)])
    main()
    words = "2 of 4 labelled rows are of objects used in training or model selection"
    page = (tmp_path / "t_report" / "index.html").read_text()
    assert words in capsys.readouterr().out and words in page and "unused in training and model selection" in page
    assert json.loads((tmp_path / "t_report" / "metrics.json").read_text())["values"]["accuracy"] == 0.5
    _, _, notes = foreign_table.read_with_notes(written(tmp_path / "none.csv", text.replace(f",{yes},", f",{no},")))
    assert notes[0].startswith("none of the 4 labelled rows") and "excluded" not in notes[0]
    # if all rows trained the network, all are evaluated, with a warning
    table, _, notes = foreign_table.read_with_notes(written(tmp_path / "all.csv", text.replace(no, yes)))
    assert len(table["id"]) == 4 and set(table["split"]) == {foreign_table.SEEN} and "optimistic" in notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("name,label|a,1", r"columns id, p_<class> or score; it has name, label"),
        ("id,score|a,1", "columns label; it has id, score"),
        ("id,label,score|a,0,0.5|b,1,1.5|c,1,", r"column score is 1.5 in row 2; 2 rows"),
        ("id,label,score|a,0,x|b,1,y", "column score"),
        ("id,label,score|a,0,0.5|b,0,0.5", "score needs two labels"),
        ("id,label,p_a,p_b|a,b,0.5,0.9", r"p_\* add up to 1.4 in row 1"),
        ("id,label,p_a|a,,1", "--labels"),
    ),
)
def test_invalid_tables_are_rejected_with_the_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        foreign_table.read(written(tmp_path / "t.csv", text))


def test_a_table_is_reported_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=500)
    score = rng.beta(1 + 2 * label, 3 - 2 * label)
    rows = [f"{i},{label[i]},{score[i]:.4f}" for i in range(500)]
    path = written(tmp_path / "night.csv", "|".join(["id,label,score", *rows]))
    folder = tmp_path / "night_report"
    monkeypatch.setattr("sys.argv", ["report", str(path)])
    main()
    assert capsys.readouterr().out == f"{folder / 'index.html'}\n"
    assert {"index.html", "metrics.json", "confusion.svg", "roc.svg", "det.svg"} <= {
        file.name for file in folder.iterdir()
    }
    assert json.loads((folder / "metrics.json").read_text())["n"] == 500
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--overwrite" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["report", str(path), "--overwrite"])
    main()


def test_purity_recall_and_workload_use_random_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Computed by hand: seven random rows at ranks 2 to 18 of 20; those at 2, 6, 9 and 15 are supernovae."""
    rows = [f"{i},o{i},{1 - 0.045 * i:.3f},{0.045 * i:.3f}" for i in range(1, 21)]
    table = written(tmp_path / "night.csv", "|".join(["candid,id,p_SN,p_rest", *rows]))
    drawn = {2: "SN", 4: "rest", 6: "SN", 9: "SN", 12: "rest", 15: "SN", 18: "rest"}
    labels = [f"{i},{name},ann,random" for i, name in drawn.items()]
    labels += ["1,SN,ann,probable", "3,SN,ann,probable", "2,SN,bob,probable"]  # the last was drawn at random as well
    file = written(tmp_path / "labels.csv", "|".join(["candid,label,who,queue", *labels]))
    monkeypatch.setattr("sys.argv", ["report", str(table), "--labels", str(file)])
    main()
    found = json.loads((tmp_path / "night_report" / "metrics.json").read_text())["screening"]
    assert (found["of"], found["labelled"], found["n"]) == ("SN", 9, 7)
    shares = {name: (share["value"], share["n"]) for name, share in found["shares"].items()}
    assert shares == {
        "prevalence": (4 / 7, 7),
        "purity": (3 / 4, 4),
        "completeness": (3 / 4, 4),
        "accuracy": (5 / 7, 7),
        "recall_at_10": (3 / 4, 4),
        "workload": (6 / 7, 4),
    }
    assert found["shares"]["purity"]["interval"] == pytest.approx(wilson(3, 4))
    low, high = found["shares"]["workload"]["interval"]
    assert 0 < low < 6 / 7 <= high <= 1
    assert "SN purity 0.750" in capsys.readouterr().out
    assert "drawn at random" in (tmp_path / "night_report" / "index.html").read_text()
    plain = written(tmp_path / "plain.csv", "|".join(["candid,label", *(f"{i},{name}" for i, name in drawn.items())]))
    write_table_page(table, tmp_path / "plain", plain)
    assert "screening" not in json.loads((tmp_path / "plain" / "metrics.json").read_text())
