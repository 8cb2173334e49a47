"""SDSS spectra: FITS files and arrays on a common grid."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from alerce_early.data.datamodule import AlertData
from alerce_early.data.readers import sdss
from alerce_early.data.records import UNLABELLED
from alerce_early.data.spectral_grid import CENTRES, EDGES, FIRST, PIXELS, STEP, rebin
from alerce_early.errors import InputError
from alerce_early.report import data_summary
from alerce_early.simulation import sdss as sdss_survey
from alerce_early.simulation.sdss import simulate

RECIPE = [{"_target_": "alerce_early.data.recipe.Renormalise"}]


def write_fits(path: Path, name: str = "QSO", z: float = 2.0, warning: int = 0, ivar: float = 4.0) -> Path:
    """Return a spectrum with the native sampling: flux 1 in the blue half of the grid, 3 in the red."""
    loglam = np.arange(3.55, 4.02, 1e-4)
    flux = np.where(loglam < FIRST + 200 * STEP, 1.0, 3.0)
    table = [
        fits.Column("FLUX", "E", array=flux),
        fits.Column("LOGLAM", "E", array=loglam),
        fits.Column("IVAR", "E", array=np.full(len(flux), ivar)),
    ]
    facts = [
        fits.Column("CLASS", "6A", array=[name]),
        fits.Column("Z", "E", array=[z]),
        fits.Column("ZWARNING", "J", array=[warning]),
    ]
    units = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(table), fits.BinTableHDU.from_columns(facts)]
    fits.HDUList(units).writeto(path)
    return path


def test_the_wavelength_grid() -> None:
    assert PIXELS == 443 and EDGES[0] == pytest.approx(3600) and EDGES[-1] < 10_000 < EDGES[-1] * 10**STEP
    assert (EDGES[:-1] < CENTRES).all() and (EDGES[1:] > CENTRES).all()


def test_rebinning_weights_by_inverse_variance() -> None:
    inside = FIRST + STEP * np.array([0.1, 0.9, 7.5, 9.5, -0.5, PIXELS + 0.5])
    spectrum = rebin(inside, np.array([1.0, 4.0, np.nan, 5.0, 9.0, 9.0]), np.array([2.0, 1.0, 1.0, 0.0, 1.0, 1.0]))
    assert spectrum.shape == (PIXELS, 2)
    assert spectrum[0].tolist() == [2.0, 3.0]
    assert (spectrum[1:] == 0).all()


def test_a_folder_of_fits_spectra_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_fits(tmp_path / "spec-1-1-1.fits", "QSO", z=2.5)
    write_fits(tmp_path / "spec-1-1-2.fits", "STAR", z=0.0, warning=4)
    write_fits(tmp_path / "spec-1-1-3.fits", "GALAXY", ivar=0.0)
    (tmp_path / "spec-1-1-4.fits").write_bytes((tmp_path / "spec-1-1-1.fits").read_bytes()[:9000])
    (tmp_path / "readme.txt").write_text("no spectrum")
    with caplog.at_level(logging.WARNING):
        records = sdss.read(tmp_path)
    assert records.kind == "spectra" and records.images.shape == (2, PIXELS, 2)
    assert records.ids.tolist() == ["spec-1-1-1", "spec-1-1-2"]
    assert [records.classes[label] for label in records.labels] == ["QSO", "STAR"]
    assert records.features.tolist() == [[2.5, 3.0], [0.0, 0.0]]
    assert records.set_aside == {"not a FITS spectrum": 1, "no pixel with weight": 1}
    assert "spec-1-1-4.fits is not a FITS spectrum" in caplog.text
    flux, ivar = records.images[0].T
    assert (flux[:199] == 1).all() and (flux[201:] == 3).all()
    assert ivar.sum() == pytest.approx(4 * 10 * PIXELS, abs=80)  # ten samples of weight 4 in each pixel
    assert len(sdss.read(str(tmp_path / "spec-*-2.fits"))) == len(sdss.read(tmp_path / "spec-1-1-2.fits")) == 1


@pytest.mark.parametrize("ending", ("npz", "pkl"))
def test_files_of_arrays_are_read(tmp_path: Path, ending: str) -> None:
    raw = simulate(20, seed=1)
    raw["spectra"][3, PIXELS:] = 0
    raw["spectra"][4, :2], raw["spectra"][4, PIXELS] = np.nan, 1.0
    path = tmp_path / f"spectra.{ending}"
    if ending == "npz":
        np.savez(path, **raw)
    else:
        path.write_bytes(pickle.dumps(raw))
    records = sdss.read(path)
    assert len(records) == 19 and records.set_aside == {"no pixel with weight": 1}
    assert np.isfinite(records.images).all() and (records.images[3, :2] == 0).all()
    kept = np.arange(20) != 3
    assert [records.classes[label] for label in records.labels] == raw["class"][kept].tolist()
    assert np.array_equal(records.features[:, 1], raw["Z_CONF_PERSON"][kept])


def test_rows_without_class_or_redshift() -> None:
    records = sdss.from_raw({"spectra": np.ones((2, 2 * PIXELS))}, "a test")
    assert (records.labels == UNLABELLED).all() and np.isnan(records.features[:, 0]).all()


def test_invalid_files_raise_an_error(tmp_path: Path) -> None:
    raw = simulate(8, seed=1)
    for change, words in (
        ({"spectra": np.ones((8, 500))}, r"spectra.*\(8, 500\).*\(N, 886\)"),
        ({"spectra": None}, "no spectra"),
        ({"class": ["QSO"] * 7}, r"class.*\(7,\).*\(8,\)"),
        ({"class": ["QSO", "PLANET"] * 4}, "PLANET"),
    ):
        with pytest.raises(InputError, match=words):
            sdss.from_raw({**raw, **change}, "a test")
    with pytest.raises(InputError, match=r"No such \.fits or \.fits\.gz file"):
        sdss.read(tmp_path)
    with pytest.raises(InputError, match=r"data\.path"):
        sdss.read(None)
    np.savez(tmp_path / "objects.npz", spectra=np.array([None]))
    with pytest.raises(InputError, match=r"objects\.npz.*pickled list"):
        sdss.read(tmp_path / "objects.npz")


def test_test_path_is_the_test_split_and_new_files_a_new_store(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    write_fits(folder / "spec-1-1-1.fits")

    def data() -> AlertData:
        return AlertData(
            name="both",
            source={
                "_target_": "alerce_early.simulation.sdss.read",
                "n": 200,
                "seed": 0,
                "test_path": str(folder),
            },
            steps=RECIPE,
            split={"validation": 5, "test": 5},
            keep={"z_conf": [3]},
            groups={"QSO": ["QSO"], "QSO_BAL": ["QSO_BAL"]},
            target="z",
            outputs=str(tmp_path),
        )

    first = data()
    sizes = first.part_sizes()
    assert sizes["test"] == {"QSO": 1, "QSO_BAL": 0} and sizes["validation"] == {"QSO": 5, "QSO_BAL": 5}
    assert first.store.ids[first.parts["test"]].tolist() == ["spec-1-1-1"]
    assert (first.store.features[np.concatenate(list(first.parts.values())), 1] == 3).all()
    first.setup()
    batch = next(iter(first.test_dataloader()))
    assert batch["target"].tolist() == [2.0] and batch["image"].shape == (1, 1, PIXELS)
    write_fits(folder / "spec-1-1-2.fits", z=1.0)
    (folder / "spec-1-1-3.fits").write_text("broken")
    second = data()
    assert second.store.path != first.store.path and second.part_sizes()["test"]["QSO"] == 2
    assert "rejected by the reader: not a FITS spectrum" in data_summary.format_summary(second.store.meta)


def test_options_with_unknown_columns_raise_an_error(tmp_path: Path) -> None:
    source = {"_target_": "alerce_early.simulation.sdss.read", "n": 40, "seed": 0}
    for options, words in (({"target": "redshift"}, "target: no column redshift"), ({"keep": {"x": [1]}}, "keep: no")):
        with pytest.raises(InputError, match=words):
            _ = AlertData(name="x", source=source, steps=RECIPE, outputs=str(tmp_path), **options).labels


def test_a_recipe_for_stamps_is_refused(tmp_path: Path) -> None:
    source = {"_target_": "alerce_early.simulation.sdss.read", "n": 40, "seed": 0}
    steps = [{"_target_": "alerce_early.data.recipe.MinMax"}]
    with pytest.raises(InputError, match="this recipe is not for spectra"):
        _ = AlertData(name="x", source=source, steps=steps, outputs=str(tmp_path)).store


def test_real_spectra(real_data: Path) -> None:
    records = sdss.read(real_data / "spectra")
    assert len(records) == 14 and not records.set_aside
    assert {records.classes[label] for label in records.labels} == {"QSO"}
    assert (records.images[:, :, 1] > 0).mean() > 0.95
    assert records.features[:, 0].min() > 0.5 and records.features[:, 0].max() < 3.2


def test_simulated_records_name_their_origin() -> None:
    assert sdss_survey.read(8, 3).origin == "8 simulated spectra, seed 3"


def test_spectra_of_one_thing_id_or_position_are_one_object(tmp_path: Path) -> None:
    for name, thing, ra in (("a", 7, 10.0), ("b", 7, 50.0), ("c", -1, 10.0001), ("d", -1, 20.0), ("e", -1, None)):
        with fits.open(write_fits(tmp_path / f"{name}.fits")) as units:
            columns = [*units[2].columns, fits.Column("THING_ID", "J", array=[thing])]
            units[2] = fits.BinTableHDU.from_columns(columns)
            if ra is not None:
                units[0].header["PLUG_RA"], units[0].header["PLUG_DEC"] = ra, 0.0
            units.writeto(tmp_path / f"{name}.fits", overwrite=True)
    assert sdss.read(tmp_path).ids.tolist() == ["7", "7", "7", "d", "e"]
    raw = {"spectra": np.ones((4, 2 * PIXELS)), "THING_ID": [5, 5, 0, -1]}
    assert sdss.from_raw(raw, "a test").ids.tolist() == ["5", "5", "row2", "row3"]
    assert (
        sdss.from_raw(raw | {"PLUG_RA": [1, 2, 3, 3], "PLUG_DEC": [0.0] * 4}, "a test").ids[2:].tolist() == ["row2"] * 2
    )
    with pytest.raises(InputError, match="thing_id"):
        sdss.from_raw(raw | {"THING_ID": [5]}, "a test")
