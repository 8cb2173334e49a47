"""Classify alerts from Kafka as they arrive, with any number of processes that share the partitions of a topic.

Every message is written to the files of a folder exactly once, see `append_only_parts`. Predictions are sent to a topic
before their part is written, so they are sent at least once: again if a process is killed in between.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import compute

from alerce_early.data.readers.packets import stream
from alerce_early.data.readers.packets.schemas import Schemas
from alerce_early.errors import InputError, one_line, require_extra
from alerce_early.serving.arrow import classify_packets, part_schema
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.kafka.append_only_parts import add_part, check_folder, find_end, find_last
from alerce_early.serving.kafka.monitor import Monitor
from alerce_early.serving.options import STREAM

with require_extra("kafka://", "stream"):
    from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
    from confluent_kafka.admin import AdminClient

MAX_MESSAGES = 256  # messages consumed at once: the largest part
MAX_WAIT = 2.0  # seconds to wait for that many messages
BROKER_TIMEOUT = 10.0  # seconds to wait for a broker
LOG_INTERVAL = 60.0  # seconds between two log lines
NO_ID = "A" * 22  # librdkafka's notation of a topic without id, for brokers that do not assign one
Partition = tuple[str, int]  # topic and number


def parse(url: str) -> tuple[str, list[str]]:
    """Split the address of a stream into brokers and topics.

    Parameters
    ----------
    url : str
        ``kafka://HOST:PORT[,HOST:PORT]/TOPIC[,TOPIC]``; ``^PATTERN`` matches several topics.

    Returns
    -------
    str
        The brokers, separated by commas.
    list of str
        The topics.

    Raises
    ------
    InputError
        If the address has another form.
    """
    found = re.fullmatch(rf"{STREAM}([^/\s]+)/(\S+)", url)
    if not found:
        raise InputError(f"{url}: not the address of a stream. Give {STREAM}HOST:PORT/TOPIC[,TOPIC].")
    return found[1], found[2].split(",")


def read_settings(file: Path) -> dict[str, str]:
    """Read a file of librdkafka settings: one NAME=VALUE per line, comments with "#".

    Parameters
    ----------
    file : Path
        The file.

    Returns
    -------
    dict of str to str
        Values by name.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--kafka {file}: cannot be read: {one_line(error)}. Give a text file.") from None
    given = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in given}


