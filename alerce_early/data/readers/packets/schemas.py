"""Messages as they come over the wire: Avro without its schema, which is told by a number or is known beforehand.

Confluent's wire format is 0x00, the schema's number as a big-endian int32, and the record. Where the schemas are is
the user's to say: a folder of .avsc files, one such file, or a schema registry. Rubin's numbers are 100 major + minor.
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

LEAD = 5  # bytes before the record
END = ".avsc"
TIMEOUT = 10.0  # seconds to wait for the whole answer of a registry
AGAIN = 5.0  # seconds after which a registry is asked again for a schema that it did not know
MOST = 256  # schemas that are remembered, known or not
LARGEST = 1 << 20  # bytes of a schema
NAMES = (  # of files with the schema of a whole packet: 900.avsc, and lsst.v9_0.alert.avsc with its parts beside it
    (re.compile(r"(\d{1,9})\.avsc"), lambda found: int(found[1])),
    (re.compile(r".*\bv(\d{1,6})_(\d{1,2})\.alert\.avsc"), lambda found: int(found[1]) * 100 + int(found[2])),
)


class Schemas:
    """The schemas of messages by number, each read once; one that a registry lacks is asked for again after a while.

    place: a folder with .avsc files at any depth, one such file, which then is the schema of every message, or the
    http(s) URL of a schema registry. Raises InputError for a place where no schema is.
    """

    def __init__(self, place: str | Path):
        self.place = str(place)
        self.is_registry = re.match("https?://", self.place) is not None
        self._read: dict[int, tuple[bytes | UnreadableError, float]] = {}  # and when
        self._only: Path | None = None
        self._files: dict[int, Path] = {}
        if self.is_registry:
            return
        if Path(place).is_file():
            self._only = Path(place)
            return
        for file in sorted(Path(place).rglob(f"*{END}")):
            for pattern, number in NAMES:
                if found := pattern.fullmatch(file.name):
                    self._files.setdefault(number(found), file)
        if not self._files:
            raise InputError(
                f"schemas {place}: no schema of a packet is there; wanted a folder with files such as 900.avsc or "
                "lsst.v9_0.alert.avsc, one .avsc file, or the URL of a schema registry."
            )

    def takes(self, head: bytes) -> bool:
        """Tell by its first bytes whether a message, which is of no other kind, can be split."""
        return head.startswith(CONFLUENT) or (self._only is not None and head != b"")

    def split(self, message: bytes) -> tuple[bytes, bytes]:
        """Return the JSON of a message's schema, and its record.

        Where there is one schema for all, the number is not looked at and may lack, with the byte before it. Raises
        UnreadableError where there is no such schema, InputError where the registry gives no answer or one of another
        form than a registry's.
        """
        framed = message.startswith(CONFLUENT)
        if framed and len(message) < LEAD:
            raise UnreadableError(f"message is cut short: {len(message)} bytes")
        number = int.from_bytes(message[1:LEAD], "big", signed=True) if framed and not self._only else 0
        now = time.monotonic()
        schema, read = self._read.pop(number, (None, now))
        if schema is None or (self.is_registry and isinstance(schema, UnreadableError) and now - read >= AGAIN):
            schema, read = self._ask(number) if self.is_registry else self._load(number), now
        self._read[number] = schema, read  # the last used is the last to be forgotten
        if len(self._read) > MOST:
            del self._read[next(iter(self._read))]
        if isinstance(schema, UnreadableError):
            raise schema
        return schema, message[LEAD:] if framed else message

    def _load(self, number: int) -> bytes | UnreadableError:
        file = self._only or self._files.get(number)
        if file is None:
            return self._unknown(number)
        try:
            return json.dumps(load_schema(str(file), _write_hint=False)).encode()
        except Exception as error:  # what is no schema may raise nearly anything
            return UnreadableError(f"schema {to_printable(file.name)} cannot be used: {one_line(error)}")

    def _ask(self, number: int) -> bytes | UnreadableError:
        """Ask the registry in a thread: a time limit of a socket begins anew with each byte of a slow answer."""
        found: list[bytes | UnreadableError | InputError] = []
        thread = threading.Thread(target=lambda: found.append(self._fetch(number)), daemon=True)
        thread.start()
        thread.join(TIMEOUT)
        schema = found[0] if found else InputError(f"schemas {self.place} took more than {TIMEOUT:g} s to answer.")
        if isinstance(schema, InputError):
            raise schema
        return schema

    def _fetch(self, number: int) -> bytes | UnreadableError | InputError:
        try:
            with urlopen(f"{self.place.rstrip('/')}/schemas/ids/{number}", timeout=TIMEOUT) as answer:
                schema = json.loads(answer.read(LARGEST))["schema"]
        except HTTPError as error:
            if error.code == 404:
                return self._unknown(number)
            return InputError(f"schemas {self.place} answers {error.code} for schema {number}.")
        except (OSError, HTTPException) as error:
            return InputError(f"schemas {self.place} cannot be reached: {one_line(error)}.")
        except (ValueError, KeyError, TypeError, RecursionError):
            schema = None
        if not isinstance(schema, str):
            return InputError(f"schemas {self.place} gives no answer of a schema registry for schema {number}.")
        return schema.encode()

    def _unknown(self, number: int) -> UnreadableError:
        return UnreadableError(f"schema {number} is not known: it is not among those of {to_printable(self.place)}")
