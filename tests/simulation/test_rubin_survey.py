"""Simulated Rubin survey: flux scale, seeing, signs and cutouts; ZTF's stamps are not affected by it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alerce_early.data.readers.stamps_file import CLASSES
from alerce_early.simulation.camera import observe
from alerce_early.simulation.painting import CENTRE, SIDE
from alerce_early.simulation.settings import NOISE_PEAK, RESIDUAL, RUBIN, TODAY
from alerce_early.simulation.sky import Scene, draw_scene
from alerce_early.simulation.survey import read_rubin as read
from alerce_early.simulation.survey import simulate, simulate_rubin

AGN, SN, VS, ASTEROID, BOGUS = range(len(CLASSES))
DOWN, ACROSS = np.indices((SIDE, SIDE)) - CENTRE


@pytest.fixture(scope="module")
def survey() -> dict[str, Any]:
    return simulate_rubin(1500, seed=1)


def observed(label: int, n: int = 400, **other: Any) -> tuple[Scene, np.ndarray]:
    """Return scenes of one class and their stamps, for Rubin with some parameters replaced."""
    rng = np.random.default_rng(7)
    scene = draw_scene(np.full(n, label), replace(RUBIN, **other), rng)
    return scene, observe(scene, rng)[0]


def noise(images: np.ndarray) -> np.ndarray:
    """Median absolute deviation of each image (n, H, W), as a standard deviation; NaN is ignored."""
    flat = images.reshape(len(images), -1)
    return 1.4826 * np.nanmedian(np.abs(flat - np.nanmedian(flat, axis=1, keepdims=True)), axis=1)


def test_format_and_seed(survey: dict[str, Any]) -> None:
    records = read(40, seed=2)
    assert np.shape(records.images) == (40, SIDE, SIDE, 3) and records.images[0].dtype == np.float32
    assert records.classes == CLASSES and np.bincount(records.labels).tolist() == [8] * 5
    again, other = read(40, seed=2), read(40, seed=3)
    np.testing.assert_array_equal(records.images, again.images)
    assert not np.array_equal(records.images, other.images, equal_nan=True)
    assert np.bincount(survey["labels"]).tolist() == [300] * 5


def test_fluxes_are_in_nanojansky() -> None:
    """AB magnitude = 31.4 - 2.5 log10(nJy), measured in an aperture around bright asteroids."""
    scene, images = observed(ASTEROID, masked=0.0, framed=False, trails=0.0)
    bright = (scene.mag < 20) & (scene.conditions["fwhm"] < 8)
    aperture = np.hypot(DOWN, ACROSS) < 18
    assert bright.sum() > 50
    found = 31.4 - 2.5 * np.log10(images[bright][:, aperture, 2].sum(1))
    assert np.median(found - scene.mag[bright]) == pytest.approx(0, abs=0.02)
    assert np.median(np.abs(found - scene.mag[bright])) < 0.05


def test_the_width_of_a_source_is_the_seeing() -> None:
    scene, images = observed(ASTEROID, masked=0.0, trails=0.0)
    bright = images[chosen := scene.mag < 19.5][..., 2]
    above = bright > np.nanmax(bright, axis=(1, 2), keepdims=True) / 2
    width = 2 * np.sqrt(above.sum(axis=(1, 2)) / np.pi)
    off = np.abs(width / scene.conditions["fwhm"][chosen] - 1)
    assert np.median(off) < 0.06 and np.percentile(off, 90) < 0.15  # a few are saturated
    seeing = np.percentile(0.2 * scene.conditions["fwhm"], [10, 50, 90])
    assert 0.65 < seeing[0] < 0.9 < seeing[1] < 1.3 < seeing[2] < 2.1  # arcsec


def test_noise_spans_the_range_of_the_bands(survey: dict[str, Any]) -> None:
    """It is 20 nJy per pixel in g and up to 110 in i; templates are deeper."""
    images = survey["images"][survey["labels"] == ASTEROID]
    sky = np.percentile(noise(images[..., 2]), [5, 95])
    assert 17 < sky[0] < 28 and 85 < sky[1] < 140
    assert 0.1 < np.median(noise(images[..., 1]) / noise(images[..., 0])) < 0.2


def test_differences_keep_their_sign(survey: dict[str, Any]) -> None:
    """Rubin does not flip signs: AGN and VS have both signs, new sources are positive."""
    middle = np.nanmean(survey["images"][:, 30:33, 30:33, 2], axis=(1, 2)) / noise(survey["images"][..., 2])
    for label in (AGN, VS):
        assert 0.25 < (middle[survey["labels"] == label] < 0).mean() < 0.6
    assert (middle[np.isin(survey["labels"], (SN, ASTEROID))] < -0.3).mean() < 0.01


def test_fraction_of_alerts_with_a_template_source(survey: dict[str, Any]) -> None:
    template = survey["images"][..., 1]
    middle = np.nanmean(template[:, 29:34, 29:34], axis=(1, 2)) - np.nanmedian(template, axis=(1, 2))
    seen = middle / noise(template) > 5
    share = [seen[survey["labels"] == label].mean() for label in range(len(CLASSES))]
    assert share[AGN] > 0.97 and share[VS] > 0.9 and share[ASTEROID] < 0.15 < share[SN] < 0.8


def test_cutouts_grow_with_their_sources(survey: dict[str, Any]) -> None:
    """They are square, 30 pixels or as wide as the source needs, and centred to half a pixel."""
    there = np.isfinite(survey["images"])
    assert (there == there[..., :1]).all()
    lines, columns = there[..., 0].any(axis=2), there[..., 0].any(axis=1)
    side = np.maximum(lines.sum(1), columns.sum(1))
    assert side.min() == 30 and np.median(side) == 30 and side.max() > 50
    bright = np.nanmax(np.abs(survey["images"][..., 2]), axis=(1, 2)) / noise(survey["images"][..., 2])
    bright = bright > np.percentile(bright, 90)
    assert side[bright].mean() > side[~bright].mean() + 3
    for kept in (lines, columns):
        whole = kept.sum(1) == side
        first, last = kept.argmax(1)[whole], SIDE - 1 - kept[:, ::-1].argmax(1)[whole]
        assert whole.mean() > 0.95 and (np.abs(first + last - 2 * CENTRE) <= 1).all()
        assert {-1, 0, 1} == set((first + last - 2 * CENTRE).tolist())


def test_artefacts_have_their_typical_shape() -> None:
    scene, images = observed(BOGUS, masked=0.0)
    difference = images[..., 2] / noise(images[..., 2])[:, None, None]
    inner = difference[:, 22:41, 22:41]
    peaks, residuals = inner[scene.artefact == NOISE_PEAK], inner[scene.artefact == RESIDUAL]
    assert len(peaks) > 80 and len(residuals) > 80
    weight = np.exp(-4 * np.log(2) * np.hypot(DOWN, ACROSS) ** 2 / RUBIN.seeing**2)[22:41, 22:41]
    matched = (peaks * weight).sum(axis=(1, 2)) / np.sqrt((weight**2).sum())
    assert 4 < np.median(matched) < 7  # sigma: just above the threshold of an alert
    both = np.minimum(residuals.max(axis=(1, 2)), -residuals.min(axis=(1, 2)))
    assert np.median(both) > 4 > np.median(np.minimum(peaks.max(axis=(1, 2)), -peaks.min(axis=(1, 2))))


@pytest.mark.parametrize("name", ["zoom", "gain", "profile", "sky", "flipped"])
def test_each_parameter_changes_the_stamps(name: str) -> None:
    """Replacing a single parameter of ZTF by the one of Rubin changes the stamps."""
    labels = np.repeat(range(len(CLASSES)), 8)

    def paint(**other: Any) -> np.ndarray:
        rng = np.random.default_rng(0)
        return observe(draw_scene(labels, replace(TODAY, **other), rng), rng)[0]

    assert not np.array_equal(paint(), paint(**{name: getattr(RUBIN, name)}), equal_nan=True)


@pytest.mark.parametrize(("epoch", "level", "peak"), [("today", 137.67569, 188.65338), ("2020", 145.863, 155.90533)])
def test_ztf_stamps_are_unchanged(epoch: str, level: float, peak: float) -> None:
    images = simulate(60, seed=3, epoch=epoch)["images"]
    assert np.median([np.nanmedian(image) for image in images]) == pytest.approx(level, rel=1e-6)
    assert np.median([np.nanmax(image[..., 2]) for image in images]) == pytest.approx(peak, rel=1e-6)
