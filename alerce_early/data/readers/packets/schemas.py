"""Find the schemas of schemaless Avro messages, by schema id or as one fixed schema.

Confluent's wire format is 0x00, the schema id as a big-endian int32, and the record. Schemas come from a folder of
.avsc files, one such file, or a schema registry. Rubin's schema ids are 100 major + minor.
"""

import json
import re
import threading
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from alerce_early.data.raw_files import CONFLUENT
from alerce_early.data.records import UnreadableError
from alerce_early.data.text import to_printable
from alerce_early.errors import InputError, one_line, require_extra

with require_extra("alert packets", "alerts"):
    from fastavro.schema import load_schema

PREFIX_BYTES = 5  # before the record
SUFFIX = ".avsc"
TIMEOUT_SECONDS = 10.0  # for the complete answer of a registry
RETRY_SECONDS = 5.0  # before an unknown schema is requested again from a registry
MAX_CACHED_SCHEMAS = 256  # including ids known to be missing
MAX_SCHEMA_BYTES = 1 << 20  # of one schema
FILE_NAMES = (  # files of a complete packet schema: 900.avsc, or lsst.v9_0.alert.avsc with its parts in the same folder
    (re.compile(r"(\d{1,9})\.avsc"), lambda found: int(found[1])),
    (re.compile(r".*\bv(\d{1,6})_(\d{1,2})\.alert\.avsc"), lambda found: int(found[1]) * 100 + int(found[2])),
)


class Schemas:
    """Cache of message schemas by id.

    Parameters
    ----------
    place : path or str
        A folder with .avsc files at any depth, one .avsc file for all messages, or the URL of a schema registry.

    Raises
    ------
    InputError
        If a folder has no schema.
    """

    def __init__(self, place: str | Path):
        self.place = str(place)
        self.is_registry = re.match("https?://", self.place) is not None
        self._read: dict[int, tuple[bytes | UnreadableError, float]] = {}  # with the time of reading
        self._only: Path | None = None
        self._files: dict[int, Path] = {}
        if self.is_registry:
            return
        if Path(place).is_file():
            self._only = Path(place)
            return
        for file in sorted(Path(place).rglob(f"*{SUFFIX}")):
            for pattern, number in FILE_NAMES:
                if found := pattern.fullmatch(file.name):
                    self._files.setdefault(number(found), file)  # type: ignore[no-untyped-call]
        if not self._files:
            raise InputError(
                f"schemas {place}: no packet schema found. Give a folder with files such as 900.avsc or "
                "lsst.v9_0.alert.avsc, one .avsc file, or the URL of a schema registry."
            )

    def accepts(self, head: bytes) -> bool:
        """Check the first bytes of a message of unknown format for a form that `split` accepts."""
        return head.startswith(CONFLUENT) or (self._only is not None and head != b"")

    def split(self, message: bytes) -> tuple[bytes, bytes]:
        """Split a message into its schema and its record.

        Parameters
        ----------
        message : bytes
            Schema id and record; with one schema for all messages the id is ignored and optional.

        Returns
        -------
        schema : bytes
            Avro schema as JSON.
        record : bytes
            Encoded record.

        Raises
        ------
        UnreadableError
            If the message is truncated or its schema is unknown.
        InputError
            If the registry does not answer, or not like a schema registry.
        """
        framed = message.startswith(CONFLUENT)
        if framed and len(message) < PREFIX_BYTES:
            raise UnreadableError(f"message is cut short: {len(message)} bytes")
        number = int.from_bytes(message[1:PREFIX_BYTES], "big", signed=True) if framed and not self._only else 0
        now = time.monotonic()
        schema, read = self._read.pop(number, (None, now))
        if schema is None or (self.is_registry and isinstance(schema, UnreadableError) and now - read >= RETRY_SECONDS):
            schema, read = self._ask(number) if self.is_registry else self._load(number), now
        self._read[number] = schema, read  # moves it to the end: the least recently used schema is dropped first
        if len(self._read) > MAX_CACHED_SCHEMAS:
            del self._read[next(iter(self._read))]
        if isinstance(schema, UnreadableError):
            raise schema
        return schema, message[PREFIX_BYTES:] if framed else message

    def _load(self, number: int) -> bytes | UnreadableError:
        """Read a schema from its file."""
        file = self._only or self._files.get(number)
        if file is None:
            return self._unknown(number)
        try:
            return json.dumps(load_schema(str(file), _write_hint=False)).encode()
        except Exception as error:  # an invalid schema can raise almost anything
            return UnreadableError(f"schema {to_printable(file.name)} cannot be used: {one_line(error)}")

    def _ask(self, number: int) -> bytes | UnreadableError:
        """Request a schema in a thread, because the timeout of a socket restarts with every byte of a slow answer."""
        found: list[bytes | UnreadableError | InputError] = []
        thread = threading.Thread(target=lambda: found.append(self._fetch(number)), daemon=True)
        thread.start()
        thread.join(TIMEOUT_SECONDS)
        schema = (
            found[0]
            if found
            else InputError(
                f"schemas {self.place}: no answer within {TIMEOUT_SECONDS:g} s. Check that the registry is running."
            )
        )
        if isinstance(schema, InputError):
            raise schema
        return schema

    def _fetch(self, number: int) -> bytes | UnreadableError | InputError:
        """Request a schema from the registry; return errors instead of raising them."""
        try:
            with urlopen(f"{self.place.rstrip('/')}/schemas/ids/{number}", timeout=TIMEOUT_SECONDS) as answer:
                schema = json.loads(answer.read(MAX_SCHEMA_BYTES))["schema"]
        except HTTPError as error:
            if error.code == 404:
                return self._unknown(number)
            return InputError(f"schemas {self.place}: HTTP status {error.code} for schema {number}. Check the URL.")
        except (OSError, HTTPException) as error:
            return InputError(f"schemas {self.place}: cannot be reached: {one_line(error)}. Check the URL.")
        except (ValueError, KeyError, TypeError, RecursionError):
            schema = None
        if not isinstance(schema, str):
            return InputError(
                f"schemas {self.place}: not a schema registry, by its answer for schema {number}. Check the URL."
            )
        return schema.encode()

    def _unknown(self, number: int) -> UnreadableError:
        """Return the error for an unknown schema id."""
        return UnreadableError(f"schema {number} is not known: not found in {to_printable(self.place)}")
