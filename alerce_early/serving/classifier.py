"""Classify raw stamps or spectra with one trained network, or with the mean of several.

`load` opens run folders, checkpoints and exported files. How the network is computed is decided in `runtimes`; reading
files and writing tables is the work of `inputs` and `predict`.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early import files
from alerce_early.artifacts.predictions import EMBEDDING
from alerce_early.data.normalised import RECIPES, REJECTION, find_normalised
from alerce_early.data.readers import stamps_file
from alerce_early.data.readers.packets.fields import SURVEYS
from alerce_early.data.records import MISSING, Records, to_numbers
from alerce_early.data.text import is_hashed
from alerce_early.errors import InputError, require_extra
from alerce_early.evaluation import conformal, metrics, tables
from alerce_early.machine import threads
from alerce_early.serving.flags import Flag, find
from alerce_early.serving.runtimes import BATCH, ONNX, RUNTIMES, Facts, Runtime, choose, open_exported

Table = dict[str, np.ndarray]
HALF_MAX = float(np.finfo(np.float16).max)
# Fields of the spec that must be equal in all networks of an ensemble.
ENSEMBLE_FIELDS = ("classes", "features", "raw_shape", "channels", "kind")


def load(*sources: str | Path, runtime: str | None = None, embedding: bool = False) -> "Classifier":
    """Load a trained network, or the mean of several, as a classifier of raw input.

    Loading and running an exported file does not import torch.

    Parameters
    ----------
    *sources : str or Path
        Run folders, checkpoints, exported .onnx files, or names of bundled networks such as "ztf".
    runtime : str, optional
        A key of `runtimes.RUNTIMES`, "onnx" for exported files, or "auto", the default: the choice of
        `runtimes.choose`.
    embedding : bool, default False
        Add the output of the last hidden layer to the tables.

    Returns
    -------
    Classifier
        The network, ready for raw stamps or spectra.

    Raises
    ------
    InputError
        If a network cannot be opened, the runtime cannot run it, or the networks differ in their inputs or outputs.
    """
    paths, asked = [Path(source) for source in sources], "" if runtime == "auto" else runtime
    if not asked and (default := choose(len(paths))) == "float32" and not embedding:
        paths = list(map(_prefer_exported, paths))
    names = [asked or ("onnx" if path.suffix == ONNX else default) for path in paths]
    members = [_open(path, name, embedding) for path, name in zip(paths, names, strict=True)]
    return Classifier(members, "+".join(dict.fromkeys(names)), embedding)


def _prefer_exported(path: Path) -> Path:
    """Return the exported file of a bundled network if onnxruntime is installed, because it loads seconds faster."""
    exported = Path(f"{path}{ONNX}")
    bundled = path.name == str(path) and not path.exists() and (files.PRETRAINED / exported).exists()
    return exported if bundled and find_spec("onnxruntime") else path


def _open(path: Path, runtime: str, embedding: bool) -> tuple[Facts, Runtime]:
    """Open one network with one runtime."""
    if path.suffix == ONNX:
        if runtime != "onnx":
            raise InputError(
                f"--runtime {runtime}: {path} is an exported file, which only onnxruntime can run. Leave out "
                "--runtime, or give the run folder."
            )
        if not path.exists() and (shipped := files.PRETRAINED / path.name).exists():
            path = shipped
        try:
            return open_exported(path.read_bytes(), str(path))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    if path.suffix == ".pt2":
        raise InputError(f"{path}: a program for torch.export.load. Give a .onnx file or the run folder instead.")
    if runtime == "onnx":
        raise InputError(
            f"--runtime onnx: {path} is not an exported file. Write one with python -m alerce_early.export {path}."
        )
    if runtime not in RUNTIMES:
        raise InputError(f"--runtime {runtime}: unknown runtime. Choose from auto, {', '.join(RUNTIMES)}.")
    with require_extra(f"{path} is not an exported file"):  # exported files run without torch
        from alerce_early.artifacts.run_folder import checkpoint_of
        from alerce_early.serving.deployed import Deployed
    deployed = Deployed.load(checkpoint_of(path), embedding)
    return deployed.facts, RUNTIMES[runtime](deployed)


class Classifier:
    """One trained network, or the mean of several, that takes raw stamps or spectra.

    Parameters
    ----------
    members : sequence of (Facts, Runtime)
        The networks, with equal inputs and outputs.
    runtime : str
        Name of the runtime; several names are joined by "+".
    embedding : bool, default False
        Add the column `EMBEDDING` to the tables: the output of the last hidden layer. For several networks it is the
        first network's output, because the coordinates of two networks are unrelated.

    Attributes
    ----------
    classes : tuple of str
        Class names in the order of the probabilities; empty for a redshift.
    features : tuple of str
        Names of the required metadata columns, in order.
    shape : tuple of int
        Shape of a raw stamp, (H, W, C), or of a spectrum, (L, C).
    model : str
        Id of the network; the ids of an ensemble are joined by "+".
    spec : DataSpec
        Description of the training data.
    survey : str
        Survey whose alerts are accepted, by default the one of the training data. "" accepts any survey, for a network
        that was trained on several.
    flags : tuple of Flag
        Thresholds of the columns is_<class>, see `flag`.

    Raises
    ------
    InputError
        If the shape of raw stamps is unknown, or if the networks differ in their inputs or outputs.
    """

    def __init__(self, members: Sequence[tuple[Facts, Runtime]], runtime: str, embedding: bool = False):
        self.embedding = embedding
        self.members, self.runtime = [facts for facts, _ in members], runtime
        self._runs = [run for _, run in members]
        first = self.members[0]
        self.spec, self.features, self.classes = first.spec, first.spec.features, first.classes
        self.flags: tuple[Flag, ...] = ()
        if not first.spec.raw_shape:
            raise InputError(f"model {first.model_id}: has no raw_shape, the shape of raw stamps. Train again.")
        self.shape = (*first.spec.raw_shape[1:], first.spec.raw_shape[0])
        self.survey = first.spec.survey or stamps_file.SURVEY  # networks without a survey are older than the second one
        self.model = "+".join(member.model_id for member in self.members)
        for member in self.members[1:]:
            both = {name: [getattr(one.spec, name) for one in (first, member)] for name in ENSEMBLE_FIELDS}
            both["survey"] = [one.spec.survey or stamps_file.SURVEY for one in (first, member)]
            for name, pair in (both | {"outputs": [one.classes or one.columns for one in (first, member)]}).items():
                if pair[0] != pair[1]:
                    listed = (", ".join(map(str, [one] if isinstance(one, str) else one)) or "none" for one in pair)
                    differs = f"the networks differ in {name}: {' against '.join(listed)}"
                    raise InputError(f"--ensemble: {differs}. Give networks with the same inputs and outputs.")

    def __repr__(self) -> str:
        outputs = ", ".join(self.classes) or "a number"
        members = f"mean of {len(self.members)} networks" if len(self.members) > 1 else "network"
        needed = f", with metadata ({', '.join(self.features)})" if self.features else ""
        return f"<{members} {self.model}, by {self.runtime}: {self.spec.kind} {self.shape}{needed} -> {outputs}>"

    def predict(
        self,
        stamps: Sequence[np.ndarray] | np.ndarray,
        metadata: np.ndarray | Sequence[Sequence[float]] | Mapping[str, np.ndarray] | None = None,
    ) -> Table:
        """Classify raw stamps or spectra.

        Parameters
        ----------
        stamps : (N, H, W, C) array, or sequence of N (H, W, C) arrays
            Raw pixels, NaN for missing data. Spectra are (L, C).
        metadata : (N, F) array, or mapping of str to (N,) array, optional
            Raw columns in the order of `features`, or columns by name: a dict or a data frame, where more columns are
            allowed. NaN, -999 and values beyond float32 count as missing.

        Returns
        -------
        dict of str to ndarray
            Columns (N,), as `pandas.DataFrame` and `pyarrow.table` take them. Of a classifier: ``predicted``;
            ``p_<class>``, uncalibrated, and ``q_<class>``, calibrated, float32 in [0, 1], equal if the run has no
            calibration; ``entropy`` of ``q_<class>`` in nats. Of a single network also the conformal prediction sets
            ``set``, by class, and ``set_marginal``, over all rows: class names joined by "|". Of a redshift:
            ``predicted`` and, if the network estimates it, ``confidence``. Always ``imputed``, the number of missing
            metadata values, and ``model``. On request ``is_<class>`` bool and `EMBEDDING` (N, D) float16. If the
            output is not finite or a row has too little data (see `has_data`), ``predicted`` is "" (NaN for a
            redshift) and the other outputs are NaN.

        Raises
        ------
        InputError
            If stamps have another shape, are not numeric or were normalised before, or if metadata are missing.

        References
        ----------
        Guo et al. 2017, ICML (temperature scaling); Sadinle et al. 2019, JASA 114, 223 (prediction sets).
        """
        try:
            rows = len(stamps)
            # one array has one shape; the items of a list are checked one by one
            whole = np.empty(0) if not isinstance(stamps, np.ndarray) or stamps.dtype == object else stamps
            shapes = [whole.shape[1:]] if whole.ndim > 1 else [np.shape(stamp) for stamp in stamps]
        except (TypeError, ValueError):
            raise InputError(f"stamps: not a list of arrays. Give one array of shape {self.shape} per row.") from None
        odd = [(i, shape) for i, shape in enumerate(shapes) if shape != self.shape]
        if odd:
            raise InputError(f"stamp {odd[0][0]}: has shape {odd[0][1]}, expected {self.shape}.")
        try:
            images = np.asarray(whole if whole.ndim > 1 else list(stamps), dtype=np.float32)
        except (TypeError, ValueError):
            raise InputError("stamps: a pixel is not a number. Use NaN for missing data.") from None
        images = images.reshape(rows, *self.shape)  # also for an empty list
        if (known := self.find_normalised(images)).any():
            first = int(np.flatnonzero(known)[0])
            raise InputError(f"stamp {first}: {known[first]}.")
        return self._table(images, self._columns(metadata, rows, "metadata"))

    def has_data(self, images: np.ndarray) -> np.ndarray:
        """Return a mask (N,) of the raw images (N, *shape) with enough valid pixels for every network.

        The criterion is `DataSpec.has_data`.
        """
        return np.all([member.spec.has_data(images) for member in self.members], axis=0)

    def find_normalised(self, images: np.ndarray) -> np.ndarray:
        """Return a reason (N,) str for each image (N, *shape) that was normalised before, "" for raw images."""
        found = find_normalised(images, *(member.spec.recipe for member in self.members))
        return np.array([REJECTION.format(kind, RECIPES[kind]) if kind else "" for kind in found.tolist()], dtype=str)

    def of_records(self, records: Records) -> Table:
        """Classify records with dense images.

        Parameters
        ----------
        records : Records
            Rows of any reader, with images of this network's shape and its metadata columns.

        Returns
        -------
        dict of str to ndarray
            The table of `predict`.

        Raises
        ------
        InputError
            If the records are from another survey, or if a metadata column is missing.
        """
        if self.survey and records.survey not in ("", self.survey):
            raise InputError(
                f"{records.origin}: data of {records.survey}, but model {self.model} was trained on {self.survey}; "
                f"{SURVEYS[records.survey].usage}."
            )
        columns = dict(zip(records.feature_names, records.features.T, strict=True))
        return self._table(np.asarray(records.images), self._columns(columns, len(records), records.origin))

    @property
    def calibration_note(self) -> str:
        """Reason why q_<class> equals p_<class>; "" if they differ or the network has no classes."""
        fits = [member.calibration or {"temperature": 1.0} for member in self.members]
        if not self.classes or any(fit["temperature"] != 1 for fit in fits):
            return ""
        kept = dict.fromkeys(str(fit.get("kept") or "no temperature was fitted") for fit in fits)
        return f"q_<class> equals p_<class>, because no temperature improved it: {'; '.join(kept)}"

    @property
    def constants(self) -> dict[str, float | None]:
        """Values that hold for all rows of a table: set_coverage, the nominal coverage of the prediction sets."""
        return conformal.list_constants(self.members[0].conformal if len(self.members) == 1 else None)

    def flag(self, text: str) -> None:
        """Add a column is_<class> (N,) bool to the tables.

        Parameters
        ----------
        text : str
            ``CLASS:purity=LEVEL`` or ``CLASS:completeness=LEVEL``, such as ``SN:purity=.9``; see `flags.find`.

        Raises
        ------
        InputError
            For an ensemble, whose mean has no operating points, for a second threshold of the same class, or if
            `flags.find` finds no threshold.
        """
        if len(self.members) > 1:
            raise InputError(
                f"--threshold {text}: the mean of several networks has no operating points. Leave out --ensemble."
            )
        new = find(text, self.members[0])
        if new.column in (flag.column for flag in self.flags):
            raise InputError(f"--threshold {text}: {new.name} already has a threshold. Give one per class.")
        self.flags += (new,)

    def find_trained(self, ids: np.ndarray) -> np.ndarray | None:
        """Return a mask (N,) of the object ids (N,) used in training or model selection; None if unknown."""
        known = [member.trained_on for member in self.members if member.trained_on is not None]
        return is_hashed(ids, "".join(known)) if known else None

    def find_answered(self, table: Table) -> np.ndarray:
        """Return a mask (N,) of the rows of a table of `predict` with finite outputs."""
        return table["predicted"] != "" if self.classes else np.isfinite(table["predicted"])

    def _columns(self, metadata: Any, rows: int, origin: str) -> np.ndarray:
        """Return metadata (rows, F) float32 in the order of `features`; values beyond float32 become infinite."""
        if not self.features or not rows:
            return np.empty((rows, len(self.features)), np.float32)
        if hasattr(metadata, "keys") and hasattr(metadata, "__getitem__"):
            found = self._named(metadata, rows, origin)
        else:
            found = np.empty((0, 0)) if metadata is None else to_numbers(metadata, "rows", origin)
        if found.shape != (rows, len(self.features)):
            given = "has no metadata" if metadata is None else f"metadata have shape {found.shape}"
            expected = f"({rows}, {len(self.features)})"
            raise InputError(f"{origin}: {given}, expected {expected}: {', '.join(self.features)}.")
        with np.errstate(over="ignore"):
            return found.astype(np.float32)

    def _named(self, metadata: Any, rows: int, origin: str) -> np.ndarray:
        """Return metadata columns given by name as one array (rows, F) float64."""
        missing = [name for name in self.features if name not in metadata]
        if missing:
            raise InputError(
                f"{origin}: has no metadata {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}; "
                f"this network needs {len(self.features)} columns. Add them, or use a run with features=none."
            )
        columns = {name: to_numbers(metadata[name], f"values of {name}", origin) for name in self.features}
        for name, column in columns.items():
            if column.shape != (rows,):
                raise InputError(f"{origin}: {name} has shape {column.shape}, expected ({rows},).")
        return np.stack(list(columns.values()), 1)

    def _table(self, images: np.ndarray, metadata: np.ndarray) -> Table:
        """Classify raw images (N, *shape) with metadata (N, F)."""
        if not len(images):  # an empty table has the same columns
            blank = self._table(np.full((1, *self.shape), np.nan), np.full((1, len(self.features)), np.nan, np.float32))
            return {name: column[:0] for name, column in blank.items()}
        found = [self._run_network(run, images, metadata) for run in self._runs]
        embedding = found[0].pop(EMBEDDING, None)
        if self.embedding and embedding is None:
            raise InputError(
                f"--embedding: model {self.members[0].model_id} does not return an embedding. Export the .onnx file "
                "again, or choose a network with a hidden layer that ends in a linear one."
            )
        table = found[0] if len(found) == 1 else _mean(found, self.classes)
        finite = np.isfinite(np.stack(list(table.values()))).all(0)
        if self.classes:
            probabilities = tables.probabilities(table, self.classes)
            calibrated = np.stack([table[f"q_{name}"] for name in self.classes], 1).astype(np.float64)
            entropy = metrics.entropy(calibrated)
            sets = conformal.set_columns(self.members[0].conformal if len(self.members) == 1 else None, table)
            predicted = np.array(self.classes)[probabilities.argmax(1)]
            table = {"predicted": predicted, **table, "entropy": entropy.astype(np.float32), **sets}
        answered = finite & self.has_data(images)  # a prediction without data would be arbitrary
        for name, column in table.items():
            table[name] = np.where(answered, column, "" if column.dtype.kind == "U" else np.nan).astype(column.dtype)
        if self.embedding and embedding is not None:
            embedding = np.where(answered[:, None], embedding.clip(-HALF_MAX, HALF_MAX), np.nan)
            table[EMBEDDING] = embedding.astype(np.float16)
        missing = ~np.isfinite(metadata) | (metadata == MISSING)
        flags = {flag.column: table[f"p_{flag.name}"] >= flag.threshold for flag in self.flags}  # False for NaN
        return {**table, **flags, "imputed": missing.sum(1), "model": np.full(len(images), self.model)}

    def _run_network(self, run: Runtime, images: np.ndarray, metadata: np.ndarray) -> Table:
        """Compute all columns of one network, batch by batch."""
        stamps = np.moveaxis(images.astype(np.float32, copy=False), -1, 1)
        columns = metadata if self.features else None
        at_once = BATCH * threads()
        parts = []
        for start in range(0, len(stamps), at_once):
            rows = slice(start, start + at_once)
            parts.append(run(np.ascontiguousarray(stamps[rows]), None if columns is None else columns[rows]))
        table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        uncalibrated = {f"q_{name}": table[f"p_{name}"] for name in self.classes}
        return {**table, **{name: table.get(name, column) for name, column in uncalibrated.items()}}


def _mean(found: Sequence[Table], classes: Sequence[str]) -> Table:
    """Average the probabilities of several networks, or all columns of networks without classes."""
    names = [f"{kind}_{name}" for kind in "pq" for name in classes] or list(found[0])
    return {name: np.mean([table[name] for table in found], axis=0) for name in names}
