"""A trained network, or several as one, ready for raw input: from a run folder or file to tables."""

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
ALIKE = ("classes", "features", "raw_shape", "channels", "kind", "survey")  # of the specs of networks joined


def load(*sources: str | Path, runtime: str | None = None, embedding: bool = False) -> "Classifier":
    """Return the classifier of a run folder, a checkpoint or an exported .onnx file; of several, their mean.

    runtime: what computes, one of `runtimes.RUNTIMES`, by default or of "auto" what `runtimes.choose` chooses; an
    exported file runs with onnx alone, and nothing here imports torch then. embedding: see `Classifier`. Raises
    InputError if a network is missing, or if several do not belong together.
    """
    paths, asked = [Path(source) for source in sources], "" if runtime == "auto" else runtime
    if not asked and (default := choose(len(paths))) == "float32" and not embedding:
        paths = list(map(_prefer_exported, paths))
    names = [asked or ("onnx" if path.suffix == ONNX else default) for path in paths]
    members = [_open(path, name, embedding) for path, name in zip(paths, names, strict=True)]
    return Classifier(members, "+".join(dict.fromkeys(names)), embedding)


def _prefer_exported(path: Path) -> Path:
    """Return the exported file of a bundled network, where onnxruntime is installed: it starts seconds earlier."""
    exported = Path(f"{path}{ONNX}")
    bundled = path.name == str(path) and not path.exists() and (files.PRETRAINED / exported).exists()
    return exported if bundled and find_spec("onnxruntime") else path


def _open(path: Path, runtime: str, embedding: bool) -> tuple[Facts, Runtime]:
    if path.suffix == ONNX:
        if runtime != "onnx":
            raise InputError(f"--runtime {runtime}: {path} runs with onnx alone; {runtime} needs the run folder.")
        if not path.exists() and (shipped := files.PRETRAINED / path.name).exists():
            path = shipped
        try:
            return open_exported(path.read_bytes(), str(path))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    if path.suffix == ".pt2":
        raise InputError(f"{path} is a program for torch.export.load; predict takes a .onnx file, or the run.")
    if runtime == "onnx":
        raise InputError(f"--runtime onnx runs exported files; write one: python -m alerce_early.export {path}.")
    if runtime not in RUNTIMES:
        raise InputError(f"--runtime {runtime} is unknown; there are auto, {', '.join(RUNTIMES)}.")
    with require_extra(f"{path} is no exported file"):  # torch, which who has an exported file need not have
        from alerce_early.artifacts.run_folder import checkpoint_of
        from alerce_early.serving.deployed import Deployed
    deployed = Deployed.load(checkpoint_of(path), embedding)
    return deployed.facts, RUNTIMES[runtime](deployed)


