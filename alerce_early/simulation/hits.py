"""A stand-in for the HiTS course file: the simulated survey's point sources against its artefacts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data.readers import hits
from alerce_early.data.readers.stamps_file import CLASSES
from alerce_early.data.recipe import MAD_TO_SIGMA
from alerce_early.data.records import Records, with_extra
from alerce_early.simulation.painting import SIDE
from alerce_early.simulation.settings import COUNTS, TODAY
from alerce_early.simulation.survey import simulate

SIZE = 21  # pixels
SPARE = 1.15  # of the survey's stamps, for those cut by a chip's edge and the scatter of small surveys
BOGUS = CLASSES.index("bogus")


to_raw = hits.to_raw


def read(
    n: int = 4_026,
    seed: int = 0,
    channels: Sequence[str] = hits.CHANNELS,
    extra_path: str | Path | None = None,
) -> Records:
    """Return simulated stamps as records, through the same door as the real files; extra_path as there."""
    origin = f"simulated HiTS file of {n:,} stamps, seed {seed}"
    records = hits.from_raw(simulate_hits(n, seed), origin, channels)
    return with_extra(records, hits.read(extra_path, channels=channels)) if extra_path else records


def simulate_hits(n: int = 4_026, seed: int = 0) -> dict[str, Any]:
    """Return the raw dict of a HiTS course file with n stamps, half of them artefacts; a pure function of (n, seed).

    A survey is simulated until it has n / 2 artefacts; real sources are drawn from its other classes in
    their proportions. SNR is the difference over its noise: sky of the science image, and photons.
    """
    survey = simulate(int(SPARE * n / 2 * COUNTS.sum() / COUNTS[BOGUS]) + 100, seed)
    rng = np.random.default_rng([seed, 0x4175])
    whole = np.array([image.shape == (SIDE, SIDE, 3) for image in survey["images"]])
    real = survey["labels"] != BOGUS
    halves = ((False, n // 2), (True, n - n // 2))
    chosen = [np.flatnonzero(whole & (real == wanted))[:count] for wanted, count in halves]
    rows = rng.permutation(np.concatenate(chosen))
    images = np.stack([survey["images"][row] for row in rows])

    science = images[..., 0]
    above = science - np.nanmedian(science, axis=(1, 2), keepdims=True)
    sky = MAD_TO_SIGMA * np.nanmedian(np.abs(above), axis=(1, 2), keepdims=True)
    noise = np.sqrt(sky**2 + np.maximum(above, 0) / TODAY.gain)
    edge = (SIDE - SIZE) // 2
    centre = np.s_[:, edge : edge + SIZE, edge : edge + SIZE]
    layers = {"temp": images[..., 1], "sci": science, "diff": images[..., 2], "SNR": images[..., 2] / noise}
    return {
        **{f"{name}_images": layer[centre].reshape(n, -1) for name, layer in layers.items()},
        "labels": real[rows].astype(np.int64),
        "ID": [survey["oid"][row] for row in rows],
    }
