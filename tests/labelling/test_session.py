"""A labelling session: reading alerts, their metadata and stamps, and the order of its queue."""

from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.time import Time

from alerce_early.artifacts import predictions
from alerce_early.errors import InputError
from alerce_early.labelling import alerts, queues
from alerce_early.labelling.alerts import Night
from alerce_early.labelling.labels_file import SKIP, LabelsFile
from alerce_early.labelling.session import BATCH, Session
from alerce_early.serving import inputs
from alerce_early.serving.classifier import load
from alerce_early.serving.predict import predict
from alerce_early.simulation import packets

N = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the archive of a night and its predictions table."""
    path = tmp_path_factory.mktemp("session")
    packets.write(path / "night.tar.gz", N, seed=6)
    network = load("ztf_simulated")
    predict(network, inputs.find([path / "night.tar.gz"], network.spec), path / "night.parquet")
    return path


@pytest.fixture(scope="module")
def night(folder: Path) -> Night:
    models = [alerts.open_network(name) for name in ("ztf_simulated", "ztf_simulated_metadata")]
    return alerts.classify(models, inputs.find([folder / "night.tar.gz"], models[0].spec))


def session_of(night: Night, path: Path, **options: object) -> Session:
    stamps = np.zeros((len(night.keys), 3, 5, 5), np.float16)
    return Session(night, stamps, LabelsFile(path / "labels.csv", "ana", night.classes), **options)  # type: ignore[arg-type]


def test_a_table_with_packets_gives_the_same_alerts_as_classifying(folder: Path, night: Night) -> None:
    read = alerts.read_table(folder / "night.parquet", [str(folder / "night.tar.gz")])
    assert read.keys == night.keys and read.classes == night.classes
    assert read.members[0][0] == night.members[0][0] and night.model.count("+") == 1
    np.testing.assert_allclose(read.probabilities[0], night.probabilities[0], atol=1e-6)
    assert predictions.EMBEDDING in night.table and read.embeddings.shape == (len(read.keys), 5)
    stamps = read.read_stamps()
    assert stamps.shape == (len(read.keys), 3, 63, 63) and stamps.dtype == np.float16
    np.testing.assert_array_equal(stamps[[5, 2]], read.take(np.array([5, 2])).read_stamps())
    other = folder / "other.parquet"
    table = predictions.read(folder / "night.parquet")
    predictions.write(other, table | {"candid": np.array([f"{key}9" for key in table["candid"]])})
    with pytest.raises(InputError, match="--packets"):
        alerts.read_table(other, [str(folder / "night.tar.gz")]).read_stamps()
    with pytest.raises(InputError, match=r"labels\.parquet"):
        predictions.write(folder / "labels.parquet", {"candid": table["candid"]})
        alerts.read_table(folder / "labels.parquet", [str(folder / "night.tar.gz")])


def test_a_large_night_is_reduced_to_random_and_first_rows(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "MAX_ALERTS", 20)
    kept = alerts.narrow(night, "probable", 1, 0.1)
    drawn = np.array(night.keys)[queues.reserve(night.keys, 0.1)]
    assert len(kept.keys) == 20 and set(kept.keys) > set(drawn)
    best = kept.probabilities.mean(0)[len(drawn) :, 1]
    left = ~np.isin(night.keys, kept.keys)
    assert best.min() >= night.probabilities.mean(0)[left, 1].max() and (np.diff(best) <= 0).all()
    assert set(np.array(kept.keys)[queues.reserve(kept.keys, 0.1)]) <= set(drawn)


def test_a_session_offers_each_alert_once_and_records_its_queue(night: Night, tmp_path: Path) -> None:
    session = session_of(night, tmp_path, share=0.25)
    drawn = set(queues.reserve(night.keys, 0.25).tolist())
    first = session.upcoming("disagree")
    assert sum(one["queue"] == "random" for one in first) == BATCH // 4
    assert session.upcoming("disagree") == first  # a second call changes nothing
    seen = []
    while found := session.upcoming("disagree"):
        seen.append(found[0])
        session.label(found[0]["row"], SKIP if len(seen) % 2 else "SN", "disagree")
    assert sorted(one["row"] for one in seen) == list(range(len(night.keys)))
    assert {one["row"] for one in seen if one["queue"] == "random"} == drawn
    rows = (tmp_path / "labels.csv").read_text().splitlines()[1:]
    assert sum(",random," in row for row in rows) == len(drawn) and len(rows) == len(night.keys)
    again = session_of(night, tmp_path, share=0.25)
    assert not again.upcoming("uncertain") and again.progress()["left"] == 0
    row = again.undo()["row"]
    assert row == seen[-1]["row"] and [one["row"] for one in again.upcoming("diverse")] == [row]


def test_similar_alerts_start_with_the_nearest(night: Night, tmp_path: Path) -> None:
    session = session_of(night, tmp_path, share=0)
    found = [one["row"] for one in session.upcoming("similar", 7)]
    distance = np.linalg.norm(night.embeddings - night.embeddings[7], axis=1)
    distance[7] = np.inf
    assert distance[found[0]] == distance.min() and 7 not in found
    assert session.upcoming("similar", 7)[0]["queue"] == f"similar {night.keys[7]}"
    for strategy, target in (("best", 0), ("probable", 5), ("similar", len(night.keys)), ("margin", -1)):
        with pytest.raises(InputError, match="queue"):
            session.upcoming(strategy, target)


def test_dates_and_positions_agree_with_astropy() -> None:
    rng = np.random.default_rng(3)
    for ra, dec in [
        *rng.uniform((0, -90), (360, 90), (50, 2)),
        (359.999999, -0.00001),
        (15 * 59.999999 / 60, 89.999999),
    ]:
        place = alerts.format_position(ra, dec)
        back = SkyCoord(place, unit=(units.hourangle, units.deg))
        assert back.separation(SkyCoord(ra, dec, unit="deg")).arcsec < 0.15
        assert "60" not in place.replace("+", ":").replace("-", ":").replace(".", ":").split(":")[1:3]
    assert (
        alerts.format_date(2_461_043.67512) == f"{Time(2_461_043.67512, format='jd').iso[:16]} UTC (JD 2461043.67512)"
    )
    assert alerts.format_date(1e300) == "JD 1e+300"


def test_shrunk_stamps_keep_faint_bright_and_missing_pixels() -> None:
    rng = np.random.default_rng(4)
    stamp = rng.normal(0, (10, 5, 12), (63, 63, 3)).transpose(2, 0, 1).astype(np.float32)
    stamp[0] += 300
    stamp[:, 31, 31] += 1e5
    stamp[1, 0, 0], stamp[1, 0, 1] = np.nan, -3.4e38
    small = alerts.shrink(stamp)
    assert small.dtype == np.float16 and np.isnan(small[1, 0, :2]).all() and np.isfinite(small).sum() == 3 * 63**2 - 2
    scatter = [1.4826 * np.nanmedian(np.abs(plane)) for plane in small.astype(float)]
    np.testing.assert_allclose(scatter, (1, 0.5, 1.2), rtol=0.05)  # about the median
    assert small[2, 31, 31] == pytest.approx(1e5 / 10, rel=0.05)
    levels = alerts.find_levels(small)
    assert set(levels) == set(alerts.STRETCHES) and all(len(ends) == 4 for ends in levels.values())
    assert all(low < high for ends in levels.values() for low, high in ends)
    assert alerts.shrink(np.full((3, 5, 5), np.nan)).shape == (3, 5, 5)
    assert alerts.find_levels(np.full((3, 5, 5), np.nan, np.float16))["zscale"] == [(0.0, 1.0)] * 4
