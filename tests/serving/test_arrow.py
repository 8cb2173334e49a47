"""Classify Arrow rows: the same predictions as `predict`, one row per alert, in order."""

from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import alerce_early
from alerce_early.artifacts.run_folder import Run
from alerce_early.data.readers import stamps_file
from alerce_early.data.readers.packets.fits_cutout import image
from alerce_early.data.records import TOO_LITTLE
from alerce_early.errors import InputError
from alerce_early.serving import inputs
from alerce_early.serving.arrow import classify_arrow, prediction_schema
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.predict import predict
from alerce_early.serving.runtimes import Facts
from alerce_early.simulation import packets as simulated_packets
from tests.helpers.networks import constant
from tests.helpers.tiny import spec

N = 270  # more than one batch


@pytest.fixture(scope="module")
def packets() -> list[dict[str, Any]]:
    return [packet for packet, _ in simulated_packets.alerts(N, pool_size=60)]


@pytest.fixture(scope="module")
def classifier(finished_run: Run) -> Classifier:
    return alerce_early.load(finished_run.path)


def rows_of(packets: list[dict[str, Any]]) -> pyarrow.RecordBatch:
    return pyarrow.Table.from_pylist(packets).combine_chunks().to_batches()[0]


def test_predictions_equal_those_of_predict(
    packets: list[dict[str, Any]], classifier: Classifier, tmp_path: Path
) -> None:
    """Bit-identical for Avro files and rows, with cutouts in a struct, as bytes or as pixels, and with more columns."""
    with (tmp_path / "night.avro").open("wb") as file:
        fastavro.writer(file, simulated_packets.SCHEMA, packets)
    predict(classifier, inputs.find([tmp_path / "night.avro"], classifier.spec), tmp_path / "table.parquet")
    table = parquet.read_table(tmp_path / "table.parquet").drop_columns(["source", "label"])
    flat = [
        {**packet, "more": 1.0, **{name: packet[name]["stampData"] for name in packet if name.startswith("cutout")}}
        for packet in packets
    ]
    pixels = {p[n]["stampData"]: image(p[n]["stampData"]) for p in packets for n in p if n.startswith("cutout")}
    arrays = [
        {name: pixels[held].tolist() if name.startswith("cutout") else held for name, held in packet.items()}
        for packet in flat
    ]
    lists = [
        {name: pixels[held].ravel().tolist() if name.startswith("cutout") else held for name, held in packet.items()}
        for packet in flat
    ]
    for rows in (rows_of(packets), rows_of(flat), rows_of(arrays), rows_of(lists)):
        found = classify_arrow(rows, classifier)
        assert found.schema == prediction_schema(classifier) and found["rejected"].null_count == N
        assert pyarrow.Table.from_batches([found]).drop_columns("rejected") == table.replace_schema_metadata(None)
    whole = pyarrow.Table.from_batches([found])
    pieces = [classify_arrow(rows_of(packets).slice(start, 7), classifier) for start in range(0, N, 7)]
    for name, column in pyarrow.Table.from_batches(pieces).to_pydict().items():
        if whole[name].type == pyarrow.string():
            assert column == whole[name].to_pylist()
        else:
            assert column == pytest.approx(whole[name].to_pylist(), abs=1e-6, nan_ok=True)


