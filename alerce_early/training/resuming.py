"""What makes a checkpoint enough to continue from: whole files, random states, and that a stopped run stays stopped."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from alerce_early.artifacts import checkpoints
from alerce_early.errors import InputError


class WholeFiles(TorchCheckpointIO):
    """Lightning's way of writing, but the temporary file lies on the same disk, or the rename would be a copy."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoints.save(checkpoint, Path(path))


class Kept(ModelCheckpoint):
    """One checkpoint under a fixed name, also where the run folder was moved before the run went on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        there, here = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(path): score for path, score in value.items()}
            return value.replace(there, here, 1) if isinstance(value, str) else value

        super().load_state_dict({name: moved(value) for name, value in state_dict.items()})


class Patience(EarlyStopping):
    """Early stopping that also stops at once when the run it continues with had already stopped."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics:
            known = sorted(name.removeprefix("val/") for name in trainer.callback_metrics if name.startswith("val/"))
            raise InputError(f"monitor={self.monitor.removeprefix('val/')} is not measured; wanted {', '.join(known)}.")
        super().on_validation_end(trainer, pl_module)


def put_in_order(folder: Path) -> None:
    """Name the TensorBoard files of earlier sessions so that they are read first, in their order.

    They are read by name, which begins with the second. A second shared, or a clock set back, would put this session
    before the others, and its curves would be taken for expired.
    """
    for number, file in enumerate(sorted(folder.glob("events.out.tfevents.*"))):
        file.rename(folder / f"events.out.tfevents.{number:010}.before")


class Randomness(Callback):
    """Keeps the state of every process's random number generators, so that a run that continues draws the same."""

    def state_dict(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        return {"processes": _of_all_processes({"cpu": torch.get_rng_state(), "cuda": cuda})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rank, states = (dist.get_rank() if _many() else 0), state_dict["processes"]
        if rank >= len(states):  # on more processes than before there is nothing to repeat
            return
        torch.set_rng_state(states[rank]["cpu"].cpu())
        if torch.cuda.is_initialized() and states[rank]["cuda"] is not None:
            torch.cuda.set_rng_state(states[rank]["cuda"].cpu())


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()


def _of_all_processes(own: Any) -> list[Any]:
    """Return what each process holds, by rank."""
    if not _many():
        return [own]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return states
