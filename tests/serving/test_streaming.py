"""Streams from a real broker: each message once, after kills, with several writers and with damaged messages."""

import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import compute, parquet

import alerce_early
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.serve import main
from alerce_early.serving import inputs
from alerce_early.serving.kafka import consumer
from alerce_early.serving.kafka.append_only_parts import add_part, find_end
from alerce_early.serving.kafka.consumer import Stream, parse, read_settings
from alerce_early.serving.kafka.monitor import Monitor
from alerce_early.serving.predict import predict
from alerce_early.simulation import packets
from alerce_early.simulation.packets import SCHEMA
from tests.end_to_end.stream_kills import consume, count_rows, messages, rows_in
from tests.helpers.broker import SETTINGS, broker, delete_topic, kafka, make_topic, send, settings_file
from tests.helpers.command import Command
from tests.helpers.networks import constant, wait_for


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with broker(tmp_path_factory.mktemp("broker")) as address:
        yield address


@pytest.fixture(scope="module", autouse=True)
def sent() -> list[bytes]:
    """Nine messages, simulated before any test of this file has a consumer."""
    return list(islice(messages(), 9))


def begin(where: str, topic: str, run: Path, out: Path, *more: object) -> Command:
    given = [f"kafka://{where}/{topic}", f"--out={out}", f"--kafka={settings_file(out.parent)}"]
    return Command("alerce_early.serve", run, *given, *more)


@pytest.mark.slow
def test_each_message_is_written_once_when_consumers_are_killed(where: str, finished_run: Run, tmp_path: Path) -> None:
    found = consume(where, finished_run.path, tmp_path, n=600, kills=3, pause=1.5)
    assert found["statuses"] == [0, 0] and not any(found["said"]), found
    assert found["rows"] == found["offsets"] == 600 and not found["lost"] + found["twice"], found


@pytest.mark.slow
def test_each_message_is_written_once_by_two_consumers_of_a_partition(
    where: str, finished_run: Run, tmp_path: Path
) -> None:
    """As during a rebalance, but all the time: two groups write to one folder, with different batches."""
    n, out = 400, tmp_path / "out"
    make_topic(where, "both", 2)
    running = [begin(where, "both", finished_run.path, out, f"--group={group}") for group in "ab"]
    wait_for(lambda: all(one.stdout for one in running))
    sent = list(islice(messages(), n))
    for start in range(0, n, 20):
        send(where, "both", ((i % 2, sent[i]) for i in range(start, start + 20)))
        time.sleep(0.15)
    wait_for(lambda: count_rows(out) >= n)
    for one in running:
        one.terminate()
    assert [one.wait(30) for one in running] == [0, 0], [one.stderr for one in running]
    rows = rows_in(out)
    assert sorted(map(int, rows["candid"].to_pylist())) == list(range(1, n + 1))
    assert len(set(rows["source"].to_pylist())) == n


def test_a_part_is_written_only_once(tmp_path: Path) -> None:
    folder = tmp_path / "topic-0"
    assert find_end(folder) == 0
    assert add_part(folder, 0, 7, pyarrow.table({"a": [1]})) and find_end(folder) == 7
    assert not add_part(folder, 0, 9, pyarrow.table({"a": [2]})) and find_end(folder) == 7
    assert add_part(folder, 7, 12, pyarrow.table({"a": [3]})) and find_end(folder) == 12
    assert parquet.read_table(tmp_path)["a"].to_pylist() == [1, 3]
    assert [path.name for path in sorted(folder.iterdir())] == [f"{0:020}.parquet", f"{7:020}.parquet"]


