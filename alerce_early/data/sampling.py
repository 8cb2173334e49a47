"""Batch samplers, which depend only on seed and epoch so that a resumed run has the same batches, and the data set."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


def draw_epoch(labels: np.ndarray, sampling: str, n: int, rng: np.random.Generator, seed: int) -> np.ndarray:
    """Draw the rows of one epoch.

    Rows of a class that is drawn more often than it has rows are repeated equally often, up to a difference of one.

    Parameters
    ----------
    labels : ndarray
        (N,) int64.
    sampling : {"balanced", "as_is", "undersample", "oversample"}
        "balanced": `n` rows, the same number of each class. "as_is": every row once. "undersample": as many rows of
        each class as the rarest has, the same in all epochs. "oversample": as many rows of each class as the largest
        has.
    n : int
        Number of rows, for "balanced".
    rng : numpy.random.Generator
        Random numbers of this epoch.
    seed : int
        Seed of the rows kept by "undersample".

    Returns
    -------
    ndarray
        (M,) int64: shuffled indices into `labels`.
    """
    by_class = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    sizes = np.array([len(rows) for rows in by_class])
    if sampling == "balanced":
        # the remainder of the division goes to different classes in each epoch
        sizes = (n + rng.permutation(len(sizes))) // len(sizes)
    elif sampling == "undersample":
        chosen = np.random.default_rng([seed, 0xCA7])
        by_class = [chosen.permutation(rows)[: sizes.min()] for rows in by_class]
        sizes = np.full(len(sizes), sizes.min())
    elif sampling != "as_is":
        sizes = np.full(len(sizes), sizes.max())
    return rng.permutation(
        np.concatenate([_repeat(rows, count, rng) for rows, count in zip(by_class, sizes, strict=True)])
    )


def _repeat(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` rows in random order, each repeated equally often up to a difference of one."""
    rounds = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:count]


class EpochBatches(Sampler[Tensor]):
    """Sampler of the row numbers of each batch of an epoch.

    Parameters
    ----------
    rows, labels : ndarray
        (N,) int64: row numbers in the store, and their classes.
    batch_size : int
        Rows per step of all ranks together, at least two per rank.
    sampling : str
        As in `draw_epoch`.
    batches : int, optional
        Steps per epoch; by default one pass over the rows that `sampling` draws (N rows for "balanced").
    seed : int
        Seed of all epochs.
    world : int
        Number of ranks that share each batch (see `Rows`).
    device : torch.device or str
        Device of the row numbers, which are transferred once per epoch.
    """

    def __init__(
        self,
        rows: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        sampling: str = "as_is",
        batches: int | None = None,
        seed: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ):
        self.rows, self.labels, self.batch_size, self.sampling = rows, labels, batch_size, sampling
        self.batches, self.seed, self.world, self.device, self.epoch = batches, seed, world, device, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch; called by Lightning."""
        self.epoch = epoch

    def describe(self, classes: Sequence[str]) -> str:
        """Describe in a sentence the number of batches, and how often an epoch shows the rows of each class."""
        held, shown = (
            np.bincount(labels, minlength=len(classes)) for labels in (self.labels, self.labels[self._draw()])
        )
        passes = [
            f"{name} {float(f'{n / rows:.2g}'):g}" for name, rows, n in zip(classes, held, shown, strict=True) if rows
        ]
        batches = f"an epoch is {len(self)} batches of {self.batch_size} rows"
        return f"{batches} and shows each row this many times, by class: {', '.join(passes)}"

    def _draw(self) -> np.ndarray:
        """Return the indices into `labels` of this epoch, in order."""
        n = self.batches * self.batch_size if self.batches else len(self.rows)
        rounds: list[np.ndarray] = []
        while not rounds or (self.batches and sum(map(len, rounds)) < n):
            rng = np.random.default_rng([self.seed, self.epoch, len(rounds)])
            rounds.append(draw_epoch(self.labels, self.sampling, n, rng, self.seed))
        order = np.concatenate(rounds)
        return order[:n] if self.batches else order

    def __len__(self) -> int:
        return self.batches or len(self._cuts(len(self._draw()))) - 1

    def _cuts(self, n: int) -> np.ndarray:
        """Return the boundaries of batches among n rows.

        A last batch with fewer than two rows per rank is merged with the one before, because batch normalisation cannot
        compute statistics of a single row.
        """
        cuts = np.append(np.arange(0, n, self.batch_size), n)
        return np.delete(cuts, -2) if len(cuts) > 2 and cuts[-1] - cuts[-2] < 2 * self.world else cuts

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.from_numpy(self.rows[self._draw()]).to(self.device)
        cuts = self._cuts(len(order))
        for start, stop in pairwise(cuts):
            yield order[start:stop]


class MixedBatches(Sampler[Tensor]):
    """Concatenation of the batches of two samplers with the same number of batches.

    Parameters
    ----------
    own, added : EpochBatches
        Samplers of the first and the last rows of each batch.
    """

    def __init__(self, own: EpochBatches, added: EpochBatches):
        self.own, self.added = own, added

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch; called by Lightning."""
        self.own.set_epoch(epoch)
        self.added.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[Tensor]:
        for both in zip(self.own, self.added, strict=True):
            yield torch.cat(both)


class Rows(Dataset[dict[str, Tensor]]):
    """Data set indexed by the row numbers of a whole batch, on the device of its tensors.

    Parameters
    ----------
    rank, world : int
        Number of this process, and number of processes that share each batch.
    **columns : Tensor
        Tensors with N rows, including ``image``.
    """

    def __init__(self, rank: int = 0, world: int = 1, **columns: Tensor):
        self.rank, self.world, self.columns = rank, world, columns

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.columns["image"].device

    def __getitem__(self, rows: Tensor | np.ndarray) -> dict[str, Tensor]:
        """Return the rows of this rank from a global batch: every `world`-th, starting with the `rank`-th.

        Parameters
        ----------
        rows : Tensor or ndarray
            Row numbers of the global batch.

        Returns
        -------
        dict of str to Tensor
            The columns, ``row`` (the row numbers) and ``share``, a weight for the mean loss of this rank with which the
            mean over ranks is the mean over rows, even if the ranks have different numbers of rows.
        """
        index = torch.as_tensor(rows, device=self.device)[self.rank :: self.world]
        # created on the device, which needs no transfer
        share = torch.full((), len(index) * self.world / len(rows), device=self.device)
        return {name: column[index] for name, column in self.columns.items()} | {"row": index, "share": share}
