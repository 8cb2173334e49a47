"""LightningDataModule: store, classes, splits and batches of one data set."""

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

EVALUATION_BATCH = 256  # rows; limits memory and does not change any result


class AlertData(L.LightningDataModule):
    """LightningDataModule of all models: rows of one store, split and batched.

    A batch is a dict of tensors: ``image`` (B, C, S, S) float32, ``features`` (B, F) float32 (not standardised),
    ``label`` (B,) int64, ``row`` (B,) int64, ``share`` () float32 (see `Rows`) and, if available, ``target`` (B,)
    float32 and ``taught`` (B, classes) float32 (see `set_soft_labels`).

    Parameters
    ----------
    name : str
        Name of the data set, the first part of the name of its store.
    source : mapping
        Plain config of a reader.
    steps : sequence of dict
        Cleaning steps of the recipe as plain configs.
    margin : int
        Pixels of sky that the store keeps around the crop for augmentation.
    min_share : float
        Fraction of valid central pixels required of every row, in [0, 1].
    features : sequence of str or None
        Metadata columns passed to the network; None for all.
    groups : mapping of str to sequence of str, optional
        Classes merged into each new class, e.g. {"SN": ["SN"], "rest": ["AGN", "VS"]}. Classes in no group, and groups
        that are None, are dropped.
    keep : mapping of str to sequence of float, optional
        Allowed values by column, e.g. {"z_conf": [3]}; rows with other values are dropped.
    target : str, optional
        Column to predict in regression; rows without a value are dropped.
    match_radius : float or None
        Radius in arcsec within which rows belong to one object (see `coordinates.match_objects`); None to identify
        objects only by id.
    split : mapping, optional
        Options of `splits.split`.
    nights : str, optional
        CSV with the nights of the objects (see `nights.read_nights`), for data without observing times.
    simulated : mapping, optional
        Plain config of a reader of simulated stamps. They belong to no part of the split, so neither the metrics, the
        spec nor the baselines depend on them.
    simulated_share : float
        Fraction of simulated stamps in each training batch, balanced by class.
    sampling, batch_size, batches_per_epoch
        As in `EpochBatches`.
    seed : int
        Seed of the batches.
    outputs : str
        Folder in which the folder ``stores`` is.
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
        # the shell does not expand ~ in data.path=~/x
        home = {key: os.path.expanduser(value) for key, value in source.items() if key.endswith("path") and value}
        self.source, self.steps, self.margin, self.min_share = {**source, **home}, list(steps), margin, min_share
        self.store_name = name  # the base class has an attribute `name`
        self.groups = {new: members for new, members in (groups or {}).items() if members}
        self.requested_features, self.split = features, dict(split or {})
        self.keep, self.target, self.match_radius = dict(keep or {}), target, match_radius
        self.nights = os.path.expanduser(nights) if nights else None
        self.n_simulated = _count_simulated(simulated_share, batch_size, simulated)
        self.simulated = dict(simulated) if simulated and self.n_simulated else None
        self.sampling, self.batch_size, self.batches_per_epoch = sampling, batch_size, batches_per_epoch
        self.seed, self.outputs = seed, outputs
        self.rows: Rows | None = None
        self._store: Store | None = None
        self.soft_labels: np.ndarray | None = None

    def set_soft_labels(self, probabilities: np.ndarray) -> None:
        """Add the probabilities predicted by a teacher network to the labels.

        Batches then have ``taught``, the mean of the one-hot label and the teacher's probabilities, or only the latter
        for unlabelled rows. Unlabelled training rows are used, too, and sampled by their most probable class.

        Parameters
        ----------
        probabilities : ndarray
            (N, classes) float32, for all rows of the store.
        """
        self.soft_labels = probabilities

    def prepare_data(self) -> None:
        """Open the store, or read and clean the raw file into a new one.

        Raises
        ------
        InputError
            If the raw file cannot be used or the store cannot be written.
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
        """Read the raw file, with simulated stamps if they are used."""
        records = _call_reader(self.source)
        return with_extra(records, _call_reader(self.simulated), "simulated") if self.simulated else records

    @property
    def store(self) -> Store:
        """The cleaned arrays, prepared on first access."""
        if self._store is None:
            self.prepare_data()
        assert self._store
        return self._store

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order, after grouping."""
        return tuple(self.groups) if self.groups else tuple(self.store.meta["classes"])

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of all rows after grouping, (N,) int64; `UNLABELLED` for unlabelled and dropped rows."""
        known = self.store.meta["classes"]
        if (self.store.labels[~self._is("simulated")] == UNLABELLED).all():
            flag = " Give data.labels=FILE, a CSV with candid and label." if "labels_path" in self.source else ""
            raise InputError(f"{self.store.meta['origin']}: expected labels for training, but no row has one.{flag}")
        renumber = np.arange(len(known))
        if self.groups:
            unknown = sorted({old for members in self.groups.values() for old in members} - set(known))
            if unknown:
                raise InputError(f"data.groups: unknown class {', '.join(unknown)}. Choose from {', '.join(known)}.")
            renumber[:] = UNLABELLED
            for new, members in enumerate(self.groups.values()):
                renumber[[known.index(old) for old in members]] = new
        labels = np.where((self.store.labels >= 0) & self._selected, renumber[self.store.labels], UNLABELLED)
        counts = np.bincount(labels[labels >= 0], minlength=len(self.classes))
        empty = [name for name, count in zip(self.classes, counts, strict=True) if count == 0]
        if empty:
            raise InputError(
                f"{self.store.meta['origin']}: class {', '.join(empty)} has no row left after cleaning. "
                "Choose classes with data.classes=[...], or merge some with 'data.groups={SN:[SN],rest:[AGN,VS]}'."
            )
        return labels

    @cached_property
    def objects(self) -> np.ndarray:
        """Object of each row, (N,) str: its id or, if the store has positions, the first id matched to its position."""
        ids = self.store.ids
        places = self.metadata(("ra", "dec"), np.arange(len(ids)))
        if self.match_radius is None or len(places) < 2:
            return ids
        objects = coordinates.match_objects(ids, **places, radius=self.match_radius)
        if merged := len(np.unique(ids)) - len(np.unique(objects)):
            log.info("%d ids are within %g arcsec of another and count as the same object", merged, self.match_radius)
        return objects

    @cached_property
    def observed(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of a row and a night on which its object was observed, as two arrays (M,) int64.

        Raises
        ------
        InputError
            If a row that is not simulated has no known night.
        """
        if self.nights:
            by_id = nights.read_nights(self.nights, self.store.meta["survey"])
            pairs = [(i, night) for i, name in enumerate(self.store.ids) for night in sorted(by_id.get(str(name), ()))]
            rows, found = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        else:
            night = np.full(len(self.store.ids), nights.UNKNOWN) if self.store.night is None else self.store.night
            rows = np.flatnonzero(night != nights.UNKNOWN)
            found = night[rows]
        unknown = self._is("simulated")
        unknown[rows] = True
        if lacking := int((~unknown).sum()):
            raise InputError(
                f"data.split.by=night: {lacking:,} of {len(unknown):,} rows have no known night, for example "
                f"{self.store.ids[~unknown][0]}. Give data.nights=FILE, a CSV of objectId and jd, mjd, candid or "
                "night that has all objects."
            )
        return rows, found

    @cached_property
    def groups_kept_whole(self) -> np.ndarray:
        """Group of each row, (N,) str, that the split keeps whole: the object or, by night, see `nights.connect`."""
        if self.split.get("by") != "night":
            return self.objects
        rows, found = self.observed
        own = ~self._is("extra")[rows]  # extra rows are never evaluated, so they do not connect nights
        groups = nights.connect(self.objects, rows[own], found[own])
        _, sizes = np.unique(groups[~self._is("extra") & ~self._is("simulated")], return_counts=True)
        log.info("%d groups of objects connected by nights, with at most %d rows", len(sizes), sizes.max())
        return groups

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Row numbers, (n,) int64, of the training, validation and test rows."""
        groups = self.groups_kept_whole
        if self.store.part is not None:
            part = splits.apply_prescribed(self.store.part, self.labels, groups, self.classes, **self.split)
        else:
            part = construct(splits.split, self.labels, groups, self.classes, **self.split)
        if self.split.get("by") == "night":
            row, night = self.observed
            held = np.isin(night, night[part[row] > splits.TRAIN])
            part[row[held & self._is("extra")[row]]] = -1
        unlabelled = (self.store.labels == UNLABELLED) & self._selected
        used = self.labels >= 0
        # unlabelled test rows are predicted but not evaluated; unlabelled training rows need soft labels
        used |= unlabelled & ((part == splits.TEST) | ((part == splits.TRAIN) & (self.soft_labels is not None)))
        rows = {name: np.flatnonzero((part == i) & used) for i, name in enumerate(splits.PARTS)}
        for name, found in rows.items():
            counts = self._counts(found)
            lacking = [c for c, count in zip(self.classes, counts, strict=True) if count == 0]
            # a prescribed test split, or the nights of one fold, may lack a class
            some = self.store.part is not None or (self.split.get("by") == "night" and self.split.get("folds"))
            if lacking and (name != "test" or not some or not len(found)):
                raise InputError(
                    f"data: the {name} split has no rows of {', '.join(lacking)}. "
                    "Give more data, or merge classes with data.groups=..."
                )
        return rows

    @cached_property
    def spec(self) -> DataSpec:
        """Description of the data for the model; means and standard deviations are of the training split."""
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
        """Names of the metadata columns passed to the network."""
        return tuple(self.store.meta["features"] if self.requested_features is None else self.requested_features)

    @cached_property
    def _features(self) -> np.ndarray:
        """Metadata columns passed to the network, (N, F) float32."""
        if self.feature_names and (lacking := self.store.meta["without_metadata"]):
            raise InputError(
                f"features.names: {lacking:,} rows have no metadata at all. Choose features=none, or remove data.extra."
            )
        return self.find_columns("features.names", self.feature_names)

    @cached_property
    def _selected(self) -> np.ndarray:
        """Mask (N,) bool of rows with allowed values in the columns of `keep` and a known target."""
        selected = np.ones(len(self.store.labels), dtype=bool)
        for name, values in self.keep.items():
            selected &= np.isin(self.find_columns("keep", [name])[:, 0], values)
        if self.target:
            selected &= self.find_columns("target", [self.target])[:, 0] != MISSING
        return selected

    def _is(self, part: str) -> np.ndarray:
        """Return a mask (N,) bool of the rows that the file assigns to this part."""
        return np.full(len(self.store.ids), False) if self.store.part is None else self.store.part == part

    def metadata(self, names: Iterable[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return metadata columns of some rows.

        Parameters
        ----------
        names : iterable of str
            Columns; names that the store does not have are ignored.
        rows : ndarray
            (n,) int64 row numbers.

        Returns
        -------
        dict of str to ndarray
            (n,) float64 by name, NaN where a value is missing.
        """
        known = list(self.store.meta["features"])
        found = {name: self.store.features[rows, known.index(name)] for name in names if name in known}
        return {name: np.where(column == MISSING, np.nan, column) for name, column in found.items()}

    def find_classes(self, rows: np.ndarray) -> set[str]:
        """Return the classes of these rows (n,) int64 as they are in the file, before grouping."""
        found = np.unique(self.store.labels[rows])
        return {self.store.meta["classes"][label] for label in found[found != UNLABELLED]}

    def find_columns(self, option: str, names: Sequence[str]) -> np.ndarray:
        """Return columns of the store as (N, len(names)) float32.

        Parameters
        ----------
        option : str
            Option that names the columns, for messages.
        names : sequence of str
            Columns.

        Raises
        ------
        InputError
            If the store does not have a column.
        """
        known = list(self.store.meta["features"])
        unknown = [name for name in names if name not in known]
        if unknown and not known:
            raise InputError(f"{option}: the data have no metadata. Choose features=none, or another model.")
        if unknown:
            raise InputError(f"{option}: no column {', '.join(unknown)}. Choose from {', '.join(known)}.")
        return self.store.features[:, [known.index(name) for name in names]].astype(np.float32)

    def setup(self, stage: str | None = None) -> None:
        """Load the arrays onto the training device, or map them to memory on a CPU."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        rank, world = self._rank()
        if self.rows and (self.rows.device, self.rows.rank, self.rows.world) == (device, rank, world):
            return
        columns = {
            # copy-on-write: torch requires writable memory, although nothing is written to it
            "image": np.load(self.store.path / "images.npy", mmap_mode="c"),
            "features": self._features,
            "label": self.labels,
        }
        if self.soft_labels is not None:
            known, soft = np.eye(len(self.classes), dtype=np.float32)[self.labels], self.soft_labels
            columns["taught"] = np.where(self.labels[:, None] >= 0, (known + soft) / 2, soft)
        if self.target:
            columns["target"] = self.find_columns("target", [self.target])[:, 0]
        self.rows = Rows(rank, world, **{name: torch.from_numpy(one).to(device) for name, one in columns.items()})

    @property
    def left_out(self) -> dict[str, int]:
        """Number of rows of each class that is in no group."""
        grouped = {old for members in self.groups.values() for old in members}
        counts = zip(self.store.meta["classes"], self.store.meta["kept_by_class"], strict=True)
        return {name: count for name, count in counts if self.groups and name not in grouped and count}

    def part_sizes(self) -> dict[str, dict[str, int]]:
        """Count the rows of each class, and the unlabelled rows, in each part."""
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
        """Row numbers, (n,) int64, of the simulated stamps that are added to training batches."""
        return np.flatnonzero(self._is("simulated") & (self.labels >= 0))

    def _counts(self, rows: np.ndarray) -> list[int]:
        """Count the labelled rows of each class."""
        labels = self.labels[rows]
        return np.bincount(labels[labels >= 0], minlength=len(self.classes)).tolist()

    def _rank(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def describe_epoch(self) -> str:
        """Describe the batches of a training epoch in a sentence; see `EpochBatches.describe`."""
        return self._train_batches().describe(self.classes)

    def _train_batches(self) -> EpochBatches:
        """Return the batches of training rows, without the simulated rows added to them."""
        own, options = self.batch_size - self.n_simulated, {"batches": self.batches_per_epoch}
        return self._batches(self.parts["train"], own, sampling=self.sampling, **options)

    def _batches(self, rows: np.ndarray, batch_size: int, **options: Any) -> EpochBatches:
        """Return a batch sampler of these rows; unlabelled ones count as their most probable class."""
        labels = self.labels[rows]
        if self.soft_labels is not None:
            labels = np.where(labels >= 0, labels, self.soft_labels[rows].argmax(1))
        options |= {"seed": self.seed, "world": self._rank()[1], "device": self.rows.device if self.rows else "cpu"}
        return EpochBatches(rows, labels, batch_size=batch_size, **options)

    def _loader(self, sampler: Sampler[Tensor]) -> DataLoader[dict[str, Tensor]]:
        """Return a loader of whole batches."""
        assert self.rows
        return DataLoader(self.rows, sampler=sampler, batch_size=None)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the training batches, with simulated rows if they are used."""
        sampler = self._train_batches()
        if not self.simulated:
            return self._loader(sampler)
        added = self._batches(self.simulated_rows, self.n_simulated, sampling="balanced", batches=len(sampler))
        return self._loader(MixedBatches(sampler, added))

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return batches that have every validation row once."""
        return self._loader(self._batches(self.parts["validation"], EVALUATION_BATCH))

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return batches that have every test row once."""
        return self._loader(self._batches(self.parts["test"], EVALUATION_BATCH))


def _call_reader(source: Mapping[str, Any]) -> Records:
    """Read the records of a reader's plain config."""
    options = {key: value for key, value in source.items() if key != "_target_"}
    read: Callable[..., Records] = function(source["_target_"])
    return construct(read, **options)


def _count_simulated(share: float, batch_size: int, simulated: Mapping[str, Any] | None) -> int:
    """Return the number of simulated rows in a batch; raise InputError if they would be none or all of its rows."""
    n = round(share * batch_size)
    if share and not 0 < n < batch_size:
        raise InputError(
            f"data.simulated_share={share}: {n} of {batch_size} rows of a batch would be simulated. "
            "Choose a fraction that leaves rows of both kinds."
        )
    if n and not simulated:
        raise InputError(f"data.simulated_share={share}: this data config has no simulated stamps. Remove the option.")
    return n
