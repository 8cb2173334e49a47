"""Real alert packets, compared with fastavro and astropy."""

import gzip
import io
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from astropy.io import fits

from alerce_early.data.readers.packets import stream
from alerce_early.data.readers.stamps_file import COLUMNS
from alerce_early.errors import InputError


def by_the_libraries(file: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read a packet with fastavro and astropy."""
    with file.open("rb") as content:
        (packet,) = fastavro.reader(content)
    stamps = []
    for name in ("cutoutScience", "cutoutTemplate", "cutoutDifference"):
        with fits.open(io.BytesIO(gzip.decompress(packet[name]["stampData"]))) as units:
            stamps.append(units[0].data)
    return packet, stamps


@pytest.mark.filterwarnings("ignore:.*SIMPLE card.*")
def test_real_packets_equal_those_of_fastavro_and_astropy(real_data: Path) -> None:
    folder = real_data / "alerts"
    (chunk,) = stream.stream([folder])
    assert chunk.records is not None
    assert chunk.read == 68 and len(chunk.records) == 62
    assert len(chunk.rejected) == 6 and all("63 x 63" in packet.reason for packet in chunk.rejected)
    columns = dict(zip(COLUMNS, chunk.records.features.T, strict=True))
    for row, source in enumerate(chunk.sources):
        packet, stamps = by_the_libraries(Path(source))
        assert chunk.keys[row] == str(packet["candid"]) and chunk.records.ids[row] == packet["objectId"]
        wanted = np.stack(stamps, axis=-1).astype("<f4")
        assert np.asarray(chunk.records.images[row]).tobytes() == wanted.tobytes()  # bit for bit, including NaN
        for name, value in packet["candidate"].items():
            if name in columns and name != "isdiffpos":
                assert columns[name][row] == (-999 if value is None else value)
        assert columns["isdiffpos"][row] == {"t": 0, "f": 1}[packet["candidate"]["isdiffpos"]]
    labelled = stream.read(folder)
    assert np.bincount(labelled.labels[labelled.labels >= 0]).tolist() == [10, 10, 10, 10, 9]


def test_real_cutouts_at_the_edge_of_a_chip_are_padded(real_data: Path) -> None:
    """The source stays in the centre: the difference image peaks there."""
    (whole,), (padded,) = (stream.stream([real_data / "alerts"], pad_edges=pad) for pad in (False, True))
    assert padded.records is not None and whole.records is not None and not padded.rejected
    added = ~np.isin(padded.keys, whole.keys)
    images = np.asarray(padded.records.images)
    assert images[~added].tobytes() == np.asarray(whole.records.images).tobytes() and added.sum() == 6
    lacking = np.isnan(images[added]).all(-1)
    assert ((lacking.all(1) | lacking.all(2)).any(1)).all()
    middle = np.abs(images[added][:, 26:37, 26:37, 2]).reshape(6, -1)
    assert np.abs(np.stack(np.unravel_index(middle.argmax(1), (11, 11))) - 5).max() <= 1


def test_samples_of_a_pipeline_are_read(real_data: Path) -> None:
    """42 alerts in one container with Snappy blocks and uncompressed FITS cutouts."""
    (chunk,) = stream.stream([real_data / "ztf_snappy.avro"])
    assert chunk.read == len(chunk.keys) + len(chunk.rejected) == 42 and chunk.records is not None
    assert len(set(chunk.keys)) == len(chunk.keys) and np.isfinite(chunk.records.images).mean() > 0.9


def test_a_message_without_a_schema_is_rejected(real_data: Path) -> None:
    (chunk,) = stream.stream([real_data / "rubin" / "wire"])
    assert chunk.read == len(chunk.rejected) == 1 and "Confluent" in chunk.rejected[0].reason


@pytest.mark.parametrize("kind", ("sci", "sci-one", "float"))
def test_real_labels_with_rounded_ids_are_refused(real_data: Path, kind: str) -> None:
    with pytest.raises(InputError, match="candid holds 1"):
        stream.read(real_data / "cases" / "07-candid-through-a-spreadsheet" / kind)


@pytest.mark.parametrize(
    ("place", "labels"),
    (
        ("07-candid-through-a-spreadsheet/bom", [0, 1, 2]),
        ("07-candid-through-a-spreadsheet/blank", [0, 1, 2]),
        ("08-bts-table-as-labels/*.avro", [1, 1, 0]),
        ("08-bts-table-as-labels/renamed", [1, 1, 0]),
    ),
)
def test_real_tables_of_labels_are_read(real_data: Path, place: str, labels: list[int]) -> None:
    folder = real_data / "cases" / place
    beside = (folder.parent if folder.suffix else folder) / "labels.csv"
    records = stream.read(folder, beside)
    assert records.labels.tolist() == labels and not records.unmatched_labels
