"""Schemaless messages: read with a schema from a folder, a file or a registry, or rejected."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from alerce_early.data.readers.packets import schemas as wire
from alerce_early.data.readers.packets import stream
from alerce_early.data.readers.packets.schemas import Schemas
from alerce_early.errors import InputError
from alerce_early.simulation import packets as night

PACKETS = [packet for packet, _ in night.alerts(3, seed=0)]
PLAIN = {key: value for key, value in night.SCHEMA.items() if not key.startswith("__")}


def body(packet: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    fastavro.schemaless_writer(file, night.SCHEMA, packet)
    return file.getvalue()


def framed(packet: dict[str, Any], number: int = 900) -> bytes:
    return b"\0" + number.to_bytes(4, "big", signed=True) + body(packet)


def in_parts(folder: Path) -> None:
    """Write the schema as a survey publishes it, one file per nested record."""

    def apart(held: Any) -> Any:
        if isinstance(held, list):
            return [apart(one) for one in held]
        if not isinstance(held, dict):
            return held
        held = {key: apart(value) for key, value in held.items()}
        if held.get("type") != "record" or held["name"] == "ztf.alert":
            return held
        (folder / f"{held['name']}.avsc").write_text(json.dumps(held))
        return held["name"]

    folder.mkdir(parents=True)
    (folder / "ztf.v9_0.alert.avsc").write_text(json.dumps(apart(PLAIN)))
    assert len(list(folder.iterdir())) > 3


@pytest.fixture
def registry() -> Iterator[tuple[str, list[str]]]:
    """Run a schema registry; yield its URL and the list of requested paths."""
    asked: list[str] = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            good = json.dumps({"schema": json.dumps(PLAIN)})
            answers = {
                "/schemas/ids/900": good,
                "/schemas/ids/901": "[1]",
                "/schemas/ids/905": good if asked.count(self.path) > 1 else None,  # missing at first
                "/schemas/ids/906": good,
                "/schemas/ids/907": "<html>Please log in</html>",
                "/schemas/ids/908": '{"schema": null}',
            }
            answer = answers.get(self.path)
            self.send_response(200 if answer is not None else 500 if self.path.endswith("/902") else 404)
            self.end_headers()
            for _ in range(100 if self.path.endswith("/906") else 0):
                self.wfile.write(b" ")  # one byte at a time before the answer
                over.wait(0.05)
            self.wfile.write((answer or "").encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/", asked
        over.set()
        server.shutdown()


def check(schemas: Schemas, messages: list[bytes]) -> None:
    """Check that three of five messages are read like a container and the others rejected."""
    good = stream.decode([night.encode(packet) for packet in PACKETS])
    found = stream.decode(messages, schemas)
    assert found.records is not None and good.records is not None and found.keys.tolist() == good.keys.tolist()
    assert np.array_equal(found.records.images, good.records.images, equal_nan=True)
    assert np.array_equal(found.records.features, good.records.features)


def test_messages_are_read_with_schemas_from_every_source(tmp_path: Path, registry: tuple[str, list[str]]) -> None:
    messages = [framed(PACKETS[0]), night.encode(PACKETS[1]), framed(PACKETS[2])]
    in_parts(tmp_path / "parts" / "9" / "0")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "900.avsc").write_text(json.dumps(PLAIN))
    for place in (tmp_path / "parts", tmp_path / "flat", registry[0]):
        check(Schemas(place), messages)
    assert registry[1] == ["/schemas/ids/900"]  # a single request

    only = Schemas(tmp_path / "flat" / "900.avsc")
    check(only, [framed(PACKETS[0], 7), body(PACKETS[1]), framed(PACKETS[2])])


def test_invalid_messages_and_unknown_schemas_are_rejected(tmp_path: Path, registry: tuple[str, list[str]]) -> None:
    (tmp_path / "900.avsc").write_text(json.dumps(PLAIN))
    (tmp_path / "903.avsc").write_text('{"type": "record", "name": "a", "fields": [{"name": "b", "type": "other"}]}')
    whole = framed(PACKETS[0])
    bad = [
        (whole[:-9], "cannot be decoded"),
        (whole[:2], "message is cut short: 2 bytes"),
        (whole + b"\0", "continues after its Avro record"),
        (framed(PACKETS[0], 904), "schema 904 is not known"),
        (framed(PACKETS[0], -1), "schema -1 is not known"),
        (framed(PACKETS[0], 903), "schema 903.avsc cannot be used"),
        (b"candid,label\n", "Avro container"),
        (b"", "is empty"),
    ]
    chunk = stream.decode([*(message for message, _ in bad), whole], Schemas(tmp_path))
    assert chunk.keys.tolist() == [str(PACKETS[0]["candid"])] and chunk.read == len(bad) + 1
    for rejected, (_, reason) in zip(chunk.rejected, bad, strict=True):
        assert reason in rejected.reason and rejected.reason.isprintable()

    place, asked = registry
    chunk = stream.decode([framed(PACKETS[0], number) for number in (904, 904, 900)], Schemas(place))
    assert [rejected.reason[:23] for rejected in chunk.rejected] == ["schema 904 is not known"] * 2
    assert len(asked) == 2 and len(chunk.keys) == 1
    assert "Confluent" in stream.decode([whole]).rejected[0].reason


def test_a_missing_schema_is_requested_again_later(
    registry: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, asked = registry
    schemas = Schemas(place)
    for _ in range(2):  # not immediately: a topic of such messages would request it for each
        assert len(stream.decode([framed(PACKETS[0], 905)], schemas).rejected) == 1
    assert len(asked) == 1
    monkeypatch.setattr(wire, "RETRY_SECONDS", 0)
    for _ in range(2):
        assert len(stream.decode([framed(PACKETS[0], 905)], schemas).keys) == 1
    assert len(asked) == 2


def test_the_schema_cache_is_bounded(registry: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema in use stays in the cache, even if other messages have many ids."""
    place, asked = registry
    monkeypatch.setattr(wire, "MAX_CACHED_SCHEMAS", 3)
    schemas = Schemas(place)
    for number in (900, 1, 900, 2, 3, 900, 4, 1):
        stream.decode([framed(PACKETS[0], number)], schemas)
    assert [int(path.rpartition("/")[2]) for path in asked] == [900, 1, 2, 3, 4, 1]


def test_an_invalid_answer_of_a_registry_raises_an_error(
    registry: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejecting the messages instead would lose them, although the failure of a proxy may be temporary."""
    monkeypatch.setattr(wire, "TIMEOUT_SECONDS", 0.5)
    for number in (901, 902, 906, 907, 908):
        with pytest.raises(InputError, match=f"schemas {registry[0]}"):
            stream.decode([framed(PACKETS[0], number)], Schemas(registry[0]))


def test_a_location_without_schemas_raises_an_error(tmp_path: Path, registry: tuple[str, list[str]]) -> None:
    (tmp_path / "part.avsc").write_text("{}")
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="registry"):
            Schemas(place)
    with pytest.raises(InputError, match="500"):
        stream.decode([framed(PACKETS[0], 902)], Schemas(registry[0].replace("902", "")))
    with pytest.raises(InputError, match="reached"):
        stream.decode([framed(PACKETS[0])], Schemas("http://127.0.0.1:9"))
