"""Simulated replacement of the HiTS course file: point sources and artefacts of the simulated survey."""

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
OVERSAMPLING = (
    1.15  # factor on the number of simulated stamps, since some are cut by a chip edge and small surveys scatter
)
BOGUS = CLASSES.index("bogus")


to_raw = hits.to_raw


def read(
    n: int = 4_026,
    seed: int = 0,
    channels: Sequence[str] = hits.CHANNELS,
    extra_path: str | Path | None = None,
) -> Records:
    """Simulate stamps and read them as the reader of the real files does.

    Parameters
    ----------
    n : int
        Number of stamps.
    seed : int
        Seed of the simulation.
    channels : sequence of str
        Channels to read, see `readers.hits.read`.
    extra_path : path, optional
        Raw file whose rows are added, see `readers.hits.read`.

    Returns
    -------
    Records
        Stamps in the format of the HiTS file.
    """
    origin = f"simulated HiTS file of {n:,} stamps, seed {seed}"
    records = hits.from_raw(simulate_hits(n, seed), origin, channels)
    return with_extra(records, hits.read(extra_path, channels=channels)) if extra_path else records


def simulate_hits(n: int = 4_026, seed: int = 0) -> dict[str, Any]:
    """Simulate the raw dict of a HiTS course file, half of it artefacts.

    The survey is simulated large enough to have n / 2 artefacts; real sources come from its other classes in their
    proportions. SNR is the difference over its noise, from the sky of the science image and photon noise.

    Parameters
    ----------
    n : int
        Number of stamps.
    seed : int
        The same n and seed give the same stamps.

    Returns
    -------
    dict
        "temp_images", "sci_images", "diff_images" and "SNR_images", (n, 441) float32 each; "labels", (n,) int64, 0 for
        artefacts and 1 for real sources; "ID", n strings.
    """
    survey = simulate(int(OVERSAMPLING * n / 2 * COUNTS.sum() / COUNTS[BOGUS]) + 100, seed)
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
