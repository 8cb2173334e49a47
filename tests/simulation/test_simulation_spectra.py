"""Simulated spectra: the physics that a redshift is measured from."""

import numpy as np
import pytest

from alerce_early.data.readers.sdss import CLASSES
from alerce_early.data.spectral_grid import CENTRES, EDGES, FIRST, PIXELS, STEP
from alerce_early.simulation.sdss import forest, galaxies, lines, quasars, simulate, stars


def test_the_raw_format_and_its_seed() -> None:
    raw, again, other = simulate(60, 1), simulate(60, 1), simulate(60, 2)
    assert raw["spectra"].shape == (60, 2 * PIXELS) and raw["spectra"].dtype == np.float32
    assert set(raw["class"]) == set(CLASSES)
    assert np.array_equal(raw["spectra"], again["spectra"]) and not np.array_equal(raw["spectra"], other["spectra"])
    flux, ivar = np.split(raw["spectra"], 2, axis=1)
    assert np.isfinite(raw["spectra"]).all() and (ivar >= 0).all()
    assert 0 < (ivar == 0).mean() < 0.1 and (flux[ivar == 0] == 0).all()
    assert (raw["Z_CONF_PERSON"] == 3).mean() > 0.8
    assert len(set(raw["id"])) == 60


@pytest.mark.parametrize("make", (stars, galaxies, quasars))
@pytest.mark.parametrize("n", (0, 3))
def test_every_source_is_positive_light(make, n: int) -> None:
    z, flux = make(n, np.random.default_rng(0))
    assert z.shape == (n,) and flux.shape == (n, PIXELS) and (flux >= 0).all() and np.isfinite(flux).all()


def test_a_line_keeps_its_equivalent_width_and_moves_with_redshift() -> None:
    z = np.array([0.0, 1.0])
    painted = lines(z, np.array([4000.0, 2000.0]), np.array([[12.0, 0.0], [0.0, 12.0]]), 1000.0)
    widths = (painted * np.diff(EDGES)).sum(1)
    assert widths == pytest.approx([12.0, 24.0], rel=1e-3)  # stretched by 1 + z
    assert (painted.argmax(1) == int((np.log10(4000) - FIRST) / STEP)).all()


def test_quasars_show_their_brightest_lines_where_they_should_be() -> None:
    z, flux = quasars(300, np.random.default_rng(1))
    chosen = (z > 2.1) & (z < 3.2)
    brightest = CENTRES[flux[chosen].argmax(1)] / (1 + z[chosen])
    assert chosen.sum() > 50 and (np.abs(brightest - 1220) < 25).mean() > 0.8  # Lyman alpha and N V


def test_forest_absorbs_only_blueward() -> None:
    through = forest(np.full(200, 4.0), np.random.default_rng(2))
    rest = CENTRES / 5.0
    assert (through[:, rest > 1216] == 1).all()
    assert 0.3 < through[:, (rest > 1100) & (rest < 1200)].mean() < 0.6  # mean transmission at z = 3.7
    assert through[:, rest < 750].mean() < 0.7 * through[:, (rest > 930) & (rest < 1000)].mean()


def test_winds_absorb_blueward_of_carbon() -> None:
    def carbon(bal: bool) -> float:
        z, flux = quasars(400, np.random.default_rng(3), bal)
        chosen = (z > 1.9) & (z < 4)
        rest = CENTRES / (1 + z[chosen, None])

        def mean(low: float, high: float) -> np.ndarray:
            inside = (rest > low) & (rest < high)
            return (flux[chosen] * inside).sum(1) / inside.sum(1)

        return float(np.median(mean(1480, 1530) / mean(1680, 1720)))

    assert carbon(bal=True) < 0.75 * carbon(bal=False)


def test_the_break_of_galaxies() -> None:
    z, flux = galaxies(300, np.random.default_rng(4))
    rest = CENTRES / (1 + z[:, None])
    red, blue = ((rest > 4050) & (rest < 4250)), ((rest > 3750) & (rest < 3900))
    ratio = (flux * red).sum(1) / red.sum(1) / ((flux * blue).sum(1) / np.maximum(blue.sum(1), 1))
    assert 1.2 < np.median(ratio[blue.sum(1) > 0]) < 2.5
