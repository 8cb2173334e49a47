"""Parameters in which simulated surveys differ: camera, depth, age and the populations that cause alerts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from alerce_early.errors import InputError

Mix = tuple[tuple[float, float], tuple[float, float]]

# fraction of all artefacts, and fraction of these in shallow exposures of ZTF today
ARTEFACTS = {
    "dark pixel": (0.22, 0.7),
    "cosmic ray": (0.16, 0.35),
    "weak star": (0.18, 1.0),
    "residual": (0.10, 0.0),
    "glints": (0.05, 0.8),
    "trail": (0.03, 0.3),
    "flash": (0.05, 0.6),
    "mask edge": (0.04, 0.2),
    "ghost": (0.03, 0.0),
    "crossing trail": (0.03, 0.0),
    "dark column": (0.03, 0.0),
    "crescent": (0.05, 0.0),
    "masked star": (0.03, 0.0),
    "noise peak": (0.0, 0.0),
}
SHARES, SHALLOW_SHARES = np.array(list(ARTEFACTS.values())).T
DARK_PIXEL, COSMIC_RAY, WEAK_STAR, RESIDUAL, GLINTS, TRAIL, FLASH = range(7)
MASK_EDGE, GHOST, CROSSING_TRAIL, DARK_COLUMN, CRESCENT, MASKED_STAR, NOISE_PEAK = range(7, len(ARTEFACTS))
COUNTS = np.array([14_966, 1_620, 14_996, 9_899, 10_763])  # stamps of each class in the ALeRCE training file


@dataclass(frozen=True)
class Setting:
    """Parameters of one survey at one time.

    Arrays have one row per class, in label order. The defaults are ZTF's camera, pipeline and sky. Scatters are
    standard deviations, of the natural logarithm where noted.

    Attributes
    ----------
    seeing : float
        Median fwhm, pixels.
    extended : float
        Fraction of sources whose measured fwhm is a multiple of the seeing.
    shallow : float
        Factor on the fraction of artefacts that come from shallow exposures.
    masked : float
        Fraction of stamps with a dead area.
    fainter : ndarray
        (5,) mag, added to the change and to the counterpart.
    real_bogus : ndarray
        (5, 2) mean real-bogus score and its scatter.
    detections, visits : ndarray
        (5, 2) number so far at the position: median, and scatter of the logarithm.
    young : float
        Fraction of AGN, SN and VS with at most five detections, at positions with the same number of visits in each
        class.
    cloudy : float
        Fraction of real sources observed in exposures as shallow as for most artefacts.
    zoom : float
        Pixels per arcsec for angular sizes.
    profile : int
        Exponent of the Moffat profile.
    scatter : float
        Scatter of the logarithm of the seeing.
    fwhm : tuple of float
        Limits of the seeing, pixels.
    template_fwhm : tuple of float
        Seeing of the template, pixels: median, scatter of the logarithm, lower and upper limit.
    zero_point : tuple of float
        Magnitude of one count, and its scatter.
    level : tuple of float
        Median sky of asteroids and of other alerts, counts.
    level_scatter : float
        Scatter of the logarithm of the sky.
    floor : float
        Lowest sky, counts.
    depth : tuple of float
        Sky noise of the template relative to the science image before resampling, and scatter of its logarithm.
    gain : float
        Electrons per count.
    saturation : float
        Counts above the sky.
    bleeding : float
        Counts of a star beyond which its charge bleeds along the row.
    frames : int
        Exposures per template.
    pattern : float
        Factor on the pattern of detector columns.
    patch : tuple of int
        Pixels painted to each side of faint and of bright sources.
    patch_limit : float
        Flux x fwhm^4 above which light outside the small patch would be visible.
    science_mix, template_mix, difference_mix : tuple
        Weights with which resampling and subtraction mix pixels one and two apart, along columns and along rows. They
        correlate the noise of neighbouring pixels.
    mix_scatter : float
        Scatter of the weight of adjacent pixels in the difference.
    template_share : float
        Fraction of the template's noise in the difference.
    psf_error : tuple of float
        Relative error of the width that the subtraction assumes, usual and for poor subtractions.
    position_error : tuple of float
        Error of the position, pixels: usual, for poor and for the worst subtractions.
    grain : tuple of float
        Relative residual noise of bright stars, for real sources and for artefacts.
    alert_noise : float
        Noise of a measured flux, relative to a fit of a Moffat profile of exponent 3.
    sky : float
        Fraction of the sky that images keep.
    lowest : float
        Fraction of stamps with dead areas whose template has the lowest float32 there, not NaN.
    flipped : bool
        Whether differences that are negative at the centre are sign-flipped.
    framed : bool
        Whether the width of a cutout depends on its source.
    misshaped : float
        Fraction of stamps cut by the edge of a chip.
    crowding : tuple of float
        Mean number of stars, far from the galactic plane, and of galaxies around an alert.
    limits : tuple of float
        Magnitudes of the brightest and of the faintest of these.
    hosts : tuple of float
        Magnitudes of host galaxies: mean, scatter, brightest, faintest, and the brightest of the quarter that is faint.
    nuclear : tuple of float
        Fraction of active nuclei with a visible host, and magnitude added to it.
    counterparts : tuple of float
        Magnitude limits of stars and nuclei.
    agn_change : tuple of float
        Magnitude of the change of a nucleus of magnitude 17.9, and its slope with the magnitude of the nucleus.
    fading : tuple of float
        Fraction of AGN and of VS that fade.
    outbursts : float
        Magnitude of the brightest star that is detected only in outburst.
    asteroids : float
        Scale of the brightness of asteroids above the faintest, mag.
    trails : float
        Scale of the length of their trails, arcsec.
    trail_angle : float
        Scatter of the direction of trails about the rows, radians.
    artefacts : tuple of float
        Fraction of each of `ARTEFACTS`.
    counts : tuple of float
        Relative number of alerts of each class.
    """

    seeing: float
    extended: float
    shallow: float
    masked: float
    fainter: np.ndarray
    real_bogus: np.ndarray
    detections: np.ndarray
    visits: np.ndarray
    young: float = 0.0
    cloudy: float = 0.0

    zoom: float = 1.0
    profile: int = 3
    scatter: float = 0.28
    fwhm: tuple[float, float] = (1.25, 5.5)
    template_fwhm: tuple[float, float, float, float] = (2.1, 0.12, 1.6, 3.5)
    zero_point: tuple[float, float] = (26.2, 0.15)
    level: tuple[float, float] = (108.0, 165.0)
    level_scatter: float = 0.42
    floor: float = 53.0
    depth: tuple[float, float] = (0.255, 0.25)
    gain: float = 6.2
    saturation: float = 45_000.0
    bleeding: float = 1.2e5
    frames: int = 20
    pattern: float = 1.0
    patch: tuple[int, int] = (7, 21)
    patch_limit: float = 6e4

    science_mix: Mix = (0.0, 0.0), (-0.03, 0.0)
    template_mix: Mix = (0.095, -0.055), (0.075, -0.055)
    difference_mix: Mix = (0.025, -0.02), (0.02, -0.03)
    mix_scatter: float = 0.025
    template_share: float = 0.5
    psf_error: tuple[float, float] = (0.04, 0.08)
    position_error: tuple[float, float, float] = (0.05, 0.15, 0.45)
    grain: tuple[float, float] = (0.014, 0.042)
    alert_noise: float = 2.05
    sky: float = 1.0
    lowest: float = 8 / 207
    flipped: bool = True
    framed: bool = False
    misshaped: float = 0.012

    crowding: tuple[float, float] = (4.0, 9.0)
    limits: tuple[float, float] = (12.0, 23.3)
    hosts: tuple[float, float, float, float, float] = (17.3, 1.4, 14.0, 22.0, 20.5)
    nuclear: tuple[float, float] = (0.33, 0.0)
    counterparts: tuple[float, float] = (12.3, 21.2)
    agn_change: tuple[float, float] = (18.8, 0.7)
    fading: tuple[float, float] = (0.65, 0.6)
    outbursts: float = 19.0
    asteroids: float = 0.8
    trails: float = 1.1
    trail_angle: float = 0.35
    artefacts: tuple[float, ...] = tuple(SHARES)
    counts: tuple[float, ...] = tuple(COUNTS)


# matched to public alerts of 2024 and 2025
TODAY = Setting(
    seeing=2.25,
    extended=0.0,
    shallow=1.0,
    masked=0.09,
    fainter=np.zeros(5),
    real_bogus=np.array([(0.90, 0.08), (0.87, 0.09), (0.70, 0.14), (0.72, 0.15), (0.53, 0.15)]),
    detections=np.array([(550.0, 1.0), (35.0, 1.2), (170.0, 1.6), (1.0, 0.0), (1.0, 0.0)]),
    visits=np.array([(650.0, 0.8), (1300.0, 0.7), (550.0, 1.3), (600.0, 1.0), (700.0, 0.9)]),
)
EPOCHS = {
    "today": TODAY,
    # matched to the training statistics published with the stamps file (Carrasco-Davis et al. 2021, AJ 162, 231)
    "2020": Setting(
        seeing=2.03,
        extended=0.07,
        shallow=0.1,
        masked=0.11,
        fainter=np.array([0.9, 0.5, 2.2, 0.4, 0.0]),
        real_bogus=np.array([(0.72, 0.12), (0.72, 0.12), (0.62, 0.15), (0.66, 0.16), (0.42, 0.15)]),
        detections=np.array([(4.6, 1.2), (4.0, 1.0), (4.6, 1.2), (1.0, 0.0), (1.0, 0.0)]),
        visits=np.array([(220.0, 0.7)] * 5),
    ),
}
# Matched to 84 public alerts of 2026 in g, i and z, whose range noise, seeing and depth span; counts are nJy.
RUBIN = replace(
    TODAY,
    zoom=5.0,
    profile=6,
    seeing=5.8,
    scatter=0.32,
    fwhm=(3.3, 10.5),
    template_fwhm=(4.4, 0.14, 3.2, 5.6),
    zero_point=(31.4, 0.0),
    level=(5_600.0, 5_600.0),
    level_scatter=1.0,
    floor=1_100.0,
    depth=(0.21, 0.45),
    gain=1.6,
    saturation=8e4,
    bleeding=6e6,
    frames=30,
    pattern=0.0,
    patch=(15, 31),
    patch_limit=1.8e7,
    shallow=0.0,
    masked=0.02,
    fainter=np.array([1.2, 3.1, 1.7, 2.3, 3.2]),
    science_mix=((0.0, 0.0), (0.0, 0.0)),
    template_mix=((0.12, -0.04), (0.12, -0.04)),
    difference_mix=((0.0, 0.0), (0.0, 0.0)),
    mix_scatter=0.0,
    template_share=1.0,
    psf_error=(0.012, 0.04),
    position_error=(0.03, 0.2, 0.4),
    grain=(0.006, 0.02),
    alert_noise=0.86,
    sky=0.0,
    lowest=0.0,
    flipped=False,
    framed=True,
    misshaped=0.0,
    crowding=(4.0, 10.0),
    limits=(14.0, 26.0),
    hosts=(20.5, 1.7, 15.5, 25.0, 23.5),
    nuclear=(0.5, -0.8),
    counterparts=(15.0, 24.5),
    agn_change=(20.3, 1.0),
    fading=(0.4, 0.5),
    outbursts=22.5,
    asteroids=1.4,
    trails=0.22,
    trail_angle=10.0,
    artefacts=(0.03, 0.08, 0.0, 0.33, 0.01, 0.02, 0.03, 0.02, 0.02, 0.02, 0.01, 0.06, 0.0, 0.37),
    counts=(1, 1, 1, 1, 1),
)


def find_epoch(name: str) -> Setting:
    """Return the setting of ZTF at an epoch of `EPOCHS`, or raise InputError for an unknown name."""
    if str(name) not in EPOCHS:
        raise InputError(f"data.epoch={name}: unknown epoch. Choose from {', '.join(EPOCHS)}.")
    return EPOCHS[str(name)]
