"""Simulated survey: format, determinism, metadata and the physics that a classifier uses."""

import numpy as np
import pytest

from alerce_early.data.coordinates import to_ecliptic, to_galactic
from alerce_early.data.readers.stamps_file import CLASSES, COLUMNS
from alerce_early.data.records import MAX_PIXEL_VALUE
from alerce_early.errors import InputError
from alerce_early.simulation import settings, sky
from alerce_early.simulation.camera import observe
from alerce_early.simulation.metadata import nearest
from alerce_early.simulation.painting import SIDE
from alerce_early.simulation.settings import COUNTS, find_epoch
from alerce_early.simulation.survey import simulate

N = 3000
AGN, SN, VS, ASTEROID, BOGUS = range(len(CLASSES))


@pytest.fixture(scope="module")
def survey():
    return simulate(N, seed=1)


@pytest.fixture(scope="module")
def full(survey):
    """Return the stamps of full size (n, 63, 63, 3) and their labels."""
    kept = [i for i, stamp in enumerate(survey["images"]) if stamp.shape == (SIDE, SIDE, 3)]
    return np.stack([survey["images"][i] for i in kept]), survey["labels"][kept]


def column(survey, name):
    return survey["metadata"][:, COLUMNS.index(name)]


def robust_noise(images):
    """Median absolute deviation of each image (n, 63, 63), scaled to a standard deviation."""
    flat = images.reshape(len(images), -1)
    return 1.4826 * np.nanmedian(np.abs(flat - np.nanmedian(flat, axis=1, keepdims=True)), axis=1)


def central_excess(images):
    """Mean of the central 3 x 3 pixels above the median, in units of the image's noise."""
    middle = images[:, 30:33, 30:33].mean(axis=(1, 2))
    return (middle - np.nanmedian(images, axis=(1, 2))) / robust_noise(images)


def test_format(survey):
    assert list(survey) == ["images", "labels", "metadata", "oid"]
    assert len(survey["images"]) == len(survey["oid"]) == len(set(survey["oid"])) == N
    assert all(stamp.dtype == np.float32 and stamp.shape[2] == 3 for stamp in survey["images"])
    assert survey["labels"].dtype == np.int64 and survey["labels"].shape == (N,)
    assert survey["metadata"].dtype == np.float64 and survey["metadata"].shape == (N, len(COLUMNS))
    assert np.isfinite(survey["metadata"]).all()


def test_proportions_are_the_training_files_and_rows_are_shuffled(survey):
    share = np.bincount(survey["labels"], minlength=5) / N
    np.testing.assert_allclose(share, COUNTS / COUNTS.sum(), atol=1 / N)
    assert len(set(survey["labels"][:30])) >= 4


def test_balanced_counts():
    assert sorted(np.bincount(simulate(52, seed=3, counts="balanced")["labels"])) == [10, 10, 10, 11, 11]


def test_small_surveys_have_every_class():
    for n in (10, 17, 40):
        counts = np.bincount(simulate(n, seed=n)["labels"], minlength=5)
        assert counts.sum() == n and counts.min() >= 2


@pytest.mark.parametrize("n", [-1, 0, 9])
def test_too_few_stamps_are_rejected(n):
    with pytest.raises(InputError, match=f"{n} simulated stamps"):
        simulate(n)


def test_seed_determines_the_survey():
    first, again, other = simulate(300, seed=5), simulate(300, seed=5), simulate(300, seed=6)
    for one, same in zip(first["images"], again["images"], strict=True):
        np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(first["metadata"], again["metadata"])
    np.testing.assert_array_equal(first["labels"], again["labels"])
    assert not np.array_equal(first["labels"], other["labels"])
    assert not np.array_equal(first["images"][0], other["images"][0], equal_nan=True)


def test_some_stamps_are_cut_by_the_chips_edge(survey):
    shapes = [stamp.shape[:2] for stamp in survey["images"]]
    cut = [shape for shape in shapes if shape != (SIDE, SIDE)]
    assert 0.005 < len(cut) / N < 0.022
    assert all(max(shape) == SIDE and 30 < min(shape) < SIDE for shape in cut)
    assert {shape.index(SIDE) for shape in cut} == {0, 1}


