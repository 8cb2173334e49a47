"""Bring the config.yaml of an older run folder to what the schema of `experiments.schema` asks for today.

A change that older folders need becomes a function at the end of `MIGRATIONS`; its place there is the number that a
folder made since then holds as `format`. Folders without a number are of format 0.
"""

from collections.abc import Callable
from typing import Any

Config = dict[str, Any]


def add_keys(config: Config) -> None:
    """Write what a run did before these keys were there."""
    config |= {key: config.get(key) for key in ("callbacks", "ema", "init_from", "distil")}
    config.setdefault("ensemble", {"features": None, "trees": 200, "leaf": 2})
    config.setdefault("metrics", [])
    config.setdefault("target_class", "SN")
    data = config.setdefault("data", {})
    config["data"] = data = {"simulated_n": 2000, "simulated_seed": 1000} | data
    data |= {key: data.get(key) for key in ("match_radius", "nights", "simulated_share", "simulated")}
    data.setdefault("split", {}).setdefault("by", "object")
    task = config.get("model", {}).get("task", {})
    if task.get("_target_") == "alerce_early.tasks.classify.ClassifyTask":
        config["model"]["task"] = {"focal_gamma": 2.0, "class_weights": None} | task
    config.setdefault("augment", {}).setdefault("redraw", [])
    config.setdefault("recipe", {}).setdefault("min_share", 0.0)
    config.setdefault("optim", {}).setdefault("groups", {})


def name_loggers(config: Config) -> None:
    """Make the one logger, {name, make}, a mapping from names to loggers, as callbacks are."""
    logger = config.get("logger") or {}
    if logger.keys() <= {"name", "make"}:
        made = logger.get("make")
        config["logger"] = {logger["name"]: made} if made else None


MIGRATIONS: tuple[Callable[[Config], None], ...] = (add_keys, name_loggers)
FORMAT = len(MIGRATIONS)


def migrate(config: Config) -> Config:
    """Return the config of a run folder in today's format, without its number."""
    for change in MIGRATIONS[config.pop("format", 0) :]:
        change(config)
    return config