class Stream:
    """One consumer of a group, which writes the messages of its partitions to parts.

    Parameters
    ----------
    classifier : Classifier
        The network.
    url : str
        Address of the topics, see `parse`.
    out : Path
        Folder of the parts.
    group : str
        Group of the consumer; the consumers of one group share the partitions.
    settings : mapping of str to str
        librdkafka settings, see `read_settings`.
    to : str, default ""
        Address of a topic that also receives the predictions, as JSON keyed by object.
    schemas : Schemas, optional
        Avro schemas of messages without their schema.

    Attributes
    ----------
    ends : dict of (str, int) to int
        For each assigned partition, the offset at which its parts end.
    monitor : Monitor
        Counts and drift for the log.

    Raises
    ------
    InputError
        If the broker cannot be reached, if parts in the folder have other columns, if the folder cannot be written, or
        if a topic was deleted and created again since its parts were written.
    """

    def __init__(
        self,
        classifier: Classifier,
        url: str,
        out: Path,
        group: str,
        settings: Mapping[str, str],
        to: str = "",
        schemas: Schemas | None = None,
    ):
        self.classifier, self.url, self.out, self.schemas = classifier, url, out, schemas
        self.ends: dict[Partition, int] = {}
        self._gaps: dict[Partition, int] = {}  # first offsets after a gap in the messages
        self._ids: dict[str, str] = {}  # by topic, "" if the broker assigns none
        self._failed: BaseException | None = None  # exception of a callback, raised outside it
        self.monitor = Monitor()
        expected = part_schema(classifier)
        check_folder(out, group, sends=bool(to))
        for part in filter(None, map(find_last, out.glob("*/"))):
            if not part.schema.equals(expected):
                raise InputError(
                    f"--out {out}: {part.path} has other columns than this network's. Choose another --out."
                )
        brokers, topics = parse(url)
        common: dict[str, Any] = {
            "topic.metadata.refresh.interval.ms": 10_000,
            "log_level": 0,
            "error_cb": _warn,
            **settings,
        }
        fixed = {"auto.offset.reset": "error", "enable.auto.commit": False, "bootstrap.servers": brokers}
        fixed["partition.assignment.strategy"] = "range,roundrobin"  # `_assign` expects that all are revoked before
        self.producer: Producer | None = None
        try:
            self.consumer = Consumer({"group.id": group, **common, **fixed})
            self.consumer.list_topics(timeout=BROKER_TIMEOUT)
            self.admin = AdminClient({**common, "bootstrap.servers": brokers})
            self.consumer.subscribe(topics, on_assign=self._assign, on_revoke=self._revoke)
            if to:
                brokers, (self.topic, *_) = parse(to)
                self.producer = Producer({**common, "enable.idempotence": True, "bootstrap.servers": brokers})
        except (KafkaException, TypeError, ValueError) as error:
            raise InputError(f"{url}: {one_line(error)}. Check the address and --kafka.") from None

    def run(self, stopping: Callable[[], bool]) -> None:
        """Classify messages until `stopping` returns True; the current batch is written and committed first.

        Parameters
        ----------
        stopping : callable
            Function without arguments, called between batches.

        Raises
        ------
        InputError
            If the broker fails, refuses a prediction or has lost a topic, or if a part cannot be written.
        """
        print(f"{self.classifier.model} reads {self.url}", flush=True)
        last_line = time.monotonic()
        try:
            while not stopping():
                held: dict[Partition, list[Any]] = {}
                found = self.consumer.consume(MAX_MESSAGES, MAX_WAIT)
                if self._failed:
                    raise self._failed
                message: Any  # its optional attributes are set unless it has an error
                for message in found:
                    if not message.error():
                        held.setdefault((message.topic(), message.partition()), []).append(message)
                    elif message.error().code() == KafkaError._AUTO_OFFSET_RESET:
                        self._find_start((message.topic(), message.partition()))
                    else:
                        _warn(message.error())
                for partition, messages in held.items():
                    self._classify(partition, messages)
                if time.monotonic() - last_line >= LOG_INTERVAL:
                    last_line = time.monotonic()
                    print(f"{len(self.ends)} partitions, lag {self._lag():,}, {self.monitor.describe()}", flush=True)
        except KafkaException as error:
            raise InputError(f"{self.url}: {one_line(error)}. Check the broker and start again.") from None
        finally:
            self.consumer.close()
        print(f"{self.monitor.classified:,} classified, {self.monitor.rejected:,} rejected: {self.out}", flush=True)

    def _classify(self, partition: Partition, messages: Sequence[Any]) -> None:
        """Classify the messages of one partition and write the part that follows the last one."""
        end = self.ends.get(partition)
        if end is None:  # consumed before a rebalance
            return
        new: list[Any] = []
        for message in messages:
            if message.offset() >= (new[-1].offset() + 1 if new else end):
                new.append(message)
        if not new:
            return
        if (first := new[0].offset()) > end and self._gaps.get(partition) != first:
            # Around a rebalance messages can be consumed from a wrong offset. A gap that is found twice is real: its
            # messages were deleted, or the offsets belong to control records.
            self._gaps[partition] = first
            self._seek(partition, end)
            return
        if first > end > 0:
            print(f"warning: {_name(partition)}: offsets {end} to {first - 1} are missing", file=sys.stderr, flush=True)
        network, held = self.classifier, [message.value() or b"" for message in new]
        rows = classify_packets(network, stream.decode(held, self.schemas, network.survey, network.spec.channels))
        names = [
            re.sub(r"^message (\d+)", lambda found: f"{_name(partition)}/{new[int(found[1])].offset()}", source)
            for source in rows["source"].to_pylist()
        ]
        rows = rows.set_column(rows.schema.get_field_index("source"), "source", pyarrow.array(names, pyarrow.string()))
        self._send(rows)
        if add_part(self._folder(partition), end, last := new[-1].offset() + 1, rows, self._ids[partition[0]]):
            self.ends[partition] = last
            self.monitor.add(rows)
            self.consumer.commit(offsets=[TopicPartition(*partition, last)], asynchronous=True)
        else:  # another consumer has the partition; the rebalance will follow
            self.ends[partition] = find_end(self._folder(partition))
            self._seek(partition, self.ends[partition])

    def _send(self, rows: pyarrow.Table) -> None:
        """Send the predictions before their part is written, so that a kill in between cannot lose them."""
        if self.producer is None:
            return
        failed: list[str] = []
        try:
            for row in rows.filter(compute.is_null(rows["rejected"])).drop_columns("rejected").to_pylist():
                plain = {name: None if value != value else value for name, value in row.items()}  # JSON has no NaN
                self.producer.produce(
                    self.topic,
                    json.dumps(
                        plain, default=float
                    ).encode(),  # some versions of pyarrow return float16 as numpy scalars
                    key=row["id"],
                    on_delivery=lambda error, _: failed.append(error.str()) if error else None,
                )
        except KafkaException as error:  # the broker has already said that there is no such topic
            failed.append(one_line(error))
        if self.producer.flush(6 * BROKER_TIMEOUT) or failed:
            reason = failed[0] if failed else "the broker does not respond"
            raise InputError(
                f"--to {self.topic}: predictions cannot be sent: {reason}. Check the topic and the broker."
            )

    def _assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Start the assigned partitions where their parts end."""
        try:
            self._ids = self._find_ids({one.topic for one in partitions})
            for one in partitions:
                one.offset = self.ends[one.topic, one.partition] = self._find_end((one.topic, one.partition))
            consumer.assign(partitions)
        except BaseException as error:
            self._failed = error

    def _find_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the id of each topic, "" if the broker assigns none."""
        described = self.admin.describe_topics(TopicCollection(list(topics)), request_timeout=BROKER_TIMEOUT)
        ids = dict.fromkeys(described, "")
        for topic, future in described.items():
            with suppress(KafkaException):  # some brokers do not support the request
                ids[topic] = str(future.result().topic_id).replace(NO_ID, "")
        return ids

    def _find_end(self, partition: Partition) -> int:
        """Return the offset at which the parts of a partition end; InputError if the topic was created again."""
        last, known = find_last(self._folder(partition)), self._ids[partition[0]]
        if last is None:
            return 0
        if known and last.topic_id:
            if known != last.topic_id:
                raise self._recreated(partition, last.end, "the topic has another id")
        else:
            _, high = self.consumer.get_watermark_offsets(TopicPartition(*partition), timeout=BROKER_TIMEOUT)
            if last.end > high:
                raise self._recreated(partition, last.end, f"the topic ends at {high}")
        return last.end

    def _recreated(self, partition: Partition, end: int, found: str) -> InputError:
        """Return the error for a topic that was deleted and created again."""
        return InputError(
            f"--out {self.out}: its parts of {_name(partition)} end at {end}, but {found}: it was deleted and created "
            "again. Choose another --out."
        )

    def _revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget the revoked partitions."""
        for one in partitions:
            self.ends.pop((one.topic, one.partition), None)

    def _find_start(self, partition: Partition) -> None:
        """Continue at the start of a partition whose next messages were deleted."""
        end = self.ends.get(partition, 0)
        low, high = self.consumer.get_watermark_offsets(TopicPartition(*partition), timeout=BROKER_TIMEOUT)
        if end > high:
            raise self._recreated(partition, end, f"the topic ends at {high}")
        self._gaps[partition] = low = max(low, end)
        # seek fails for a partition that is not being consumed
        self.consumer.assign([TopicPartition(*one, low if one == partition else at) for one, at in self.ends.items()])

    def _seek(self, partition: Partition, offset: int) -> None:
        """Continue a partition at an offset, unless it was revoked."""
        try:
            self.consumer.seek(TopicPartition(*partition, offset))
        except KafkaException:  # revoked
            self.ends.pop(partition, None)

    def _lag(self) -> int:
        """Return the number of unread messages in the assigned partitions, by the latest responses of the broker."""
        return sum(
            max(0, self.consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)[1] - end)
            for partition, end in self.ends.items()
        )

    def _folder(self, partition: Partition) -> Path:
        """Return the folder of a partition."""
        if not re.fullmatch(r"[\w.-]+", partition[0], re.ASCII):
            raise InputError(f"topic {partition[0]!r}: cannot be the name of a folder. Choose another topic.")
        return self.out / f"{partition[0]}-{partition[1]}"


def _name(partition: Partition) -> str:
    """Return TOPIC/PARTITION."""
    return "/".join(map(str, partition))


def _warn(error: KafkaError) -> None:
    """Print an error of the broker, after which librdkafka tries again."""
    print(f"warning: {STREAM} {error.str()}", file=sys.stderr, flush=True)
