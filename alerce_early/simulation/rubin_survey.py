"""Simulated Rubin alerts: the scenes of the ZTF survey through another camera, by `settings.RUBIN`."""

from typing import Any

import numpy as np

from alerce_early.data.readers.packets import fields
from alerce_early.data.readers.stamps_file import CLASSES
from alerce_early.data.records import Records
from alerce_early.simulation.settings import RUBIN
from alerce_early.simulation.survey import draw_alerts


def read(n: int = 20_000, seed: int = 0) -> Records:
    """Return simulated alerts as the reader of Rubin's packets does: stamps (n, 63, 63, 3) in nJy, no columns."""
    survey = simulate_rubin(n, seed)
    return Records(
        images=survey["images"],
        labels=survey["labels"],
        ids=survey["oid"],
        features=np.empty((n, 0)),
        feature_names=(),
        classes=CLASSES,
        survey=fields.RUBIN.survey,
        origin=f"simulated Rubin survey of {n:,} stamps, seed {seed}",
    )


def simulate_rubin(n: int = 20_000, seed: int = 0) -> dict[str, Any]:
    """Return n alerts with as many of each class, a pure function of (n, seed).

    images: (n, 63, 63, 3) float32 in nJy (AB zero point 31.4), science, template, difference at .2 arcsec per pixel,
    the source within half a pixel of the central one; NaN beyond the cutout, 30 pixels wide or as wide as its source.
    labels: (n,) int64 indices into CLASSES. oid: (n,) str, one object per alert.
    """
    survey = draw_alerts(n, seed, RUBIN)
    return {"images": np.stack(survey["images"]), "labels": survey["labels"], "oid": np.array(survey["oid"])}
