"""Alerts from Kafka, classified as they come, by any number of processes that share the partitions of a topic.

Every message comes once into the files of a folder, see `append_only_parts`. Into a topic it comes once or, where a
process was killed, again: an answer is sent before its part is there.
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
from alerce_early.serving.arrow import answer, part_schema
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.kafka.append_only_parts import add_part, check_folder, find_end, find_last
from alerce_early.serving.kafka.monitor import Monitor
from alerce_early.serving.options import STREAM

with require_extra("kafka://", "stream"):
    from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
    from confluent_kafka.admin import AdminClient

AT_ONCE = 256  # messages taken together, which makes the largest part
PAUSE = 2.0  # seconds to wait for so many
PATIENCE = 10.0  # seconds for a broker to answer
MINUTE = 60.0  # seconds between two lines
NO_ID = "A" * 22  # of the topics of a broker that gives them none, as librdkafka writes it
Place = tuple[str, int]  # topic and partition


def parse(url: str) -> tuple[str, list[str]]:
    """Split kafka://HOST:PORT[,HOST:PORT]/TOPIC[,TOPIC] into brokers and topics, of which ^PATTERN is several."""
    found = re.fullmatch(rf"{STREAM}([^/\s]+)/(\S+)", url)
    if not found:
        raise InputError(f"{url}: wanted {STREAM}HOST:PORT/TOPIC[,TOPIC].")
    return found[1], found[2].split(",")


def read_settings(file: Path) -> dict[str, str]:
    """Read a file of librdkafka's settings, as Kafka's own tools do: NAME=VALUE a line, "#" before a remark."""
    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--kafka {file} cannot be read: {one_line(error)}.") from None
    given = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in given}


