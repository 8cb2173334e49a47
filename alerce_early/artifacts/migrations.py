"""Migrate the config.yaml of older run folders to the current schema (`experiments.schema`).

To add a migration, append a function to `MIGRATIONS`. A new run folder records the number of migrations as its
`format`; a folder without that number is of format 0.
"""

from collections.abc import Callable
from typing import Any

Config = dict[str, Any]


def add_keys(config: Config) -> None:
    """Add keys that did not exist when the run was made, with the values that reproduce its behaviour."""
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
    """Turn a single logger, {name, make}, into a mapping of names to loggers."""
    logger = config.get("logger") or {}
    if logger.keys() <= {"name", "make"}:
        made = logger.get("make")
        config["logger"] = {logger["name"]: made} if made else None


MIGRATIONS: tuple[Callable[[Config], None], ...] = (add_keys, name_loggers)
FORMAT = len(MIGRATIONS)


def migrate(config: Config) -> Config:
    """Return the config of a run folder in the current format, without its number."""
    for change in MIGRATIONS[config.pop("format", 0) :]:
        change(config)
    return config
