"""What is built from a whole config: data module and task."""

from typing import Any

from omegaconf import DictConfig

from alerce_early.construct import build, construct, module_class
from alerce_early.data.datamodule import AlertData
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.experiments.config import to_plain
from alerce_early.models.net import EXAMPLES, Net
from alerce_early.tasks.base import Task


def make_data(config: DictConfig) -> AlertData:
    """Return the data module of a whole config; nothing is read yet.

    Raises InputError if the model cannot go with the data.
    """
    net = module_class(config.model.net["_target_"])
    kind = config.data.get("kind")
    if kind not in EXAMPLES:
        raise InputError(f"data={config.data.name} has kind {kind}; wanted one of {', '.join(EXAMPLES)} in its yaml.")
    if issubclass(net, Net):
        net.check(kind, f"data={config.data.name}")
    return construct(
        AlertData,
        name=config.data.name,
        source=to_plain(config.data.source),
        steps=to_plain(config.recipe.steps),
        margin=config.augment.margin,
        min_share=config.recipe.get("min_share", 0.0),
        features=to_plain(config.features.names),
        groups=to_plain(config.data.groups),
        keep=to_plain(config.data.keep),
        target=config.data.target,
        match_radius=config.data.get("match_radius"),  # of runs before it there is none
        split=to_plain(config.data.split),
        sampling=config.data.sampling,
        batch_size=config.data.batch_size,
        batches_per_epoch=config.data.batches_per_epoch,
        seed=config.seed,
        outputs=config.outputs,
    )


def make_task(config: DictConfig, spec: DataSpec) -> Task:
    """Return the task of a whole config, for data of this spec, with fresh weights."""
    return build(
        to_plain(config.model.task),
        net=to_plain(config.model.net),
        spec=spec.plain(),
        optim=_unnamed(config.optim),
        augment=_unnamed(config.augment),
    )


def _unnamed(choice: DictConfig) -> dict[str, Any]:
    """Return a choice without its name, which is for people; a checkpoint holds what it stands for."""
    return {key: value for key, value in to_plain(choice).items() if key != "name"}