class Stream:
    """One consumer of a group: what it was assigned, from its messages to parts.

    settings: of librdkafka. to: the producer and topic of the answers. Raises InputError where the broker cannot be
    reached, the folder holds the parts of something else or cannot take more of them, or a topic was made anew since
    they were written.
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
        self.ends: dict[Place, int] = {}  # of the partitions that are ours, where their parts end
        self._gaps: dict[Place, int] = {}
        self._ids: dict[str, str] = {}  # of the topics, as far as the broker gives them one
        self._failed: BaseException | None = None  # in a callback, out of which nothing may be raised
        self.monitor = Monitor()
        wanted = part_schema(classifier)
        check_folder(out, group, sends=bool(to))
        for part in filter(None, map(find_last, out.glob("*/"))):
            if not part.schema.equals(wanted):
                raise InputError(
                    f"--out {out}: {part.path} has other columns than this network's. Choose another --out."
                )
        brokers, topics = parse(url)
        usual: dict[str, Any] = {
            "topic.metadata.refresh.interval.ms": 10_000,
            "log_level": 0,
            "error_cb": _warn,
            **settings,
        }
        fixed = {"auto.offset.reset": "error", "enable.auto.commit": False, "bootstrap.servers": brokers}
        fixed["partition.assignment.strategy"] = "range,roundrobin"  # `_assign` is for those that revoke all at once
        self.producer: Producer | None = None
        try:
            self.consumer = Consumer({"group.id": group, **usual, **fixed})
            self.consumer.list_topics(timeout=PATIENCE)
            self.admin = AdminClient({**usual, "bootstrap.servers": brokers})
            self.consumer.subscribe(topics, on_assign=self._assign, on_revoke=self._revoke)
            if to:
                brokers, (self.topic, *_) = parse(to)
                self.producer = Producer({**usual, "enable.idempotence": True, "bootstrap.servers": brokers})
        except (KafkaException, TypeError, ValueError) as error:
            raise InputError(f"{url}: {one_line(error)}.") from None

    def run(self, stopping: Callable[[], bool]) -> None:
        """Classify until asked to stop, which is when a batch is whole and committed."""
        print(f"{self.classifier.model} takes {self.url}", flush=True)
        told = time.monotonic()
        try:
            while not stopping():
                held: dict[Place, list[Any]] = {}
                found = self.consumer.consume(AT_ONCE, PAUSE)
                if self._failed:
                    raise self._failed
                message: Any  # of which all that may be None is there where there is no error
                for message in found:
                    if not message.error():
                        held.setdefault((message.topic(), message.partition()), []).append(message)
                    elif message.error().code() == KafkaError._AUTO_OFFSET_RESET:
                        self._find_start((message.topic(), message.partition()))
                    else:
                        _warn(message.error())
                for place, messages in held.items():
                    self._take(place, messages)
                if time.monotonic() - told >= MINUTE:
                    told = time.monotonic()
                    print(f"{len(self.ends)} partitions, lag {self._lag():,}, {self.monitor.describe()}", flush=True)
        except KafkaException as error:
            raise InputError(f"{self.url}: {one_line(error)}.") from None
        finally:
            self.consumer.close()
        print(f"{self.monitor.classified:,} classified, {self.monitor.rejected:,} rejected: {self.out}", flush=True)

    def _take(self, place: Place, messages: Sequence[Any]) -> None:
        """Classify messages of one partition and write their part, as far as they follow on the one before it."""
        end = self.ends.get(place)
        if end is None:  # fetched before a rebalance
            return
        fresh: list[Any] = []
        for message in messages:
            if message.offset() >= (fresh[-1].offset() + 1 if fresh else end):
                fresh.append(message)
        if not fresh:
            return
        if (first := fresh[0].offset()) > end and self._gaps.get(place) != first:
            self._gaps[place] = first  # believed when seen twice: what is missing was deleted or is no message
            self._seek(place, end)
            return
        if first > end > 0:
            print(f"warning: {_name(place)}: offsets {end} to {first - 1} are not there", file=sys.stderr, flush=True)
        network, held = self.classifier, [message.value() or b"" for message in fresh]
        rows = answer(network, stream.decode(held, self.schemas, network.survey, network.spec.channels))
        names = [
            re.sub(r"^message (\d+)", lambda found: f"{_name(place)}/{fresh[int(found[1])].offset()}", source)
            for source in rows["source"].to_pylist()
        ]
        rows = rows.set_column(rows.schema.get_field_index("source"), "source", pyarrow.array(names, pyarrow.string()))
        self._send(rows)
        if add_part(self._folder(place), end, last := fresh[-1].offset() + 1, rows, self._ids[place[0]]):
            self.ends[place] = last
            self.monitor.add(rows)
            self.consumer.commit(offsets=[TopicPartition(*place, last)], asynchronous=True)
        else:  # another consumer has it, as this one will hear
            self.ends[place] = find_end(self._folder(place))
            self._seek(place, self.ends[place])

    def _send(self, rows: pyarrow.Table) -> None:
        """Send the answers before their part is there, so that a kill in between sends them again."""
        if self.producer is None:
            return
        failed: list[KafkaError] = []
        for row in rows.filter(compute.is_null(rows["rejected"])).drop_columns("rejected").to_pylist():
            plain = {name: None if value != value else value for name, value in row.items()}  # JSON has no NaN
            self.producer.produce(
                self.topic,
                json.dumps(plain, default=float).encode(),  # some pyarrow leave float16 as numpy has it
                key=row["id"],
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
        if self.producer.flush(6 * PATIENCE) or failed:
            raise InputError(f"--to {self.topic}: {failed[0].str() if failed else 'the broker does not take them'}.")

    def _assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        try:
            self._ids = self._find_ids({one.topic for one in places})
            for one in places:
                one.offset = self.ends[one.topic, one.partition] = self._find_end((one.topic, one.partition))
            consumer.assign(places)
        except BaseException as error:
            self._failed = error

    def _find_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the id of each topic, "" where the broker gives it none."""
        asked = self.admin.describe_topics(TopicCollection(list(topics)), request_timeout=PATIENCE)
        ids = dict.fromkeys(asked, "")
        for topic, future in asked.items():
            with suppress(KafkaException):  # of a broker that does not know the question
                ids[topic] = str(future.result().topic_id).replace(NO_ID, "")
        return ids

    def _find_end(self, place: Place) -> int:
        """Return where the parts of a partition end; raises InputError if it is another than the one they are of."""
        last, known = find_last(self._folder(place)), self._ids[place[0]]
        if last is None:
            return 0
        if known and last.topic_id:
            if known != last.topic_id:
                raise self._made_anew(place, last.end, "the topic has another id")
        else:
            _, high = self.consumer.get_watermark_offsets(TopicPartition(*place), timeout=PATIENCE)
            if last.end > high:
                raise self._made_anew(place, last.end, f"the topic at {high}")
        return last.end

    def _made_anew(self, place: Place, end: int, found: str) -> InputError:
        return InputError(
            f"--out {self.out}: its parts of {_name(place)} end at {end}, and {found}: it was made anew. Choose "
            "another --out."
        )

    def _revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        for one in places:
            self.ends.pop((one.topic, one.partition), None)

    def _find_start(self, place: Place) -> None:
        """Go on where a topic begins that no longer has what follows on the parts."""
        end = self.ends.get(place, 0)
        low, high = self.consumer.get_watermark_offsets(TopicPartition(*place), timeout=PATIENCE)
        if end > high:
            raise self._made_anew(place, end, f"the topic at {high}")
        self._gaps[place] = low = max(low, end)
        # not by seek, which a partition that is not being read refuses
        self.consumer.assign([TopicPartition(*one, low if one == place else at) for one, at in self.ends.items()])

    def _seek(self, place: Place, offset: int) -> None:
        try:
            self.consumer.seek(TopicPartition(*place, offset))
        except KafkaException:  # it is no longer ours
            self.ends.pop(place, None)

    def _lag(self) -> int:
        """Return how many messages wait in the partitions that are ours, as far as the last answers tell."""
        return sum(
            max(0, self.consumer.get_watermark_offsets(TopicPartition(*place), cached=True)[1] - end)
            for place, end in self.ends.items()
        )

    def _folder(self, place: Place) -> Path:
        if not re.fullmatch(r"[\w.-]+", place[0], re.ASCII):
            raise InputError(f"topic {place[0]!r} is no name of a folder.")
        return self.out / f"{place[0]}-{place[1]}"


def _name(place: Place) -> str:
    return "/".join(map(str, place))


def _warn(error: KafkaError) -> None:
    print(f"warning: {STREAM} {error.str()}", file=sys.stderr, flush=True)
