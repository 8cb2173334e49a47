"""From raw files to tables: the predictions of training, each row once, also after a kill and with damaged input."""

import base64
import io
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import sys
import tarfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

import alerce_early
from alerce_early.artifacts import predictions
from alerce_early.data.readers import stamps_file
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.experiments.run import train
from alerce_early.predict import illustrate, main
from alerce_early.report import foreign_table, night_page
from alerce_early.serving import inputs
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.output import rejected_of
from alerce_early.serving.predict import predict
from alerce_early.simulation import packets as simulated_packets
from tests.helpers.command import Command
from tests.helpers.command import run as run_command
from tests.helpers.networks import SIZE, nothing_left, table_of, wait_for
from tests.helpers.tiny import damage_row_group


@pytest.fixture(scope="module")
def run(quick, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with metadata; its network does not matter here."""
    config = quick("trainer.max_epochs=1", "features=published")
    return train(config, tmp_path_factory.mktemp("outputs") / "run").path


@pytest.fixture(scope="module")
def classifier(run: Path) -> Classifier:
    return alerce_early.load(run)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 packets; one of them is there twice and one is truncated."""
    folder = tmp_path_factory.mktemp("night")
    for i, (packet, _) in enumerate(simulated_packets.alerts(30, seed=3)):
        (folder / f"{i:02}.avro").write_bytes(simulated_packets.encode(packet))
    shutil.copy(folder / "04.avro", folder / "40.avro")
    (folder / "05.avro").write_bytes((folder / "05.avro").read_bytes()[:9000])
    return folder


@pytest.fixture(scope="module")
def whole(classifier: Classifier, stamps_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "whole.parquet"
    table_of(classifier, stamps_file, out)
    return out


def test_raw_stamps_give_the_predictions_of_training(run: Path, whole: Path, survey: dict[str, Any]) -> None:
    trained, table = predictions.read(run / "predictions.parquet"), predictions.read(whole)
    square = [i for i, image in enumerate(survey["images"]) if image.shape == (63, 63, 3)]
    assert table["candid"].tolist() == [f"stamps.pkl:{i}" for i in square]  # in order
    shared = [name for name in trained if name in table]
    assert {"id", "label", "predicted", "p_SN", "q_SN", "set", "set_marginal", "magpsf"} <= set(shared)
    for name in shared:
        here = table[name][trained["row"]]
        if trained[name].dtype == object:
            assert (here == trained[name]).all(), name
        else:
            assert np.abs(here - trained[name]).max() <= 1e-6, name
    q = np.stack([table[name] for name in table if name.startswith("q_")], 1).astype(np.float64)
    assert table["entropy"] == pytest.approx(-(q * np.log(q)).sum(1), abs=1e-5)
    metadata = np.array(survey["metadata"])[square]
    assert table["imputed"].max() > 0
    assert (table["imputed"] <= (metadata == -999).sum(1)).all()
    assert set(table["model"]) == {alerce_early.load(run).model}


@pytest.mark.parametrize("nothing", (np.nan, np.inf, np.finfo(np.float32).min))
def test_rows_with_too_few_valid_central_pixels_are_rejected(
    classifier: Classifier, survey: dict[str, Any], tmp_path: Path, nothing: float
) -> None:
    rows = [i for i, image in enumerate(survey["images"]) if np.isfinite(image).all() and image.size == 63 * 63 * 3]
    images = [survey["images"][i].copy() for i in rows[:4]]
    images[1][:] = nothing
    images[2][21:38, :, 2] = nothing  # 4 lines of the 21 in the centre are left, of the difference alone
    images[3][21:36, :, 2] = nothing  # and 6
    content = {name: np.array(survey[name])[rows[:4]] for name in ("labels", "metadata", "oid")}
    file = tmp_path / "stamps.pkl"
    file.write_bytes(pickle.dumps({**content, "images": images, "oid": content["oid"].tolist()}))
    table = table_of(classifier, file, tmp_path / "out.csv")
    assert table["candid"].tolist() == ["stamps.pkl:0", "stamps.pkl:3"] and np.isfinite(table["q_SN"]).all()
    (reasons,) = tmp_path.glob("*rejected*")
    assert reasons.read_text().count("central pixels") == 2
    by_hand = classifier.predict(
        images, content["metadata"][:, [stamps_file.COLUMNS.index(n) for n in classifier.features]]
    )
    assert (by_hand["predicted"] == "").tolist() == np.isnan(by_hand["q_SN"]).tolist() == [False, True, True, False]


def test_shards_add_up_to_the_whole_and_csv_equals_parquet(
    classifier: Classifier, stamps_file: Path, whole: Path, tmp_path: Path
) -> None:
    expected = predictions.read(whole)
    parts = [table_of(classifier, stamps_file, tmp_path / f"{i}.csv", shard=(i, 3)) for i in range(3)]
    joined = tables.join_tables(parts)
    order = np.argsort([int(key.split(":")[1]) for key in joined["candid"]])
    assert joined["candid"][order].tolist() == expected["candid"].tolist()
    assert joined["set"][order].tolist() == expected["set"].tolist()
    assert np.abs(joined["q_SN"][order] - expected["q_SN"]).max() < 1e-6


def test_a_killed_command_resumes_to_the_same_file(run: Path, stamps_file: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "whole.parquet"
    code = (
        "import sys, pathlib, alerce_early; from alerce_early.serving import inputs; "
        "from alerce_early.serving.predict import predict; c = alerce_early.load(sys.argv[1]); "
        f"predict(c, inputs.find([sys.argv[2]], c.spec), pathlib.Path(sys.argv[3]), size={SIZE})"
    )
    process = Command("-c", code, run, stamps_file, out)
    parts = tmp_path / "whole.parquet.partial"
    wait_for(lambda: (parts / "000002.parquet").exists() or process.poll() is not None)
    process.kill()
    process.wait()
    left = len(list(parts.glob("*.parquet")))
    assert 3 <= left <= 10 and not out.exists()  # it was killed in the middle
    other = alerce_early.load(run, run)  # another network
    with pytest.raises(InputError, match=r"unfinished output .* differs in network"):
        table_of(other, stamps_file, out)
    found = predict(c := alerce_early.load(run), inputs.find([stamps_file], c.spec), out, size=SIZE)
    assert found.before == left * SIZE or left == 10
    assert out.read_bytes() == whole.read_bytes()
    assert (tmp_path / "whole.rejected.csv").read_text() == whole.with_name("whole.rejected.csv").read_text()
    assert not parts.exists()


def test_repeating_a_finished_command_succeeds(
    classifier: Classifier, stamps_file: Path, whole: Path, tmp_path: Path
) -> None:
    """Its process can be killed after the table is complete but before it exits."""
    shutil.copy(whole, tmp_path)
    shutil.copy(rejected_of(whole), tmp_path)
    out = tmp_path / whole.name
    before = out.stat().st_mtime_ns
    found = predict(classifier, inputs.find([stamps_file], classifier.spec), out, size=SIZE)
    assert (
        found.finished and found.classified == len(predictions.read(whole)["candid"]) and found.rejected and found.first
    )
    assert str(found).startswith("already finished: ") and out.stat().st_mtime_ns == before and nothing_left(tmp_path)


def test_packets_are_classified_once_and_drawn(classifier: Classifier, night: Path, tmp_path: Path) -> None:
    table = table_of(classifier, night, tmp_path / "night.parquet", size=8)
    rejected = (tmp_path / "night.rejected.csv").read_text()
    assert len(set(table["candid"])) == len(table["candid"])
    assert "40.avro" in rejected and "duplicate" in rejected
    assert "05.avro" in rejected and "cut short" in rejected
    assert len(table["candid"]) + len(rejected.splitlines()) - 1 == 31
    source = inputs.find([night], classifier.spec)
    picture = tmp_path / "surest.png"
    given = Namespace(out=tmp_path / "night.parquet", shard=(0, 1), gallery=picture, html=None)
    illustrate(given, classifier.classes, source, "mine")
    assert picture.stat().st_size > 10_000


def test_a_page_shows_the_most_probable_supernovae_first(
    classifier: Classifier, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = inputs.find([night], classifier.spec)
    predict(classifier, source, tmp_path / "night.parquet")
    monkeypatch.setattr(night_page, "MAX_STAMPS", 8)
    given = Namespace(out=tmp_path / "night.parquet", shard=(0, 1), gallery=None, html=tmp_path / "night.html")
    illustrate(given, classifier.classes, source, "mine")
    text, table = (tmp_path / "night.html").read_text(), predictions.read(tmp_path / "night.parquet")
    shown = json.loads(re.findall('id="data">(.*?)</script>', text, re.S)[0])
    order = np.argsort(-table["q_SN"], kind="stable")
    assert shown["rows"]["candid"] == [str(candid) for candid in table["candid"][order]] and len(shown["stamps"]) == 8
    assert shown["channels"] == ["science", "template", "difference"]
    candidates = {str(p["candid"]): p["candidate"] for p, _ in simulated_packets.alerts(30, seed=3)}
    for name in ("jd", "fid", "ra", "dec"):
        assert table[name].tolist() == [candidates[key][name] for key in table["candid"]]
    picture = Image.open(io.BytesIO(base64.b64decode(shown["stamps"][0])))
    assert picture.size == (3 * 63 + 2 * 2, 63)


def test_columns_have_the_same_types_in_both_formats(classifier: Classifier, night: Path, tmp_path: Path) -> None:
    found = [table_of(classifier, night, tmp_path / f"out.{end}") for end in ("csv", "parquet")]
    found += [table_of(classifier, night, tmp_path / f"none.{end}", shard=(99, 100)) for end in ("csv", "parquet")]
    kinds = [{name: column.dtype for name, column in table.items()} for table in found]
    assert kinds[0] == kinds[1] == kinds[3] and kinds[0]["candid"] == "O" and kinds[0]["fid"] == "i8"
    assert kinds[2] == kinds[3] and not len(found[2]["candid"])
    assert kinds[0]["p_SN"] == kinds[0]["entropy"] == np.float32 and kinds[0]["jd"] == np.float64
    assert found[0]["candid"].tolist() == found[1]["candid"].tolist() and found[0]["candid"][0].isdigit()
    assert parquet.read_schema(tmp_path / "out.parquet").field("fid").type == "int64"
    redshift = {"model": np.array(["a"]), "predicted": np.array([0.1], np.float32)}
    predictions.write(tmp_path / "redshift.csv", redshift)
    assert predictions.read(tmp_path / "redshift.csv")["predicted"].tolist() == redshift["predicted"].tolist()
    unknown = predictions.to_arrow({"fid": np.array([1.0, np.nan])})
    assert unknown["fid"].to_pylist() == [1, None]


def test_the_number_of_detections_is_a_column_up_to_twenty(
    classifier: Classifier, run: Path, night: Path, tmp_path: Path
) -> None:
    """As in the store of a run, because the published model was trained with this limit."""
    packets = [packet for packet, _ in simulated_packets.alerts(30, seed=3)]
    given = {str(packet["candid"]): packet["candidate"]["ndethist"] for packet in packets}
    table = table_of(classifier, night, tmp_path / "night.parquet")
    assert max(given.values()) > 20
    assert table["ndethist"].tolist() == [min(given[candid], 20) for candid in table["candid"]]
    trained = predictions.read(run / "predictions.parquet")["ndethist"]
    assert table["ndethist"].dtype == trained.dtype == np.int64 and trained.min() >= 1 and trained.max() == 20
    odd = {name: np.array([2.0, np.nan, 1.5, 1e300]) for name in ("fid", "ndethist")}
    assert [column.to_pylist() for column in predictions.to_arrow(odd)] == [[2, None, None, None]] * 2


def test_a_table_does_not_depend_on_the_folder_of_its_input(
    classifier: Classifier, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("here", "elsewhere"):
        shutil.copytree(night, tmp_path / place / "night", copy_function=shutil.copy2)
    given: list[Path | str] = [tmp_path / place / "night" for place in ("here", "elsewhere")]
    monkeypatch.chdir(tmp_path / "here")
    found, aside = [], []
    for number, path in enumerate([*given, "night"]):
        found.append(table_of(classifier, path, tmp_path / f"{number}.parquet")["source"].tolist())
        aside.append(rejected_of(tmp_path / f"{number}.parquet").read_text())
    assert found[0] == found[1] == found[2] and found[0][0] == "night/00.avro"
    assert aside[0] == aside[1] == aside[2] and "night/05.avro," in aside[0]
    pattern = table_of(classifier, tmp_path / "*" / "night" / "00.avro", tmp_path / "pattern.parquet")
    assert pattern["source"].tolist() == ["elsewhere/night/00.avro"]  # the other is a duplicate
    both = inputs.find(given, classifier.spec)  # whose names alone would be the same
    sources = [str(row) for chunk in both.chunks(100) for row in chunk.sources]
    assert len(set(sources)) == len(sources) and all(Path(row).is_file() for row in sources)


def test_a_note_explains_why_calibration_changes_nothing(classifier: Classifier, night: Path, tmp_path: Path) -> None:
    facts, runtime = classifier.members[0], classifier._runs[0]
    for fit, said in (
        ({"temperature": 1.0, "kept": "it would not help"}, "it would not help"),
        (None, "no temperature was fitted"),
        ({"temperature": 1.5, "kept": None}, ""),
    ):
        network = Classifier([(replace(facts, calibration=fit), runtime)], "torch")
        outcome = predict(network, inputs.find([night], network.spec), tmp_path / "out.parquet", overwrite=True)
        predict(network, inputs.find([night], network.spec), tmp_path / "out.csv", overwrite=True)
        held = json.loads(parquet.read_schema(tmp_path / "out.parquet").metadata[b"alerce_early"])
        beside = json.loads(predictions.origin_of(tmp_path / "out.csv").read_text())
        assert held.get("calibration") == beside.get("calibration") == (network.calibration_note or None)
        assert held["constants"] == beside["constants"] == network.constants == {"set_coverage": 0.9}
        assert said in network.calibration_note and bool(said) == bool(network.calibration_note)
        assert any("q_<class> equals p_<class>" in note for note in outcome.notes()) is bool(said)
        again = predict(network, inputs.find([night], network.spec), tmp_path / "out.parquet")
        assert again.finished


def test_real_packets_with_labels_in_a_separate_file(classifier: Classifier, real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "real.csv"
    found = predict(classifier, inputs.find([real_data / "alerts"], classifier.spec), out)
    assert (found.classified, found.rejected) == (62, 6)
    assert (tmp_path / "real.csv.rejected.csv").read_text().count("63 x 63") == 6
    labelled = foreign_table.read(out)["label"]  # by the labels.csv of the folder
    assert labelled.tolist() == foreign_table.read(out, real_data / "alerts" / "labels.csv")["label"].tolist()
    assert len(foreign_table.read(out, real_data / "alerts" / "labels.csv")["label"]) == 49


def test_labels_join_by_candid_or_id(whole: Path, tmp_path: Path) -> None:
    table = predictions.read(whole)
    for ours, theirs in (("candid", "candid"), ("id", "objectId")):
        labels = tmp_path / f"{theirs}.csv"
        rows = [f"{key},SN" for key in table[ours][:3]] + [f"{table[ours][3]},", "stranger,VS"]
        labels.write_text("\n".join([f"{theirs},label", *rows]))
        joined, matches = foreign_table.match_labels(labels, table)
        assert f"3 of 4 labels name a row by {ours}; {len(table['id']) - 3} of" in matches
        assert set(table[ours][joined == "SN"]) == set(table[ours][:3]) and set(joined) == {"SN", ""}
    labels.write_text("candid,label\nstranger,SN\n")
    with pytest.raises(InputError, match="no label of 1"):
        foreign_table.match_labels(labels, table)
    labels.write_text("name,label\nstranger,SN\n")
    with pytest.raises(InputError, match=r"candid .or diaSourceId, id, objectId. and label"):
        foreign_table.match_labels(labels, table)


def test_a_flipped_bit_in_a_checkpoint_is_refused(run: Path, stamps_file: Path, tmp_path: Path) -> None:
    damaged = bytearray((run / "checkpoints" / "best.ckpt").read_bytes())
    damaged[len(damaged) // 2] ^= 64
    (tmp_path / "best.ckpt").write_bytes(damaged)
    done = run_command(
        "alerce_early.predict", tmp_path / "best.ckpt", stamps_file, "--out", "out.parquet", cwd=tmp_path
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path}/best.ckpt is damaged"), done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out.parquet").exists()


def test_unusable_input_is_refused_in_one_line(
    classifier: Classifier, stamps_file: Path, whole: Path, tmp_path: Path
) -> None:
    empty, bare, mixed = tmp_path / "empty", tmp_path / "bare.pkl", tmp_path / "mixed"
    empty.mkdir()
    mixed.mkdir()
    (mixed / "a.avro").touch()
    bare.write_bytes(pickle.dumps({"images": np.zeros((3, 63, 63, 3), np.float32)}))
    shutil.copy(bare, mixed)
    out = tmp_path / "out.parquet"
    for given, message in (
        (empty, "No such file"),
        (tmp_path / "nothing", "cannot be read"),
        (bare, "has no metadata sgscore1, .* this network needs 23 columns"),
        (mixed, "INPUT: .*alert packets and stamps files"),
        (whole, "stamps with the channels science, template, difference"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            table_of(classifier, given, out)
        assert "\n" not in str(caught.value)
        assert nothing_left(tmp_path) and not out.exists()
    with pytest.raises(InputError, match=r"--out.*--overwrite"):
        table_of(classifier, stamps_file, whole, size=SIZE + 1)
    with pytest.raises(InputError, match=r"--out .*\.parquet or \.csv"):
        table_of(classifier, stamps_file, tmp_path / "out.txt")


def test_a_truncated_archive_ends_with_status_1(run: Path, night: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "night.tar.gz", "w:gz") as archive:
        archive.add(night, "night")
    content = (tmp_path / "night.tar.gz").read_bytes()
    (tmp_path / "night.tar.gz").write_bytes(content[: len(content) // 2])
    done = run_command("alerce_early.predict", run, "night.tar.gz", "--out", "out.parquet", cwd=tmp_path)
    assert done.returncode == 1 and 5 < len(predictions.read(tmp_path / "out.parquet")["candid"]) < 25
    assert done.stderr.startswith("warning: night.tar.gz: archive cannot be read further: ")
    assert done.stderr.endswith(" not classified\n") and done.stderr.count("\n") == 1


def test_an_unreadable_file_gives_only_a_rejected_row(classifier: Classifier, tmp_path: Path) -> None:
    bad, out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.pkl")), tmp_path / "out.parquet"
    bad.write_text("garbage")
    found = predict(classifier, inputs.find([bad], classifier.spec), out)
    assert (found.classified, found.rejected) == (0, 1) and found.first and "is not a pickle" in found.first.reason
    assert not out.exists() and "is not a pickle" in (tmp_path / "out.rejected.csv").read_text()
    found = predict(classifier, inputs.find([bad], classifier.spec), out)  # and again
    assert found.rejected == 1


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_a_signal_ends_predict_with_one_line(run: Path, night: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "nights").mkdir()
    for i in range(50):
        for file in night.iterdir():
            (tmp_path / "nights" / f"{i}-{file.name}").symlink_to(file)
    with Command("alerce_early.predict", run, "nights", "--out", "out.parquet", cwd=tmp_path) as process:
        wait_for(lambda: (tmp_path / "out.parquet.partial" / "command.json").exists())
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert err == f"stopped by {number.name}; run the same command to continue\n"


def test_parquet_of_alerts_is_classified(classifier: Classifier, tmp_path: Path) -> None:
    packets = [packet for packet, _ in simulated_packets.alerts(20, seed=3)]
    parquet.write_table(pyarrow.Table.from_pylist(packets), file := tmp_path / "export.parquet")
    outcome = predict(classifier, inputs.find([file], classifier.spec), tmp_path / "out.parquet")
    assert outcome.classified + outcome.rejected == 20 and outcome.classified > 10


def test_a_damaged_row_group_ends_with_status_1(run: Path, tmp_path: Path) -> None:
    """Its rows count as rejected and are reported in one line."""
    packets = [packet for packet, _ in simulated_packets.alerts(40, seed=3, pool_size=10)]
    parquet.write_table(pyarrow.Table.from_pylist(packets), file := tmp_path / "export.parquet", row_group_size=10)
    damage_row_group(file, 1)
    done = run_command("alerce_early.predict", run, "export.parquet", "--out", "out.parquet", cwd=tmp_path)
    rejected = len((tmp_path / "out.rejected.csv").read_text().splitlines()) - 1
    assert done.returncode == 1 and rejected >= 10
    assert parquet.read_metadata(tmp_path / "out.parquet").num_rows + rejected == 40
    assert done.stderr.startswith("warning: export.parquet: ") and done.stderr.endswith(" 10\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "given, wanted",
    [
        (["ztf", "--out", "x", "--watch", "my in"], ["ztf", "my in", "--out", "x"]),
        (["--watch=in", "--out=x", "ztf"], ["--out=x", "ztf", "in"]),
        (["ztf", "--watch=in", "--ensemble", "a", "b", "--out=x"], ["ztf", "in", "--ensemble", "a", "b", "--out=x"]),
        (["ztf", "kafka://a:1/b", "--group=g", "--out=x"], ["ztf", "kafka://a:1/b", "--group=g", "--out=x"]),
        (["ztf", "night.avro", "--to", "kafka://a:1/b"], ["ztf", "night.avro", "--to", "kafka://a:1/b"]),
    ],
)
def test_the_options_of_serve_name_the_command_to_type(
    given: list[str], wanted: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["predict", *given])
    with pytest.raises(SystemExit) as raised:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert raised.value.code == 2 and shlex.split(line.partition("python -m alerce_early.serve ")[2]) == wanted


@pytest.mark.parametrize("option", ["--shard=1/2", "--overwrite", "--gallery=g.png", "--html=p.html"])
def test_an_engine_refuses_options_of_a_single_table(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["predict", "ztf", "night.avro", "--engine=ray", "--out=out", option])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2 and option.partition("=")[0] in capsys.readouterr().err
