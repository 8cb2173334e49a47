"""Parts that follow on each other: what several processes may write at once, and any may be killed, without a repeat.

    OUT/TOPIC-PARTITION/FIRST.parquet    messages of one partition that follow on each other, a row for each alert

FIRST is the offset at which the part before it ends, or 0, and in its metadata a part tells where it ends itself. It is
written under another name, synced and linked to its own, which a file system does for one process alone. So of two that
hold the same partition around a rebalance one writes what follows, and the other drops its rows and reads on where
the parts now end: nothing twice, nothing left out. The parts are the truth, whatever a group has committed. Of each
partition the last must stay in place.
"""

import os
import time
from pathlib import Path
from uuid import uuid4

import pyarrow
from pyarrow import parquet

from alerce_early import files

END = b"end"  # of a part, in its metadata: the offset that follows its last
ABANDONED = 3600.0  # seconds after which an unfinished file is nobody's
PATTERN = "[0-9]*.parquet"


def find_end(folder: Path) -> int:
    """Return the offset at which the parts of one partition end, 0 where there are none."""
    for old in folder.glob(".*.partial"):  # of a process that was killed
        if time.time() - old.stat().st_mtime > ABANDONED:
            old.unlink(missing_ok=True)
    last = max(folder.glob(PATTERN), default=None)
    return int(parquet.read_schema(last).metadata[END]) if last else 0


def add_part(folder: Path, first: int, end: int, rows: pyarrow.Table) -> bool:
    """Write the part that begins at this offset; False where there is one already, which stays."""
    path, partial = folder / f"{first:020}.parquet", folder / f".{uuid4().hex}.partial"
    with files.translate_refusals(path, files.ANY, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                parquet.write_table(rows.replace_schema_metadata({END: str(end)}), file)
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, path)
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
    return True
