"""When the survey is looked at: what of the simulated sky changes as it grows older and its pipeline learns."""

from dataclasses import dataclass

import numpy as np

from alerce_early.errors import InputError


@dataclass(frozen=True)
class Epoch:
    """What a survey's age decides; rows of the tables are classes in label order.

    seeing: median fwhm in pixels. extended: share of the sources whose measured fwhm is a multiple of that. shallow:
    factor on the share of artefacts that come from shallow frames. masked: share of the stamps with a dead area.
    fainter: mag, added to what changes and to the star or nucleus it belongs to. real_bogus: score and its scatter.
    detections, visits: so far at the position, median and scatter of the logarithm.
    """

    seeing: float
    extended: float
    shallow: float
    masked: float
    fainter: np.ndarray
    real_bogus: np.ndarray
    detections: np.ndarray
    visits: np.ndarray


EPOCHS = {
    # of the public alerts of 2024 and 2025
    "today": Epoch(
        seeing=2.25,
        extended=0.0,
        shallow=1.0,
        masked=0.09,
        fainter=np.zeros(5),
        real_bogus=np.array([(0.90, 0.08), (0.87, 0.09), (0.70, 0.14), (0.72, 0.15), (0.53, 0.15)]),
        detections=np.array([(550.0, 1.0), (35.0, 1.2), (170.0, 1.6), (1.0, 0.0), (1.0, 0.0)]),
        visits=np.array([(650.0, 0.8), (1300.0, 0.7), (550.0, 1.3), (600.0, 1.0), (700.0, 0.9)]),
    ),
    # by the training statistics published with the stamps file (Carrasco-Davis et al. 2021)
    "2020": Epoch(
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


def find_epoch(name: str) -> Epoch:
    """Return the epoch of this name; raises InputError if there is none."""
    if str(name) not in EPOCHS:
        raise InputError(f"data.epoch={name} is unknown; there are {', '.join(EPOCHS)}.")
    return EPOCHS[str(name)]