def test_rejected_rows_keep_their_position_and_have_a_reason(packets: list[dict[str, Any]]) -> None:
    """Every row is either classified or rejected."""
    facts = spec(classes=("SN", "rest"), raw_shape=(3, 63, 63), channels=stamps_file.CHANNELS, min_share=0.25)

    def run(stamps: np.ndarray, metadata: np.ndarray | None) -> dict[str, np.ndarray]:
        broken = np.isinf(stamps).any((1, 2, 3))
        return {name: np.where(broken, np.nan, 0.5).astype(np.float32) for name in ("p_SN", "p_rest")}

    classifier = Classifier([(Facts("0" * 12, facts, ("p_SN", "p_rest")), run)], "torch")
    some = [dict(packet) for packet in packets[:6]]
    some[1]["cutoutTemplate"] = None
    some[2]["candid"] = None
    for i, value in ((3, np.nan), (4, np.inf)):
        stamp = np.ones((63, 63), np.float32)
        stamp[slice(None) if i == 3 else 0] = value
        stamp[0, 1] = 1
        content = simulated_packets.gzipped_fits(stamp)
        some[i] |= {name: {"stampData": content} for name in some[i] if name.startswith("cutout")}
    some[5] |= {"candid": packets[0]["candid"]}  # duplicates are not detected here
    found = classify_arrow(rows_of(some), classifier)
    keys = [str(packet["candid"]) if packet["candid"] else None for packet in some]
    assert found["candid"].to_pylist() == keys
    assert found["rejected"].to_pylist() == [
        *(None, "cutoutTemplate is missing", "candid is missing", TOO_LITTLE),
        *("the output of the network is not finite", None),
    ]
    assert found["q_SN"].to_pylist() == [0.5, None, None, None, None, 0.5]
    assert found["predicted"].null_count == 4 and found["model"].null_count == 4
    for rows in (rows_of(some[1:3]), rows_of(some).slice(0, 0)):
        nothing = classify_arrow(rows, classifier)
        assert nothing.schema == found.schema and len(nothing) == len(rows) == nothing["q_SN"].null_count


def retyped(rows: pyarrow.RecordBatch, **kinds: pyarrow.DataType) -> pyarrow.RecordBatch:
    """Return the rows with some columns of other types."""
    for name, kind in kinds.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].cast(kind))
    return rows


def test_columns_can_have_the_types_that_engines_use(packets: list[dict[str, Any]], tmp_path: Path) -> None:
    """Text and bytes as views, candids as text or decimals, ids as categories, and a Table instead of a batch."""
    network, some = constant("SN", "rest"), packets[:5]
    flat = rows_of(
        [{**p, **{n: p[n]["stampData"] for n in p if n.startswith("cutout")}, "prv_candidates": None} for p in some]
    )
    wanted = classify_arrow(flat, network)
    assert wanted["rejected"].null_count == len(some)
    view = pyarrow.binary_view()
    texts = {"objectId": pyarrow.string_view(), "cutoutScience": view, "cutoutTemplate": view, "cutoutDifference": view}
    assert classify_arrow(retyped(flat, **texts), network) == wanted
    for kind in (pyarrow.string(), pyarrow.decimal128(20, 0)):
        assert classify_arrow(retyped(flat, candid=kind), network) == wanted
    names = flat.set_column(flat.schema.get_field_index("objectId"), "objectId", flat["objectId"].dictionary_encode())
    assert classify_arrow(names, network) == wanted
    assert classify_arrow(pyarrow.Table.from_batches([flat.slice(0, 2), flat.slice(2)]), network) == wanted


def test_a_column_of_an_unusable_type_is_named(packets: list[dict[str, Any]]) -> None:
    """A float, for example, loses the last digits of a candid."""
    rows = rows_of(packets[:3])
    for name, kind in (("candid", pyarrow.float64()), ("candidate", pyarrow.string())):
        values = pyarrow.nulls(3, kind)
        changed = rows.set_column(rows.schema.get_field_index(name), name, values)
        with pytest.raises(InputError, match=rf"{name} .*{kind}"):
            classify_arrow(changed, constant("SN", "rest"))
    with pytest.raises(InputError, match="list"):
        classify_arrow(packets[:3], constant("SN", "rest"))  # type: ignore[arg-type]


def test_rows_that_are_not_packets_are_refused(packets: list[dict[str, Any]], finished_run: Run) -> None:
    with pytest.raises(InputError, match="no column candid, cutoutDifference"):
        classify_arrow(
            pyarrow.RecordBatch.from_pylist([{n: 1 for n in packets[0] if n not in ("candid", "cutoutDifference")}]),
            constant("SN", "rest"),
        )
    spectra = Facts("0" * 12, spec(classes=("SN", "rest"), raw_shape=(2, 99), kind="spectra"), ("p_SN", "p_rest"))
    with pytest.raises(InputError, match=r"spectra .* alert packets"):
        prediction_schema(Classifier([(spectra, lambda *_: {})], "torch"))
