"""The LightningDataModule: store, classes, splits and batches of one data set."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from alerce_early.construct import construct, function
from alerce_early.data import coordinates, nights, splits
from alerce_early.data.records import MISSING, UNLABELLED, Records, with_extra
from alerce_early.data.sampling import EpochBatches, MixedBatches, Rows
from alerce_early.data.spec import DataSpec
from alerce_early.data.store import Store, open_or_prepare
from alerce_early.errors import InputError

log = logging.getLogger(__name__)

EVALUATION_BATCH = 256  # rows; bounds memory, changes no result


class AlertData(L.LightningDataModule):
    """The LightningDataModule of every system: rows of one store, split and batched.

    name, source: of the data config; `source` is the plain config of a reader. steps, margin, min_share: the recipe,
    the sky it keeps for augmentation, and the share of central pixels that must hold data. features: metadata columns
    to hand to the net, by name, or None for all. groups: new class to the classes it holds, e.g. {"SN": ["SN"], "rest":
    ["AGN", "VS"]}; a class in no group is left out, and so is a group of None. keep: column to the values it may have,
    e.g. {"z_conf": [3]}; other rows are left out. target: the column to predict, for regression; rows without it are
    left out. match_radius: arcsec within which rows
    are of one object, see `coordinates.match_objects`; None: by name alone. split: options of `splits.split`. nights: a
    CSV with the nights of the objects, see `nights.read_nights`, for data that do not say when they were observed.
    simulated: the plain config of a reader of simulated stamps, and simulated_share the share of each training batch
    that they are, as many of each class; they are in no part, so they are never judged and decide neither the spec nor
    a baseline. sampling, batch_size, batches_per_epoch: see `EpochBatches`. Batches are dicts of image (B, C, S, S)
    float32, features (B, F) float32 unscaled, label (B,) int64, row (B,) int64, share () float32 (see `Rows`) and, if
    there are any, target (B,) float32 and taught (B, classes) float32.
    """

    def __init__(
        self,
        *,
        name: str,
        source: Mapping[str, Any],
        steps: Sequence[dict[str, Any]],
        margin: int = 0,
        min_share: float = 0.0,
        features: Sequence[str] | None = (),
        groups: Mapping[str, Sequence[str] | None] | None = None,
        keep: Mapping[str, Sequence[float]] | None = None,
        target: str | None = None,
        match_radius: float | None = 1.5,
        split: Mapping[str, Any] | None = None,
        nights: str | None = None,
        simulated: Mapping[str, Any] | None = None,
        simulated_share: float = 0.0,
        sampling: str = "balanced",
        batch_size: int = 64,
        batches_per_epoch: int | None = None,
        seed: int = 0,
        outputs: str = "outputs",
    ):
        super().__init__()
        # ~ that the shell has left, as in data.path=~/x
        home = {key: os.path.expanduser(value) for key, value in source.items() if key.endswith("path") and value}
        self.source, self.steps, self.margin, self.min_share = {**source, **home}, list(steps), margin, min_share
        self.store_name = name  # `name` is the base class's
        self.groups = {new: members for new, members in (groups or {}).items() if members}
        self.wanted_features, self.split = features, dict(split or {})
        self.keep, self.target, self.match_radius = dict(keep or {}), target, match_radius
        self.nights = os.path.expanduser(nights) if nights else None
        self.n_simulated = _count_simulated(simulated_share, batch_size, simulated)
        self.simulated = dict(simulated) if simulated and self.n_simulated else None
        self.sampling, self.batch_size, self.batches_per_epoch = sampling, batch_size, batches_per_epoch
        self.seed, self.outputs = seed, outputs
        self.rows: Rows | None = None
        self._store: Store | None = None
        self.taught: np.ndarray | None = None

    def teach(self, probabilities: np.ndarray) -> None:
        """Let a network's probabilities (N, classes) float32 of the store's rows stand beside the labels.

        Batches get them as taught (B, classes) float32: the mean of label and network, or, where a row has no label,
        what the network says. Training rows without a label train as well, drawn as if of their most probable class.
        """
        self.taught = probabilities

    def prepare_data(self) -> None:
        """Read and clean the raw file into a store, unless there is one already.

        Raises InputError where the file or the disk do not allow it.
        """
        self._store = open_or_prepare(
            root=f"{self.outputs}/stores",
            name=self.store_name,
            source=self.source | ({"simulated": self.simulated} if self.simulated else {}),
            read=self._read,
            steps=self.steps,
            margin=self.margin,
            min_share=self.min_share,
        )

    def _read(self) -> Records:
        records = _call_reader(self.source)
        return with_extra(records, _call_reader(self.simulated), "simulated") if self.simulated else records

    @property
    def store(self) -> Store:
        """The cleaned arrays; `prepare_data` makes or opens them."""
        if self._store is None:
            self.prepare_data()
        assert self._store
        return self._store

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.groups) if self.groups else tuple(self.store.meta["classes"])

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64, after grouping; `UNLABELLED` for rows without a label, in no group, or to be left out."""
        known = self.store.meta["classes"]
        if (self.store.labels[~self._is("simulated")] == UNLABELLED).all():
            flag = " Give them with data.labels=FILE, a CSV of candid, label." if "labels_path" in self.source else ""
            raise InputError(f"{self.store.meta['origin']}: no row has a label, and training needs them.{flag}")
        renumber = np.arange(len(known))
        if self.groups:
            unknown = sorted({old for members in self.groups.values() for old in members} - set(known))
            if unknown:
                raise InputError(f"data.groups: there is no class {', '.join(unknown)}; there are {', '.join(known)}.")
            renumber[:] = UNLABELLED
            for new, members in enumerate(self.groups.values()):
                renumber[[known.index(old) for old in members]] = new
        labels = np.where((self.store.labels >= 0) & self._kept, renumber[self.store.labels], UNLABELLED)
        counts = np.bincount(labels[labels >= 0], minlength=len(self.classes))
        empty = [name for name, count in zip(self.classes, counts, strict=True) if count == 0]
        if empty:
            raise InputError(
                f"{self.store.meta['origin']}: class {', '.join(empty)} has no row left after cleaning. "
                "Name the classes to use with data.classes=[...], or groups: 'data.groups={SN:[SN],rest:[AGN,VS]}'."
            )
        return labels

    @cached_property
    def objects(self) -> np.ndarray:
        """(N,) str, the object of each row: its id, or, where the store has positions, the first of all ids there."""
        ids = self.store.ids
        places = self.metadata(("ra", "dec"), np.arange(len(ids)))
        if self.match_radius is None or len(places) < 2:
            return ids
        objects = coordinates.match_objects(ids, **places, radius=self.match_radius)
        if merged := len(np.unique(ids)) - len(np.unique(objects)):
            log.info("%d ids within %g arcsec of another are its object", merged, self.match_radius)
        return objects

    @cached_property
    def observed(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and nights on which their objects were observed, (M,) int64 each.

        Raises InputError where no night is known of a row that is not simulated.
        """
        if self.nights:
            of = nights.read_nights(self.nights, self.store.meta["survey"])
            pairs = [(row, night) for row, name in enumerate(self.store.ids) for night in sorted(of.get(str(name), ()))]
            rows, found = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        else:
            night = np.full(len(self.store.ids), nights.UNKNOWN) if self.store.night is None else self.store.night
            rows = np.flatnonzero(night != nights.UNKNOWN)
            found = night[rows]
        unknown = self._is("simulated")
        unknown[rows] = True
        if lacking := int((~unknown).sum()):
            raise InputError(
                f"data.split.by=night: the night of {lacking:,} of {len(unknown):,} rows is not known, such "
                f"as {self.store.ids[~unknown][0]}. Give data.nights=FILE, a CSV of objectId and one of jd, mjd, "
                "candid and night that has all of them."
            )
        return rows, found

    @cached_property
    def groups_kept_whole(self) -> np.ndarray:
        """(N,) str, the rows that are in one part together: those of one object or, by night, see `nights.connect`."""
        if self.split.get("by") != "night":
            return self.objects
        rows, found = self.observed
        own = ~self._is("extra")[rows]  # two nights that an extra row connects may be in two parts: it judges nothing
        groups = nights.connect(self.objects, rows[own], found[own])
        _, sizes = np.unique(groups[~self._is("extra") & ~self._is("simulated")], return_counts=True)
        log.info("%d groups of objects that nights connect, of %d rows at most", len(sizes), sizes.max())
        return groups

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Row numbers in the store of each part."""
        groups = self.groups_kept_whole
        if self.store.part is not None:
            part = splits.apply_prescribed(self.store.part, self.labels, groups, self.classes, **self.split)
        else:
            part = construct(splits.split, self.labels, groups, self.classes, **self.split)
        if self.split.get("by") == "night":
            row, night = self.observed
            held = np.isin(night, night[part[row] > splits.TRAIN])
            part[row[held & self._is("extra")[row]]] = -1
        unlabelled = (self.store.labels == UNLABELLED) & self._kept
        used = self.labels >= 0
        # a test file may come without labels: its rows are predicted and not judged; others train where taught
        used |= unlabelled & ((part == splits.TEST) | ((part == splits.TRAIN) & (self.taught is not None)))
        rows = {name: np.flatnonzero((part == i) & used) for i, name in enumerate(splits.PARTS)}
        for name, found in rows.items():
            counts = self._counts(found)
            lacking = [c for c, count in zip(self.classes, counts, strict=True) if count == 0]
            # a test file may be about some of the classes only, and so may the nights of one fold
            some = self.store.part is not None or (self.split.get("by") == "night" and self.split.get("folds"))
            if lacking and (name != "test" or not some or not len(found)):
                raise InputError(
                    f"the {name} split has no {', '.join(lacking)}: too few rows of it. "
                    "Give more data, or group classes with data.groups=..."
                )
        return rows

    @cached_property
    def spec(self) -> DataSpec:
        """What the model must know; standardisation from the training split only."""
        values = self._features[self.parts["train"]].astype(np.float64)
        return DataSpec(
            kind=self.store.meta["kind"],
            shape=tuple(self.store.meta["shape"]),
            classes=self.classes,
            features=self.feature_names,
            feature_mean=tuple(values.mean(0).tolist()),
            feature_std=tuple(np.where(values.std(0) > 0, values.std(0), 1.0).tolist()),
            recipe=tuple(self.steps),
            margin=self.margin,
            n_train=len(self.parts["train"]),
            fingerprint=self.store.meta["fingerprint"],
            origin=self.store.meta["origin"],
            raw_shape=(self.store.meta["raw_shape"][-1], *self.store.meta["raw_shape"][:-1]),
            channels=tuple(self.store.meta["channels"]),
            min_share=self.min_share,
            survey=self.store.meta["survey"],
            class_counts=tuple(self._counts(self.parts["train"])),
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(self.store.meta["features"] if self.wanted_features is None else self.wanted_features)

    @cached_property
    def _features(self) -> np.ndarray:
        if self.feature_names and (lacking := self.store.meta["without_metadata"]):
            raise InputError(
                f"features.names: {lacking:,} rows have no metadata at all. Try features=none, or leave out data.extra."
            )
        return self.find_columns("features.names", self.feature_names)

    @cached_property
    def _kept(self) -> np.ndarray:
        """(N,) bool: rows with an allowed value in every column of `keep`, and with a target if one is wanted."""
        kept = np.ones(len(self.store.labels), dtype=bool)
        for name, values in self.keep.items():
            kept &= np.isin(self.find_columns("keep", [name])[:, 0], values)
        if self.target:
            kept &= self.find_columns("target", [self.target])[:, 0] != MISSING
        return kept

    def _is(self, part: str) -> np.ndarray:
        """(N,) bool: rows that the file gives to this part."""
        return np.full(len(self.store.ids), False) if self.store.part is None else self.store.part == part

    def metadata(self, names: Iterable[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Those of the named columns that the store has, (n,) float64 of these rows; NaN where a value is missing."""
        known = list(self.store.meta["features"])
        found = {name: self.store.features[rows, known.index(name)] for name in names if name in known}
        return {name: np.where(column == MISSING, np.nan, column) for name, column in found.items()}

    def find_classes(self, rows: np.ndarray) -> set[str]:
        """Return the classes of the file, before any grouping, that these rows are of."""
        found = np.unique(self.store.labels[rows])
        return {self.store.meta["classes"][label] for label in found[found != UNLABELLED]}

    def find_columns(self, option: str, names: Sequence[str]) -> np.ndarray:
        """(N, len(names)) float32 columns of the store, for the option that names them."""
        known = list(self.store.meta["features"])
        unknown = [name for name in names if name not in known]
        if unknown and not known:
            raise InputError(f"{option}: the data have no metadata. Try features=none, or another model.")
        if unknown:
            raise InputError(f"{option}: no column {', '.join(unknown)}; there are {', '.join(known)}.")
        return self.store.features[:, [known.index(name) for name in names]].astype(np.float32)

    def setup(self, stage: str | None = None) -> None:
        """Put the arrays where batches are cut, once: memory-mapped for a CPU, on the device for a GPU."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        rank, world = self._rank()
        if self.rows and (self.rows.device, self.rows.rank, self.rows.world) == (device, rank, world):
            return
        columns = {
            # a private copy-on-write map: torch wants writable memory and nothing ever writes to it
            "image": np.load(self.store.path / "images.npy", mmap_mode="c"),
            "features": self._features,
            "label": self.labels,
        }
        if self.taught is not None:
            known = np.eye(len(self.classes), dtype=np.float32)[self.labels]
            columns["taught"] = np.where(self.labels[:, None] >= 0, (known + self.taught) / 2, self.taught)
        if self.target:
            columns["target"] = self.find_columns("target", [self.target])[:, 0]
        self.rows = Rows(rank, world, **{name: torch.from_numpy(one).to(device) for name, one in columns.items()})

    @property
    def left_out(self) -> dict[str, int]:
        """How many rows of each class are in no group."""
        grouped = {old for members in self.groups.values() for old in members}
        counts = zip(self.store.meta["classes"], self.store.meta["kept_by_class"], strict=True)
        return {name: count for name, count in counts if self.groups and name not in grouped and count}

    def part_sizes(self) -> dict[str, dict[str, int]]:
        """Rows of each class in each part; "unlabelled" counts the rest, where there are any."""
        sizes = {part: dict(zip(self.classes, self._counts(rows), strict=True)) for part, rows in self.parts.items()}
        blind = {part: int((self.labels[rows] == UNLABELLED).sum()) for part, rows in self.parts.items()}
        if self.simulated:
            sizes["simulated"] = dict(zip(self.classes, self._counts(self.simulated_rows), strict=True))
            blind["simulated"] = 0
        return {
            part: counts | ({"unlabelled": blind[part]} if any(blind.values()) else {})
            for part, counts in sizes.items()
        }

    @property
    def simulated_rows(self) -> np.ndarray:
        """Row numbers of the simulated stamps that batches are mixed with."""
        return np.flatnonzero(self._is("simulated") & (self.labels >= 0))

    def _counts(self, rows: np.ndarray) -> list[int]:
        """Labelled rows of each class."""
        labels = self.labels[rows]
        return np.bincount(labels[labels >= 0], minlength=len(self.classes)).tolist()

    def _rank(self) -> tuple[int, int]:
        """Return the number of this process, and how many train together."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def describe_epoch(self) -> str:
        """Return in words what an epoch of training shows."""
        return self._train_batches().describe(self.classes)

    def _train_batches(self) -> EpochBatches:
        """Return the batches of the training rows, without the simulated ones that they are mixed with."""
        own, options = self.batch_size - self.n_simulated, {"batches": self.batches_per_epoch}
        return self._batches(self.parts["train"], own, sampling=self.sampling, **options)

    def _batches(self, rows: np.ndarray, batch_size: int, **options: Any) -> EpochBatches:
        labels = self.labels[rows]
        if self.taught is not None:
            labels = np.where(labels >= 0, labels, self.taught[rows].argmax(1))
        options |= {"seed": self.seed, "world": self._rank()[1], "device": self.rows.device if self.rows else "cpu"}
        return EpochBatches(rows, labels, batch_size=batch_size, **options)

    def _loader(self, sampler: Sampler[Tensor]) -> DataLoader[dict[str, Tensor]]:
        assert self.rows
        return DataLoader(self.rows, sampler=sampler, batch_size=None)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        sampler = self._train_batches()
        if not self.simulated:
            return self._loader(sampler)
        added = self._batches(self.simulated_rows, self.n_simulated, sampling="balanced", batches=len(sampler))
        return self._loader(MixedBatches(sampler, added))

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader(self._batches(self.parts["validation"], EVALUATION_BATCH))

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader(self._batches(self.parts["test"], EVALUATION_BATCH))


def _call_reader(source: Mapping[str, Any]) -> Records:
    options = {key: value for key, value in source.items() if key != "_target_"}
    read: Callable[..., Records] = function(source["_target_"])
    return construct(read, **options)


def _count_simulated(share: float, batch_size: int, simulated: Mapping[str, Any] | None) -> int:
    """Return how many rows of a batch are simulated; raises InputError if a share leaves no row of either kind."""
    n = round(share * batch_size)
    if share and not 0 < n < batch_size:
        raise InputError(
            f"data.simulated_share={share}: of a batch of {batch_size} rows, {n} would be simulated. "
            "Choose a share between 0 and 1 that leaves rows of both kinds."
        )
    if n and not simulated:
        raise InputError(f"data.simulated_share={share}: these data have no simulated stamps. Leave it out.")
    return n