def test_a_part_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, fsync, link = [], os.fsync, os.link

    def note_fsync(file: int) -> None:
        done.append(("fsync", os.fstat(file).st_size))
        fsync(file)

    def note_link(old: Path, new: Path) -> None:
        done.append(("link", old.stat().st_size))
        link(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link", note_link)
    assert add_part(tmp_path, 0, 7, pyarrow.table({"a": [1]}))
    size = (tmp_path / f"{0:020}.parquet").stat().st_size
    assert done == [("fsync", size), ("link", size)]


def test_old_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    """Another process can still be writing a recent one."""
    fresh, old = tmp_path / ".fresh.partial", tmp_path / ".old.partial"
    for path, hours in ((fresh, 0.5), (old, 2)):
        path.write_bytes(b"PAR1")
        os.utime(path, 2 * (time.time() - 3600 * hours,))
    assert find_end(tmp_path) == 0
    assert list(tmp_path.iterdir()) == [fresh]


def test_predictions_and_rejected_messages(where: str, finished_run: Run, tmp_path: Path) -> None:
    """Files and topic have the rows of `predict`; unreadable messages are rejected with offset and reason."""
    sent = list(islice(messages(), 6))
    (tmp_path / "night").mkdir()
    for i, message in enumerate(sent):
        (tmp_path / "night" / f"{i}.avro").write_bytes(message)
    network = alerce_early.load(finished_run.path)
    predict(network, inputs.find([tmp_path / "night"], network.spec), tmp_path / "night.parquet")
    wanted = parquet.read_table(tmp_path / "night.parquet").drop_columns(["source", "label"]).to_pylist()
    broken = [sent[0][:-300], b"\0\0\0\0\7body", b"not avro", b""]
    make_topic(where, "answered", 1)
    make_topic(where, "answers", 1)
    send(where, "answered", [(0, message) for message in (*sent[:3], *broken, *sent[3:])])
    out = tmp_path / "out"
    more = ("--group=answered", f"--to=kafka://{where}/answers", f"--schemas={schema(tmp_path)}")
    with begin(where, "answered", finished_run.path, out, *more) as command:
        wait_for(lambda: count_rows(out) >= 10 or command.poll() is not None)
        command.terminate()
        assert command.wait(30) == 0, command.stderr
    assert command.stdout.splitlines() == [
        f"{network.model} reads kafka://{where}/answered",
        f"6 classified, 4 rejected: {out}",
    ]
    rows = rows_in(out)
    assert [row["source"] for row in rows.to_pylist()] == [f"answered/0/{i}" for i in range(10)]
    reasons = rows["rejected"].to_pylist()
    assert [bool(reason) for reason in reasons] == [False] * 3 + [True] * 4 + [False] * 3
    assert "cut short" in reasons[3] and "schema 7" in reasons[4] and "Avro" in reasons[5]
    answered = rows.filter(compute.is_null(rows["rejected"])).drop_columns(["source", "rejected"]).to_pylist()
    assert answered == wanted
    reader = kafka.Consumer({"bootstrap.servers": where, "group.id": "reader"})
    reader.assign([kafka.TopicPartition("answers", 0, 0)])
    received = reader.consume(6, 20)
    reader.close()
    assert [message.key().decode() for message in received] == [row["id"] for row in wanted]
    for message, row in zip(received, wanted, strict=True):
        plain = json.loads(message.value())
        assert plain.pop("source").startswith("answered/0/")
        assert plain == {name: None if value != value else value for name, value in row.items()}
    committed = kafka.Consumer({"bootstrap.servers": where, "group.id": "answered"})
    assert committed.committed([kafka.TopicPartition("answered", 0)], timeout=300)[0].offset == 10
    committed.close()


def stream(where: str, topic: str, out: Path, group: str = "g", **more: Any) -> Stream:
    """Make a stream in this process, with a network of equal probabilities."""
    return Stream(constant("SN", "rest"), f"kafka://{where}/{topic}", out, group, SETTINGS, **more)


def run(one: Stream, happened: Callable[[], bool]) -> None:
    """Classify until something has happened, for ten minutes at most."""
    until = time.monotonic() + 600
    one.run(lambda: happened() or time.monotonic() > until)


@pytest.mark.parametrize("again", (0, 9))
def test_a_topic_that_was_created_again_is_refused(sent: list[bytes], where: str, again: int, tmp_path: Path) -> None:
    """Otherwise its messages up to the old end would be skipped."""
    out, topic = tmp_path / "out", f"anew{again}"
    make_topic(where, topic, 1)
    send(where, topic, ((0, message) for message in sent[:5]))
    run(stream(where, topic, out, "before"), lambda: count_rows(out) >= 5)
    same = stream(where, topic, out, "same")
    run(same, lambda: same.ends == {(topic, 0): 5})
    assert same.ends == {}  # revoked at the end
    delete_topic(where, topic)
    make_topic(where, topic, 1)
    send(where, topic, ((0, message) for message in sent[:again]))
    with pytest.raises(InputError, match=f"--out {out}.*{topic}"):
        run(stream(where, topic, out, "after"), lambda: count_rows(out) > 5)
    assert count_rows(out) == 5


@pytest.mark.parametrize("share", (0, 0.5))
@pytest.mark.parametrize("running", (False, True))
def test_a_truncated_part_is_named(where: str, running: bool, share: float, tmp_path: Path) -> None:
    """When a stream starts, and when the partition is assigned to it."""
    topic = f"cut{running}{share}"
    make_topic(where, topic, 1)
    add_part(tmp_path / f"{topic}-0", 0, 7, pyarrow.table({"a": [1]}))
    (part,) = tmp_path.glob("*/*")
    content = part.read_bytes()
    part.unlink()
    one = stream(where, topic, tmp_path) if running else None
    part.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=part.name):
        run(one or stream(where, topic, tmp_path), lambda: False)


