"""Throughput of `train` against a bare loop over the same net."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from alerce_early.benches import ROUNDS, Row
from alerce_early.build import build
from alerce_early.configs import composed, data_of, plain
from alerce_early.runs.folder import Run
from alerce_early.runs.trainer import assemble


class TakingTurns(Callback):
    """Before each epoch of a real run, a bare loop of as many batches with a net of the same kind."""

    def __init__(self, bare: Callable[[], None]):
        self.bare, self.ours, self.rival = bare, [0.0], [0.0]
        self.started = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.perf_counter()
        self.bare()
        self.rival.append(time.perf_counter() - self.started)
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.is_last_batch:  # validation, which the bare loop has not, is left out
            self.ours.append(time.perf_counter() - self.started)


def throughput(model: str, batches: int, folder: Path) -> Iterator[Row]:
    """Throughput of `train` against a bare loop of the same net, batch size and precision on data in memory."""
    overrides = [f"model={model}", "data.n=2000", f"batches_per_epoch={batches}", f"outputs={folder}"]
    config = composed(*overrides, f"trainer.max_epochs={ROUNDS + 1}", "patience=100")
    data = data_of(config)
    data.setup()
    taken = [data.rows[rows] for rows in data.train_dataloader().sampler or ()]

    turns = TakingTurns(lambda: None)
    fitting, trainer, _ = assemble(config, data, Run(folder / model), turns)
    net = build(plain(config.model.net), spec=fitting.task.spec).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=config.optim.optimizer.lr)

    def bare() -> None:
        for batch in taken:
            loss = torch.nn.functional.cross_entropy(net(batch), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    turns.bare = bare
    trainer.fit(fitting, datamodule=data)
    ours, rival = turns.ours[2:], turns.rival[2:]  # the first epoch warms both up
    ratio = median(r / o for o, r in zip(ours, rival, strict=True))
    shown = batches * config.batch_size
    speeds = [f"{shown / median(seconds):.0f} stamps/s" for seconds in (ours, rival)]
    yield Row(f"train {model}: throughput", speeds[0], f"{speeds[1]} bare loop", ratio, ">= 0.95")
