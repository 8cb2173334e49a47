"""What must be known of a trained network to classify with it, whatever computes it; an exported file tells it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alerce_early.construct import construct
from alerce_early.data import text
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError, one_line
from alerce_early.evaluation import conformal

FORMAT = 1  # of what a deployed network takes and returns
LICENCE = "MIT"
BATCH = 32  # rows per core through the network at once: what is in between stays in the cache

# Raw stamps (B, C, H, W) float32, NaN where there is no data, and metadata (B, F) float32 or None, to all
# `Facts.columns`, each (B,) float32.
Runtime = Callable[[np.ndarray, np.ndarray | None], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Facts:
    """One trained network, but for its weights.

    model_id: 12 hex digits, of the weights and of all else that decides what comes out. spec: what it was trained
    on, with the recipe. columns: names of all it returns, as in the predictions table. calibration, conformal:
    the fits of the validation rows as plain values, or None. trained_on: see `text.hash_objects`; None if unknown.
    """

    model_id: str
    spec: DataSpec
    columns: tuple[str, ...]
    calibration: Mapping[str, Any] | None = None
    conformal: Mapping[str, Any] | None = None
    trained_on: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Those it tells apart, in the order of their probabilities; () of a redshift."""
        return tuple(name for name in self.spec.classes if f"p_{name}" in self.columns)

    @property
    def averaged(self) -> tuple[str, ...]:
        """What an ensemble is the mean of: the probabilities of the classes, or, of a redshift, all columns."""
        return tuple(f"p_{name}" for name in self.classes) or self.columns

    @property
    def chosen(self) -> tuple[str, ...]:
        """The columns with the probabilities to use, calibrated if they can be; all, where there are none."""
        return tuple(f"{'q' if self.calibration else 'p'}_{name}" for name in self.classes) or self.columns

    def texts(self) -> dict[str, str]:
        """As an exported file holds them, by name; lists and dicts as JSON. Classes and features are in `spec` too."""
        words = {"format_version": str(FORMAT), "model_id": self.model_id, "licence": LICENCE}
        words |= {} if self.trained_on is None else {"trained_on": self.trained_on}
        plain = {
            "classes": self.spec.classes,
            "features": self.spec.features,
            "columns": self.columns,
            "spec": self.spec.plain(),
            "calibration": self.calibration,
            "conformal": self.conformal,
        }
        return words | {name: json.dumps(value) for name, value in plain.items()}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> "Facts":
        """`texts` back. Raises InputError where `export` wrote none, those of another format, or they make no sense."""
        if "format_version" not in texts:
            raise InputError("it does not tell what it classifies, so export did not write it.")
        if texts["format_version"] != str(FORMAT):
            raise InputError(f"its format is {texts['format_version'][:20]}, and this reads {FORMAT}. Export it again.")
        try:
            read = {name: json.loads(texts[name]) for name in ("spec", "columns", "calibration", "conformal")}
            spec = DataSpec.from_plain(read["spec"])
            rest = {name: read[name] for name in ("calibration", "conformal")}
            rest["trained_on"] = texts.get("trained_on")
            facts = construct(cls, texts["model_id"], spec, columns=tuple(read["columns"]), **rest)
            facts.check()
        except Exception as error:  # nonsense may raise nearly anything
            raise InputError(f"what it tells of itself is damaged: {one_line(error)}.") from None
        return facts

    def check(self) -> None:
        """Raise InputError for names that a table must not hold, and for values that cannot be applied to a stamp."""
        text.check_names([*self.spec.classes, *self.columns], "classes and columns", "it")
        try:
            np.empty((1, *self.spec.raw_shape))
            _ = self.calibration and float(self.calibration["temperature"])
            conformal.set_columns(self.conformal, {f"p_{name}": np.ones(1) for name in self.classes})
        except Exception as error:  # nonsense may raise nearly anything
            raise InputError(f"raw_shape, calibration or conformal cannot be applied: {one_line(error)}") from None