def test_predictions_are_sent_by_one_group_only(where: str, tmp_path: Path) -> None:
    make_topic(where, "owned", 1)
    to = f"kafka://{where}/owners"
    for _ in range(2):
        stream(where, "owned", tmp_path, "first", to=to).consumer.close()
    for more in ({"to": to}, {}):
        with pytest.raises(InputError, match=r"--group second.*--group first"):
            stream(where, "owned", tmp_path, "second", **more)
    assert parquet.read_table(tmp_path).num_rows == 0  # the folder is still one dataset


def test_a_prediction_that_the_broker_refuses_ends_the_stream(sent: list[bytes], where: str, tmp_path: Path) -> None:
    """Without a part, so the message is classified again at the next start."""
    make_topic(where, "refused", 1)
    send(where, "refused", ((0, message) for message in sent[:3]))
    with pytest.raises(InputError, match="--to bad!topic") as raised:
        run(stream(where, "refused", tmp_path, to=f"kafka://{where}/bad!topic"), lambda: count_rows(tmp_path) > 0)
    assert raised.value.status == 2 and count_rows(tmp_path) == 0


def test_predictions_are_strict_json(where: str, tmp_path: Path) -> None:
    """Missing values are null, because JSON has no NaN."""
    make_topic(where, "faint", 1)
    make_topic(where, "faint-answers", 1)
    ((packet, _),) = packets.alerts(1)
    packet["candidate"]["magpsf"] = float("nan")
    send(where, "faint", [(0, packets.encode(packet))])
    run(stream(where, "faint", tmp_path, to=f"kafka://{where}/faint-answers"), lambda: count_rows(tmp_path) > 0)
    reader = kafka.Consumer({"bootstrap.servers": where, "group.id": "reader"})
    reader.assign([kafka.TopicPartition("faint-answers", 0, 0)])
    (message,) = reader.consume(1, 20)
    reader.close()
    assert json.loads(message.value(), parse_constant=pytest.fail)["magpsf"] is None


def test_a_gap_in_the_offsets_is_checked_twice(sent: list[bytes], where: str, tmp_path: Path) -> None:
    """Messages consumed from a wrong offset, as during a rebalance, are consumed again."""
    make_topic(where, "gap", 1)
    one = stream(where, "gap", tmp_path)
    moved: list[int] = []

    def move() -> bool:
        if one.ends and not moved:
            send(where, "gap", ((0, message) for message in sent))
            one.consumer.seek(kafka.TopicPartition("gap", 0, 5))
            moved.append(5)
        return count_rows(tmp_path) >= 9

    run(one, move)
    assert [int(name.rpartition("/")[2]) for name in rows_in(tmp_path)["source"].to_pylist()] == list(range(9))


def schema(folder: Path) -> Path:
    (folder / "avsc").mkdir()
    (folder / "avsc" / "900.avsc").write_text(json.dumps({k: v for k, v in SCHEMA.items() if not k.startswith("__")}))
    return folder / "avsc"


@pytest.fixture
def mock(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """librdkafka's mock broker, which limits a partition to 5 MB and does not assign ids to topics."""
    monkeypatch.setattr(consumer, "BROKER_TIMEOUT", 3)  # the mock broker does not respond to requests for ids
    held = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "none"})
    (one,) = held.list_topics(timeout=10).brokers.values()
    yield f"{one.host}:{one.port}"


def follow(where: str, out: Path, n: int) -> None:
    """Classify in this process until there are n rows; each call needs its own group on the mock broker."""
    stream = Stream(constant("SN", "rest"), f"kafka://{where}/topic", out, f"group{n}", {})
    until = time.monotonic() + 600
    stream.run(lambda: count_rows(out) >= n or time.monotonic() > until)


