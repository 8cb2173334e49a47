"""What must be known of a trained network to classify with it, whatever computes it; an exported file tells it."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alerce_early.artifacts import checkpoints
from alerce_early.construct import construct
from alerce_early.data import text
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError, one_line
from alerce_early.evaluation import conformal

FORMAT = 1  # of what a deployed network takes and returns
LICENCE = "MIT"
BATCH = 32  # rows per core through the network at once: what is in between stays in the cache
LARGEST = 1 << 24  # values of one raw row; a stamp has 12,000
# What tasks return, with classes and without; all other columns of a table are not the network's to fill.
OF_EACH_CLASS = ("p", "q", "std", "vote")  # p_<class> and so on
OF_CLASSES = ("entropy", "mutual_information", "entropy_of_means")
OF_REDSHIFT = ("predicted", "confidence")

# Raw stamps (B, C, H, W) float32, NaN where there is no data, and metadata (B, F) float32 or None, to all
# `Facts.columns`, each (B,) float32.
Runtime = Callable[[np.ndarray, np.ndarray | None], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Facts:
    """One trained network, but for its weights.

    model_id: 12 hex digits, of the weights and of all else that decides what comes out. spec: what it was trained
    on, with the recipe. columns: names of all it returns, as in the predictions table. calibration, conformal:
    the fits of the validation rows as plain values, or None. trained_on: see `names.hash_objects`; None if unknown.
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
            checkpoints.check(read, sum(map(len, texts.values())))
            spec = DataSpec.from_plain(read["spec"])
            rest = {name: read[name] for name in ("calibration", "conformal")}
            rest["trained_on"] = texts.get("trained_on")
            facts = construct(cls, texts["model_id"], spec, columns=tuple(read["columns"]), **rest)
            facts.check()
        except Exception as error:  # nonsense may raise nearly anything
            raise InputError(f"what it tells of itself is damaged: {one_line(error)}.") from None
        return facts

    def check(self) -> None:
        """Raise InputError for values that no network can have."""
        spec = self.spec
        if not re.fullmatch("[0-9a-f]{12}", self.model_id):
            raise InputError(f"model_id={self.model_id[:20]!r}; wanted 12 hex digits")
        sides = len(spec.raw_shape) in (2, 3) and min(spec.raw_shape) > 0 and math.prod(spec.raw_shape) <= LARGEST
        if spec.raw_shape and not sides:
            raise InputError(f"raw_shape={spec.raw_shape}; wanted the sides of a stamp or spectrum")
        for what in ("classes", "features", "channels"):
            _check_names(what, getattr(spec, what))
        _check_names("columns", self.columns)
        if self.classes not in ((), spec.classes) or not (self.classes or "predicted" in self.columns):
            raise InputError(f"columns={self.columns[:4]}; wanted p_<class> of every class, or predicted")
        of_each = (f"{kind}_{name}" for kind in OF_EACH_CLASS for name in self.classes)
        known = {*of_each, *OF_CLASSES} if self.classes else set(OF_REDSHIFT)
        if strange := [name for name in self.columns if name not in known]:
            raise InputError(f"columns include {strange[0]!r}, which no network returns")
        hashes = self.trained_on
        if hashes is not None and not (
            isinstance(hashes, str) and re.fullmatch(f"([0-9a-f]{{{text.DIGITS}}})*", hashes)
        ):
            raise InputError(f"trained_on={str(hashes)[:20]!r}; wanted {text.DIGITS} hex digits for each object")
        self._check_fits()

    def _check_fits(self) -> None:
        """Are they what `calibration.fit` and `conformal.fit` return for these classes?"""
        if self.calibration is not None:
            temperature = _with("calibration", self.calibration, ("temperature",))["temperature"]
            _check_numbers("calibration: temperature", [temperature], min(1, len(self.classes)))
            if temperature <= 0:
                raise InputError(f"calibration: temperature={temperature}; wanted a number above 0")
        if self.conformal is not None:
            fitted = _with("conformal", self.conformal, ("coverage", "thresholds"))
            _check_numbers("conformal: coverage", [fitted["coverage"]], 1)
            conformal.check(fitted["coverage"])
            thresholds = _with("conformal: thresholds", fitted["thresholds"], tuple(conformal.KINDS))
            for name in conformal.KINDS:
                _check_numbers(f"conformal: {name}", thresholds[name], len(self.classes))


def _with(what: str, held: object, wanted: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(held, Mapping) or not all(name in held for name in wanted):
        raise InputError(f"{what}={str(held)[:60]!r}; wanted {', '.join(wanted)}")
    return held


def _check_numbers(what: str, given: object, n: int) -> None:
    listed = given if isinstance(given, list | tuple) else ()
    most = float(np.finfo(np.float32).max)  # which NaN is not within either
    if not n or len(listed) != n or not all(type(one) in (int, float) and abs(one) <= most for one in listed):
        raise InputError(f"{what}={str(given)[:60]}; wanted {n or 'no'} finite numbers")


def _check_names(what: str, given: tuple[str, ...]) -> None:
    text.check_names(given, what, "it")
    if len(set(given)) < len(given):
        raise InputError(f"{what} repeat a name")