def test_masked_pixels_are_the_same_in_all_channels(full):
    dead = ~(np.abs(full[0]) < MAX_PIXEL_VALUE)
    assert 0.05 < dead.any(axis=(1, 2, 3)).mean() < 0.14
    assert 0.015 < dead[:, 21:42, 21:42].any(axis=(1, 2, 3)).mean() < 0.07
    assert (dead[..., 0] == dead[..., 2]).all() and (dead[..., 0] == dead[..., 1]).all()
    assert not dead[full[1] != BOGUS][:, 30:33, 30:33].any()


def test_few_templates_mark_missing_data_by_the_lowest_float(full):
    """Of 1,420 real stamps 207 have masked pixels, and 8 of these have the lowest float in the template."""
    lowest = full[0] == np.finfo(np.float32).min
    assert not lowest[..., [0, 2]].any() and np.isnan(full[0][..., [0, 2]][lowest[..., 1]]).all()
    masked = np.isnan(full[0]).any((1, 2, 3))
    assert 0.01 < lowest.any((1, 2, 3)).sum() / masked.sum() < 0.09


def test_sky_rotations_at_known_places():
    # The vernal equinox, the north ecliptic pole, the Galactic centre (Sgr A*) and the north galactic pole.
    longitude, latitude = to_ecliptic(np.array([0.0, 90.0]), np.array([0.0, 23.4393]))
    np.testing.assert_allclose(longitude, [0, 90], atol=1e-6)
    np.testing.assert_allclose(latitude, [0, 0], atol=1e-6)
    assert to_ecliptic(np.array([270.0]), np.array([66.5607]))[1][0] == pytest.approx(90, abs=1e-4)
    longitude, latitude = to_galactic(np.array([266.41684]), np.array([-29.00781]))
    assert longitude[0] == pytest.approx(359.9442, abs=2e-3)
    assert latitude[0] == pytest.approx(-0.0462, abs=2e-3)
    assert to_galactic(np.array([192.85948]), np.array([27.12825]))[1][0] == pytest.approx(90, abs=1e-4)


def test_positions_agree_between_the_frames_and_cluster_by_class(survey):
    ra, dec, labels = column(survey, "ra"), column(survey, "dec"), survey["labels"]
    assert ra.min() >= 0 and ra.max() < 360 and dec.min() >= -28 and dec.max() <= 90
    for frame, columns in ((to_ecliptic, ("ecl_long", "ecl_lat")), (to_galactic, ("gal_long", "gal_lat"))):
        for derived, name in zip(frame(ra, dec), columns, strict=True):
            np.testing.assert_allclose(column(survey, name), derived)
    from_ecliptic = np.abs(column(survey, "ecl_lat"))
    assert np.median(from_ecliptic[labels == ASTEROID]) < 10 < np.median(from_ecliptic[labels == AGN])
    from_plane = np.abs(column(survey, "gal_lat"))
    assert np.median(from_plane[labels == VS]) < 20 < np.median(from_plane[labels == SN])


def test_metadata_columns_are_consistent(survey):
    labels, ndethist, ncovhist = survey["labels"], column(survey, "ndethist"), column(survey, "ncovhist")
    np.testing.assert_array_equal(column(survey, "non_detections"), ncovhist - ndethist)
    assert ndethist.min() >= 1 and (ncovhist >= ndethist).all()
    assert np.median(ndethist[labels == ASTEROID]) == 1 < np.median(ndethist[labels == AGN])
    assert set(column(survey, "isdiffpos")) == {0.0, 1.0}
    negative = column(survey, "isdiffpos")
    assert negative[np.isin(labels, (SN, ASTEROID))].mean() < 0.01
    assert 0.3 < negative[np.isin(labels, (AGN, VS))].mean() < 0.7
    for name, low, high in (("rb", 0, 1), ("classtar", 0, 1), ("fwhm", 1, 7), ("sigmapsf", 0, 0.22)):
        assert column(survey, name).min() >= low and column(survey, name).max() <= high, name
    near, middle, far = (column(survey, f"distpsnr{k}") for k in (1, 2, 3))
    assert (near[far >= 0] <= middle[far >= 0]).all() and (middle[far >= 0] <= far[far >= 0]).all()
    for k in (1, 2, 3):
        score, distance = column(survey, f"sgscore{k}"), column(survey, f"distpsnr{k}")
        np.testing.assert_array_equal(score == -999, distance == -999)
        listed = score != -999
        assert score[listed].min() >= 0 and score[listed].max() <= 1 and distance[listed].max() <= 30