@pytest.mark.slow
def test_messages_that_a_topic_has_deleted_are_skipped(
    mock: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a warning; a topic that ends before the parts is refused."""
    out = tmp_path / "out"
    send(mock, "topic", ((0, message) for message in islice(messages(), 5)))
    follow(mock, out, 5)
    assert not capsys.readouterr().err
    send(mock, "topic", ((0, message) for message in islice(messages(6), 1_500)))  # 15 MB
    follow(mock, out, 300)
    (warning,) = set(capsys.readouterr().err.splitlines())
    rows = rows_in(out)
    offsets = [int(source.rpartition("/")[2]) for source in rows["source"].to_pylist()]
    assert (
        offsets[:5] == list(range(5)) and offsets[5] > 100 and offsets[5:] == list(range(offsets[5], offsets[-1] + 1))
    )
    assert [int(candid) - 1 for candid in rows["candid"].to_pylist()] == offsets
    assert warning.startswith(f"warning: topic/0: offsets 5 to {offsets[5] - 1} ")
    add_part(out / "topic-0", 9_000, 9_999, rows)
    with pytest.raises(InputError, match=r"--out .* topic/0 .*9999.* 1505"):
        follow(mock, out, 10_000)


def test_wrong_addresses_settings_and_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("kafka://a:1,b:2/one,^two.*") == ("a:1,b:2", ["one", "^two.*"])
    for url in ("kafka://", "kafka://a:1", "kafka://a:1/", "http://a/b"):
        with pytest.raises(InputError, match="kafka://HOST:PORT/TOPIC"):
            parse(url)
    (tmp_path / "settings").write_text("# ours\n\nsasl.password = a=b\n")
    assert read_settings(tmp_path / "settings") == {"sasl.password": "a=b"}
    with pytest.raises(InputError, match=r"--kafka .*nowhere"):
        read_settings(tmp_path / "nowhere")
    network, url = constant("SN", "rest"), "kafka://127.0.0.1:9/topic"
    with pytest.raises(InputError, match="No such configuration property"):
        Stream(network, url, tmp_path, "g", {"no.such": "1"})
    monkeypatch.setattr(consumer, "BROKER_TIMEOUT", 0.5)
    with pytest.raises(InputError, match=r"^kafka://127.0.0.1:9/topic: "):
        Stream(network, url, tmp_path, "g", {})
    add_part(tmp_path / "topic-0", 0, 1, pyarrow.table({"a": [1]}))
    with pytest.raises(InputError, match=r"--out .* has other columns"):
        Stream(network, url, tmp_path, "g", {})

    def refuse(*_: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)  # as a file system without hard links does
    with pytest.raises(InputError, match=r"--out.*hard link"):
        Stream(network, url, tmp_path / "other", "g", {})
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize(
    "given, wrong",
    [
        (["kafka://a:1/b"], "--group"),
        (["kafka://a:1/b", "second", "--group=g"], "second"),
        (["kafka://a:1/b", "--group=g", "--shard=1/2"], "--shard"),
        (["incoming", "--group=g"], "--group"),
        (["incoming", "--to=kafka://a:1/b"], "--to"),
        (["incoming", "--kafka=settings"], "--kafka"),
        (["incoming", "--overwrite"], "--overwrite"),
    ],
)
def test_options_that_do_not_fit_the_source_are_named(
    given: list[str], wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", "RUN", "--out", "out", *given])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2 and wrong in capsys.readouterr().err.splitlines()[-1]


def test_a_log_line_has_rate_rejected_alerts_and_drift() -> None:
    rng, monitor = np.random.default_rng(0), Monitor()

    def rows(n: int, magnitude: float, rejected: int = 0) -> pyarrow.Table:
        reasons = ["damaged"] * rejected + [None] * (n - rejected)
        columns = {"magpsf": rng.normal(magnitude, 1, n), "imputed": rng.poisson(3, n)}
        return pyarrow.table({**columns, "rejected": pyarrow.array(reasons, pyarrow.string())})

    monitor.add(rows(2_500, 18, rejected=20))
    assert monitor.describe().endswith(" alerts/s, 20 of 2,500 rejected, drift: none")
    monitor.add(rows(1_000, 19))
    assert re.search(r"20 of 3,500 rejected, drift: magpsf 0\.\d\d$", monitor.describe())
    monitor.add(rows(1_000, 18))
    assert monitor.describe().endswith("drift: none")