class Classifier:
    """Trained networks on raw stamps or spectra; several are averaged.

    classes: names, in the order of the probabilities; () of a redshift. features: names of the metadata columns
    it needs, in order; () if none. shape: of a raw stamp, (H, W, C), or of a spectrum, (L, C). model: id of the
    network; those of an ensemble are joined by "+". spec: all facts of the training data. survey: the one whose alerts
    it takes, by default that of its training data; "" is any, for a network that was trained for several. runtime: the
    name of what computes. embedding: whether tables have the column `EMBEDDING`, the output of the last hidden layer;
    several networks give that of the first, because the coordinates of two networks are unrelated. flags: columns
    is_<class> to add, see `flag`.
    """

    def __init__(self, members: Sequence[tuple[Facts, Runtime]], runtime: str, embedding: bool = False):
        self.embedding = embedding
        self.members, self.runtime = [facts for facts, _ in members], runtime
        self._runs = [run for _, run in members]
        first = self.members[0]
        self.spec, self.features, self.classes = first.spec, first.spec.features, first.classes
        self.flags: tuple[Flag, ...] = ()
        if not first.spec.raw_shape:
            raise InputError(f"model {first.model_id} does not tell the shape of raw stamps. Train again.")
        self.shape = (*first.spec.raw_shape[1:], first.spec.raw_shape[0])
        self.survey = first.spec.survey or stamps_file.SURVEY  # before it was a fact there was one
        self.model = "+".join(member.model_id for member in self.members)
        for member in self.members[1:]:
            both = {name: [getattr(one.spec, name) for one in (first, member)] for name in ALIKE}
            for what, pair in (
                both | {"what they return": [one.classes or one.columns for one in (first, member)]}
            ).items():
                if pair[0] != pair[1]:
                    listed = (", ".join(map(str, [one] if isinstance(one, str) else one)) or "none" for one in pair)
                    said = f"the runs differ in {what}: {' against '.join(listed)}"
                    raise InputError(f"--ensemble: {said}. Give networks that take and return the same.")

    def __repr__(self) -> str:
        told = ", ".join(self.classes) or "a number"
        members = f"mean of {len(self.members)} networks" if len(self.members) > 1 else "network"
        needed = f", with metadata ({', '.join(self.features)})" if self.features else ""
        return f"<{members} {self.model}, by {self.runtime}: {self.spec.kind} {self.shape}{needed} -> {told}>"

    def predict(
        self,
        stamps: Sequence[np.ndarray] | np.ndarray,
        metadata: np.ndarray | Sequence[Sequence[float]] | Mapping[str, np.ndarray] | None = None,
    ) -> Table:
        """Raw stamps to a table: a dict of columns (N,), which `pandas.DataFrame` and `pyarrow.table` take.

        stamps: N arrays (H, W, C) as read, NaN where there is no data, or one array (N, H, W, C); spectra (L, C).
        metadata: (N, F) raw columns in the order of `features`, or columns by name, a dict or a data frame, which
        may hold more; NaN or -999 where a value is missing, as which what float32 cannot hold counts too. Columns of
        the table: predicted; p_<class> uncalibrated, and q_<class> calibrated (the same where the run has no
        calibration), float32 in [0, 1]; entropy of the latter, nats; set, the classes, joined by "|", that hold the
        true one with the probability set_coverage, see `constants`, for the rows of every class, and set_marginal, the
        same over all rows (neither of an ensemble, to whose mean no promise applies); imputed, how many metadata are
        missing; model. Of a redshift: predicted, and confidence if the network tells it. `EMBEDDING`, if asked for, is
        (N, D) float16. Where the network's output
        is not finite, or a row has too little data (`has_data`), predicted is "" and the rest NaN.
        Raises InputError for another shape, for what is no number, stamps that were normalised before, or metadata
        that are lacking.
        """
        try:
            rows = len(stamps)
            # the pixels of an array are of one shape; those of a list are asked one by one
            whole = np.empty(0) if not isinstance(stamps, np.ndarray) or stamps.dtype == object else stamps
            shapes = [whole.shape[1:]] if whole.ndim > 1 else [np.shape(stamp) for stamp in stamps]
        except (TypeError, ValueError):
            raise InputError(f"stamps are no list of arrays, each of shape {self.shape}.") from None
        odd = [(i, shape) for i, shape in enumerate(shapes) if shape != self.shape]
        if odd:
            raise InputError(f"stamp {odd[0][0]} has shape {odd[0][1]}; this network takes {self.shape}.")
        try:
            images = np.asarray(whole if whole.ndim > 1 else list(stamps), dtype=np.float32)
        except (TypeError, ValueError):
            raise InputError("stamps hold something that is no number; NaN is for where there is none.") from None
        images = images.reshape(rows, *self.shape)  # of no stamps at all too
        if (known := self.find_normalised(images)).any():
            first = int(np.flatnonzero(known)[0])
            raise InputError(f"stamp {first}: {known[first]}.")
        return self._table(images, self._columns(metadata, rows, "metadata"))

    def has_data(self, images: np.ndarray) -> np.ndarray:
        """Tell which raw images (N, *shape) hold enough data for every network, (N,) bool; see `DataSpec.has_data`."""
        return np.all([member.spec.has_data(images) for member in self.members], axis=0)

    def find_normalised(self, images: np.ndarray) -> np.ndarray:
        """Return the reasons to reject images (N, *shape) that were normalised before, (N,) str, "" for the others."""
        found = find_normalised(images, *(member.spec.recipe for member in self.members))
        return np.array([REJECTION.format(kind, RECIPES[kind]) if kind else "" for kind in found.tolist()], dtype=str)

    def of_records(self, records: Records) -> Table:
        """Return the same table of records with dense images. Raises InputError for those of another survey."""
        if self.survey and records.survey not in ("", self.survey):
            raise InputError(
                f"{records.origin}: of {records.survey}, and model {self.model} is for {self.survey}; "
                f"{SURVEYS[records.survey].usage}."
            )
        columns = dict(zip(records.feature_names, records.features.T, strict=True))
        return self._table(np.asarray(records.images), self._columns(columns, len(records), records.origin))

    @property
    def calibration_note(self) -> str:
        """Why q_<class> equals p_<class>, in words; "" where it does not, or there are no classes."""
        fits = [member.calibration or {"temperature": 1.0} for member in self.members]
        if not self.classes or any(fit["temperature"] != 1 for fit in fits):
            return ""
        kept = dict.fromkeys(str(fit.get("kept") or "no temperature was fitted") for fit in fits)
        return f"q_<class> equals p_<class>, no temperature helped: {'; '.join(kept)}"

    @property
    def constants(self) -> dict[str, float | None]:
        """What holds for all rows of a table: set_coverage, the coverage that its sets promise, where it has any."""
        return conformal.list_constants(self.members[0].conformal if len(self.members) == 1 else None)

    def flag(self, text: str) -> None:
        """Add a column is_<class> (N,) bool to tables: by ``SN:purity=.9`` or ``SN:completeness=.9``, see `flags.find`.

        Raises InputError for an ensemble, whose mean has no operating points, and for a second one of a class.
        """
        if len(self.members) > 1:
            raise InputError(f"--threshold {text}: the mean of several networks has none. Leave out --ensemble.")
        new = find(text, self.members[0])
        if new.column in (flag.column for flag in self.flags):
            raise InputError(f"--threshold {text}: there is one of {new.name} already. Give one per class.")
        self.flags += (new,)

    def find_trained(self, ids: np.ndarray) -> np.ndarray | None:
        """Return which objects (N,) str trained or chose one of the networks, (N,) bool; None if none tells it."""
        known = [member.trained_on for member in self.members if member.trained_on is not None]
        return is_hashed(ids, "".join(known)) if known else None

    def find_answered(self, table: Table) -> np.ndarray:
        """Return (N,) bool: the rows of a table of `predict` for which the network returned finite numbers alone."""
        return table["predicted"] != "" if self.classes else np.isfinite(table["predicted"])

    def _columns(self, metadata: Any, rows: int, origin: str) -> np.ndarray:
        """(rows, F) float32 metadata in the order of `features`; what float32 cannot hold is infinite."""
        if not self.features or not rows:
            return np.empty((rows, len(self.features)), np.float32)
        if hasattr(metadata, "keys") and hasattr(metadata, "__getitem__"):
            found = self._named(metadata, rows, origin)
        else:
            found = np.empty((0, 0)) if metadata is None else to_numbers(metadata, "rows", origin)
        if found.shape != (rows, len(self.features)):
            raise InputError(
                f"{origin}: shape {found.shape if metadata is not None else 'none'}; wanted ({rows}, "
                f"{len(self.features)}): {', '.join(self.features)}."
            )
        with np.errstate(over="ignore"):
            return found.astype(np.float32)

    def _named(self, metadata: Any, rows: int, origin: str) -> np.ndarray:
        """(rows, F) float64 of columns by name."""
        lacking = [name for name in self.features if name not in metadata]
        if lacking:
            raise InputError(
                f"{origin}: has no metadata {', '.join(lacking[:4])}{', ...' if len(lacking) > 4 else ''}; "
                f"this network needs {len(self.features)} columns. Try a run with features=none."
            )
        columns = {name: to_numbers(metadata[name], f"values of {name}", origin) for name in self.features}
        for name, column in columns.items():
            if column.shape != (rows,):
                raise InputError(f"{origin}: {name} has shape {column.shape}; wanted ({rows},).")
        return np.stack(list(columns.values()), 1)

    def _table(self, images: np.ndarray, metadata: np.ndarray) -> Table:
        if not len(images):  # a table without rows has the columns of any other
            blank = self._table(np.full((1, *self.shape), np.nan), np.full((1, len(self.features)), np.nan, np.float32))
            return {name: column[:0] for name, column in blank.items()}
        found = [self._run_network(run, images, metadata) for run in self._runs]
        embedding = found[0].pop(EMBEDDING, None)
        if self.embedding and embedding is None:
            raise InputError(
                f"--embedding: model {self.members[0].model_id} returns none. Export an older .onnx file again, or "
                "choose a network that has a hidden layer and ends in a linear one."
            )
        table = found[0] if len(found) == 1 else _mean(found, self.classes)
        finite = np.isfinite(np.stack(list(table.values()))).all(0)  # of other rows nothing is known
        if self.classes:
            probabilities = tables.probabilities(table, self.classes)
            calibrated = np.stack([table[f"q_{name}"] for name in self.classes], 1).astype(np.float64)
            entropy = metrics.entropy(calibrated)
            sets = conformal.set_columns(self.members[0].conformal if len(self.members) == 1 else None, table)
            predicted = np.array(self.classes)[probabilities.argmax(1)]
            table = {"predicted": predicted, **table, "entropy": entropy.astype(np.float32), **sets}
        answered = finite & self.has_data(images)  # no answer rather than one that rests on nothing
        for name, column in table.items():
            table[name] = np.where(answered, column, "" if column.dtype.kind == "U" else np.nan).astype(column.dtype)
        if self.embedding and embedding is not None:
            embedding = np.where(answered[:, None], embedding.clip(-HALF_MAX, HALF_MAX), np.nan)
            table[EMBEDDING] = embedding.astype(np.float16)
        missing = ~np.isfinite(metadata) | (metadata == MISSING)
        flags = {flag.column: table[f"p_{flag.name}"] >= flag.threshold for flag in self.flags}  # no answer: False
        return {**table, **flags, "imputed": missing.sum(1), "model": np.full(len(images), self.model)}

    def _run_network(self, run: Runtime, images: np.ndarray, metadata: np.ndarray) -> Table:
        """Return all columns of one network, batch by batch."""
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
    """Return the mean of the probabilities, or of all columns where there are no classes to tell."""
    names = [f"{kind}_{name}" for kind in "pq" for name in classes] or list(found[0])
    return {name: np.mean([table[name] for table in found], axis=0) for name in names}