def test_no_alert_is_fainter_than_its_frame_allows(survey):
    margin = column(survey, "diffmaglim") - column(survey, "magpsf")
    assert margin.min() > -0.5 and (margin < 0.3).mean() > 0.05  # many alerts are close to the limit


def test_nearest_sources_by_hand():
    row, distance = np.array([0, 2, 0, 2, 2]), np.array([3.0, 9.0, 1.0, 4.0, 6.0])
    np.testing.assert_array_equal(nearest(row, distance, 3, 2), [[2, 0], [-1, -1], [3, 4]])


def test_the_difference_is_positive_at_the_centre(full):
    stamps, labels = full
    seen = ~np.isnan(stamps[:, 30:33, 30:33]).any(axis=(1, 2, 3))
    assert set(labels[seen]) == set(range(5)) and seen.mean() > 0.97
    assert (stamps[seen, 30:33, 30:33, 2].mean(axis=(1, 2)) > 0).all()


def test_the_template_is_deeper(full):
    stamps, labels = full
    genuine = stamps[labels == ASTEROID]
    ratio = robust_noise(genuine[..., 1]) / robust_noise(genuine[..., 0])
    assert 0.17 < np.median(ratio) < 0.3


def test_only_asteroids_and_hostless_sn_lack_a_template_source(full):
    stamps, labels = full
    template = central_excess(stamps[..., 1])
    assert abs(np.median(template[labels == ASTEROID])) < 1
    assert (template[labels == ASTEROID] > 5).mean() < 0.2
    assert (template[labels == VS] > 5).mean() > 0.9 and (template[labels == AGN] > 5).mean() > 0.9
    assert 0.1 < (template[labels == SN] < 2).mean() < 0.6


def test_faded_sources_are_fainter_than_their_template(survey):
    faded = column(survey, "isdiffpos") == 1
    chosen = np.flatnonzero(np.isin(survey["labels"], (AGN, VS)) & (column(survey, "magpsf") < 17.5))
    square = [i for i in chosen if survey["images"][i].shape == (SIDE, SIDE, 3)]
    stamps = np.stack([survey["images"][i] for i in square])
    science, template = (np.nansum(stamps[:, 25:38, 25:38, k], axis=(1, 2)) for k in (0, 1))
    brighter = science > template
    assert brighter[~faded[square]].mean() > 0.85 and brighter[faded[square]].mean() < 0.15


def test_brightness_in_the_difference_follows_magpsf(survey):
    chosen = np.flatnonzero(np.isin(survey["labels"], (SN, ASTEROID)) & (column(survey, "magpsf") < 18.5))
    square = [i for i in chosen if survey["images"][i].shape == (SIDE, SIDE, 3)]
    flux = np.array([np.nansum(survey["images"][i][24:39, 24:39, 2]) for i in square])
    zero_point = column(survey, "magpsf")[square] + 2.5 * np.log10(np.maximum(flux, 1))
    assert np.median(zero_point) == pytest.approx(26.2, abs=0.15)
    assert np.percentile(np.abs(zero_point - np.median(zero_point)), 80) < 0.5


