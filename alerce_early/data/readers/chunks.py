"""A few consecutive rows of a long input, and what of them could not be read."""

from dataclasses import dataclass, replace

import numpy as np

from alerce_early.data.records import Records

CUT_SHORT = "archive cannot be read further"  # how the reason begins of what stands for an archive's missing rest


@dataclass(frozen=True)
class Rejected:
    """One row that could not be read or is not wanted.

    source: file, member of an archive, number of the record where it is not the first. key: its candid, "" if
    unknown. reason: in one line; what follows its first colon is about this row alone.
    """

    source: str
    key: str
    reason: str


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of the input.

    records: the readable ones in order, with dense images; None if there is none. keys: (n,) str that name the
    rows, of packets their candids. sources: (n,) str, where each was. rejected: the others. read: rows in all.
    """

    records: Records | None
    keys: np.ndarray
    sources: np.ndarray
    rejected: tuple[Rejected, ...]
    read: int

    def set_aside(self, rows: np.ndarray, reason: str) -> "Chunk":
        """Return the chunk with more of its readable rows, (n,) bool, rejected for this reason."""
        places = zip(self.sources[rows].tolist(), self.keys[rows].tolist(), strict=True)
        rejected = (*self.rejected, *(Rejected(source, key, reason) for source, key in places))
        records = self.records.take(~rows) if self.records and not rows.all() else None
        return replace(self, records=records, keys=self.keys[~rows], sources=self.sources[~rows], rejected=rejected)
