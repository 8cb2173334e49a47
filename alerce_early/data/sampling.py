"""Which rows a batch holds, a pure function of (seed, epoch), so that a resumed run sees the same; and the batch."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


def draws(labels: np.ndarray, sampling: str, n: int, rng: np.random.Generator, seed: int) -> np.ndarray:
    """Return indices into `labels` to show in one epoch, shuffled.

    balanced: n rows, the same number of each class. as_is: every row once. undersample: the same rows of
    every class in every epoch, as many as the rarest has. oversample: every class replicated to the size of
    the largest. A class that must give more rows than it has gives each of them equally often, give or take
    one.
    """
    by_class = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    sizes = np.array([len(rows) for rows in by_class])
    if sampling == "balanced":
        # the remainder of the division goes to other classes in every epoch
        wanted = (n + rng.permutation(len(sizes))) // len(sizes)
    elif sampling == "as_is":
        wanted = sizes
    elif sampling == "undersample":
        chosen = np.random.default_rng([seed, 0xCA7])
        by_class = [chosen.permutation(rows)[: sizes.min()] for rows in by_class]
        wanted = np.full(len(sizes), sizes.min())
    else:
        wanted = np.full(len(sizes), sizes.max())
    return rng.permutation(
        np.concatenate([_repeat(rows, count, rng) for rows, count in zip(by_class, wanted, strict=True)])
    )


def _repeat(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    rounds = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:count]


class EpochBatches(Sampler[Tensor]):
    """Yields the row numbers of each batch of an epoch; Lightning announces the epoch by `set_epoch`.

    rows, labels: (N,) int64, row numbers in the store and their classes. batch_size: rows of one step over
    all ranks together, at least two for each. batches: steps per epoch, or None for as many as the sampling
    needs to show every row once (balanced: as many rows as there are). world: how many ranks share each batch,
    see `Rows`. device: where the arrays are, to which the whole order goes at once.
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
        self.epoch = epoch

    def describe(self, classes: Sequence[str]) -> str:
        """Return in words how many batches an epoch has, and how often it shows the rows of each class."""
        held, shown = (
            np.bincount(labels, minlength=len(classes)) for labels in (self.labels, self.labels[self._draw()])
        )
        passes = [
            f"{name} {float(f'{n / rows:.2g}'):g}" for name, rows, n in zip(classes, held, shown, strict=True) if rows
        ]
        batches = f"an epoch is {len(self)} batches of {self.batch_size} rows"
        return f"{batches} and shows each row of its class so many times: {', '.join(passes)}"

    def _draw(self) -> np.ndarray:
        """Return indices into `labels` in the order of this epoch."""
        n = self.batches * self.batch_size if self.batches else len(self.rows)
        rounds: list[np.ndarray] = []
        while not rounds or (self.batches and sum(map(len, rounds)) < n):
            rng = np.random.default_rng([self.seed, self.epoch, len(rounds)])
            rounds.append(draws(self.labels, self.sampling, n, rng, self.seed))
        order = np.concatenate(rounds)
        return order[:n] if self.batches else order

    def __len__(self) -> int:
        return self.batches or len(self._cuts(len(self._draw()))) - 1

    def _cuts(self, n: int) -> np.ndarray:
        """Where batches begin and end; a last batch of one row for a rank, or none, joins the one before.

        Batch normalisation has no statistics of a single row.
        """
        cuts = np.append(np.arange(0, n, self.batch_size), n)
        return np.delete(cuts, -2) if len(cuts) > 2 and cuts[-1] - cuts[-2] < 2 * self.world else cuts

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.from_numpy(self.rows[self._draw()]).to(self.device)
        cuts = self._cuts(len(order))
        for start, stop in pairwise(cuts):
            yield order[start:stop]


class MixedBatches(Sampler[Tensor]):
    """Batches of one sampler, each with a batch of another at its end; both must have as many."""

    def __init__(self, own: EpochBatches, added: EpochBatches):
        self.own, self.added = own, added

    def set_epoch(self, epoch: int) -> None:
        self.own.set_epoch(epoch)
        self.added.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[Tensor]:
        for both in zip(self.own, self.added, strict=True):
            yield torch.cat(both)


class Rows(Dataset[dict[str, Tensor]]):
    """Whole batches by row number: one indexing operation, on the device where the arrays live."""

    def __init__(self, rank: int = 0, world: int = 1, **columns: Tensor):
        self.rank, self.world, self.columns = rank, world, columns

    @property
    def device(self) -> torch.device:
        return self.columns["image"].device

    def __getitem__(self, rows: Tensor | np.ndarray) -> dict[str, Tensor]:
        """Return this rank's part of a global batch of rows: every world-th; all ranks together have what one would.

        share: weighs its mean loss, so that the mean over ranks is the mean over rows, also where they have not
        equally many.
        """
        index = torch.as_tensor(rows, device=self.device)[self.rank :: self.world]
        share = torch.full((), len(index) * self.world / len(rows), device=self.device)  # made there, not sent
        return {name: column[index] for name, column in self.columns.items()} | {"row": index, "share": share}