def test_artefacts_of_ztf_have_their_typical_shape():
    rng = np.random.default_rng(3)
    scene = sky.draw_scene(np.full(1500, BOGUS), find_epoch("today"), rng)
    stamps, _ = observe(scene, rng)
    sigmas = stamps[..., 2] / robust_noise(stamps[..., 2])[:, None, None]

    def of_kind(artefact):
        found = sigmas[scene.artefact == artefact]
        assert len(found) > 15
        return found

    def both_signs(images):
        return np.median(np.minimum(np.nanmax(images, axis=(1, 2)), -np.nanmin(images, axis=(1, 2))))

    # a ghost is extended, not point-like
    spread, point = (
        np.nanmedian(of_kind(kind)[:, 24:39, 24:39], axis=(1, 2)) for kind in (settings.GHOST, settings.COSMIC_RAY)
    )
    assert np.median(spread) > 0.2 > 2 * np.abs(np.median(point))

    columns = np.abs(np.median(np.nan_to_num(of_kind(settings.DARK_COLUMN)), axis=1))
    assert np.median(columns[:, 29:34].max(axis=1)) > 2 > 4 * np.median(columns)

    crescents, residuals = (
        both_signs(of_kind(kind)[:, 24:39, 24:39]) for kind in (settings.CRESCENT, settings.RESIDUAL)
    )
    assert crescents > 2 * residuals > 10

    dead = np.isnan(of_kind(settings.MASKED_STAR))
    lengths = [[len(set(dead_one.sum(axis=axis))) for axis in (0, 1)] for dead_one in dead]
    assert dead[:, 25:38, 25:38].any(axis=(1, 2)).mean() > 0.9
    assert np.mean(np.max(lengths, axis=1) > 2) > 0.8  # ragged

    trails = of_kind(settings.CROSSING_TRAIL)
    away = np.ones((SIDE, SIDE), bool)
    away[24:39, 24:39] = False
    lit = (np.abs(trails[:, away]) > 3).mean(axis=1)
    assert np.median(lit) > 3 * np.median((np.abs(of_kind(settings.RESIDUAL)[:, away]) > 3).mean(axis=1))


def test_age_and_depth_do_not_identify_artefacts() -> None:
    """With `young` and `cloudy`, each class has new objects and shallow exposures; without, only artefacts do."""
    usual, varied = (simulate(500, 7, counts="balanced", **shares) for shares in ({}, {"young": 0.5, "cloudy": 0.3}))
    for label in (AGN, SN, VS):
        old, new = (column(one, "ndethist")[one["labels"] == label] <= 5 for one in (usual, varied))
        assert old.mean() < 0.1 and 0.35 < new.mean() < 0.65
    for label in (AGN, SN, VS, ASTEROID):
        deep, mixed = (column(one, "diffmaglim")[one["labels"] == label] < 18 for one in (usual, varied))
        assert not deep.any() and 0.17 < mixed.mean() < 0.43
    assert (column(varied, "magpsf") <= column(varied, "diffmaglim") + 0.3).all()
    for share in ({"young": 1.5}, {"cloudy": -0.1}):
        with pytest.raises(InputError, match=next(iter(share))):
            simulate(10, **share)


def test_the_epoch_of_the_published_file() -> None:
    """Means and scatters of its training columns (Carrasco-Davis et al. 2021), unlike the alerts of today."""
    columns = {"fwhm": (10, 2.62, 1.63), "diffmaglim": (99, 20.22, 0.60), "magpsf": (99, 18.9, None)}
    columns |= {"ndethist": (20, 5.3, None), "ncovhist": (3000, 291, None), "rb": (1, 0.615, None)}
    found = simulate(1536, seed=1, epoch="2020")
    for name, (most, mean, scatter) in columns.items():
        values = np.minimum(column(found, name), most)
        assert values.mean() == pytest.approx(mean, rel=0.06), name
        assert scatter is None or values.std() == pytest.approx(scatter, rel=0.15), name
    assert np.mean([np.isnan(stamp).sum() for stamp in found["images"]]) == pytest.approx(187, rel=0.15)
    assert np.minimum(column(simulate(512, seed=1), "ndethist"), 20).mean() > 10
    with pytest.raises(InputError, match=r"data\.epoch=2019"):
        simulate(10, epoch="2019")
