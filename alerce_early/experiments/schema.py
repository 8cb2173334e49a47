"""Schema of the composed config: keys, types, ranges and choices.

`python -m alerce_early.experiments.schema` rewrites the table of options in conf/README.md. A class or function named
by a `_target_` takes the options of its signature; `instantiate.check` checks them.
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from alerce_early.construct import explain
from alerce_early.errors import InputError

# Trainer options set by the run itself, so that it resumes exactly and writes only to its folder.
RESERVED = (
    *("callbacks", "logger", "plugins", "default_root_dir", "use_distributed_sampler"),
    *("num_sanity_val_steps", "enable_model_summary", "enable_progress_bar"),
)
Place = Sequence[Any]  # path of a key: names, and indices of lists
Name = str | int | float


class Node(BaseModel):
    """A mapping whose keys are all known."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Target(Node):
    """A class or function, given by its dotted name and any of its options."""

    model_config = ConfigDict(extra="allow")
    target: str = Field(alias="_target_", description="dotted name of a class or function, also of your own package")


class Optimizer(Target):
    """An optimiser of torch.optim."""

    lr: float = Field(ge=0, description="learning rate; a schedule may change it")


class DataAliases(Node):
    """Keys that `data.source` refers to; a data yaml has only the keys that its reader accepts."""

    path: str | None = Field(
        None,
        description="raw file or folder; the environment variables `ALERCE_STAMPS` and `SDSS_SPECTRA` set defaults",
    )
    test_path: str | None = Field(None, description="another file of the same format, used as the test split")
    extra: str | None = Field(
        None, description="a file of the same format whose rows are used for training only, e.g. generated stamps"
    )
    labels: str | None = Field(
        None,
        description="labels of packets and stamps: a CSV with columns candid (or objectId) and label; null: "
        "`labels.csv` in the same folder",
    )
    labels_map: dict[str | int, str | None] | None = Field(
        None, description="class of each name in the labels, e.g. `{SN Ia: SN, TDE: null}`, where null means unlabelled"
    )
    classes: list[str] | Literal["labels"] | None = Field(
        None,
        description="list of classes, e.g. `[AGN,SN,VS,asteroid,bogus,satellite]`; `labels`: all names in the labels; "
        "null: AGN, SN, VS, asteroid, bogus and the classes added by `labels_map`",
    )
    columns: dict[Literal["images", "labels", "ids", "metadata"], str | None] | None = Field(
        None,
        description="column names in a stamps file, e.g. `{images: image_triplet}`; null: the usual names",
    )
    schemas: str | None = Field(
        None,
        description="Avro schemas of messages without an embedded one: an .avsc file, a folder of them, or the URL of "
        "a schema registry",
    )
    pad_edges: bool | None = Field(
        None,
        description="ZTF packets: keep cutouts with up to 20 pixels missing at the edge of a chip, marked as no data, "
        "instead of dropping them",
    )
    channels: list[str] | None = Field(None, description="names of the images of each stamp to use")
    n: int | None = Field(None, ge=1, description="number of rows of simulated data")
    seed: int | None = Field(None, ge=0, description="random seed of simulated data")
    epoch: Name | None = Field(
        None,
        description="epoch of the survey that simulated alerts imitate: `today`, or `2020` as in the published file",
    )
    counts: Literal["as_file", "balanced"] | None = Field(
        None,
        description="class frequencies of simulated data: `as_file`, as in `ALERCE_stamps_2020.pkl`, or `balanced`",
    )


class Split(Node):
    """How rows are divided into training, validation and test splits."""

    validation: float = Field(
        ge=0,
        description="validation rows per class, or a fraction if below 1; all rows of an object go to the same split",
    )
    test: float = Field(ge=0, description="test rows per class, or a fraction if below 1")
    seed: int = Field(ge=0, description="random seed of the split")
    folds: int | None = Field(
        description="number of folds for cross-validation; the test split is one fold and `test` is ignored"
    )
    fold: int | None = Field(description="index of the fold used as the test split, starting at 0")
    by: Literal["object", "night"] = Field(
        description="unit of the split. `object`: all rows of an object go to the same split; `night`: also all rows "
        "of an observing night, which share weather, fields and artefacts that a network can learn to recognise"
    )


class Data(DataAliases):
    """The data set, its splits and its sampling."""

    name: str = Field(description="name of the data in folders and tables")
    kind: Literal["stamps", "spectra"] = Field(description="type of the inputs that the reader returns")
    source: Target = Field(description="the reader and its options")
    batch_size: int = Field(ge=1, description="rows per step, over all processes")
    batches_per_epoch: int | None = Field(
        ge=1, description="batches per epoch; null: one full pass over the training split"
    )
    sampling: Literal["balanced", "as_is", "undersample", "oversample"] = Field(
        description="how training rows are drawn. `balanced`: classes equally often; `as_is`: every row once per "
        "epoch; `undersample`, `oversample`: classes reduced or repeated to the same size"
    )
    groups: dict[str, list[str] | None] | None = Field(
        description="merge classes, e.g. `{SN: [SN], rest: [AGN, VS]}`; rows of other classes are dropped and counted"
    )
    keep: dict[str, list[float]] | None = Field(description="keep only rows with these values, e.g. `{z_conf: [3]}`")
    target: str | None = Field(description="column to predict, for regression")
    match_radius: float | None = Field(
        ge=0,
        le=3600,
        description="radius in arcsec within which rows belong to the same object; null: match by name only",
    )
    split: Split
    nights: str | None = Field(
        description="observing times for `data.split.by=night`, if the data do not contain them: a CSV with objectId "
        "and `jd`, `mjd`, `candid` (ZTF) or `night`"
    )
    simulated_share: float | None = Field(
        ge=0,
        lt=1,
        description="fraction of each training batch that is simulated, e.g. 0.5 if there are few real stamps; classes "
        "are balanced, and simulated stamps are never used for validation or test",
    )
    simulated_n: int = Field(ge=1, description="number of simulated stamps to draw from")
    simulated_seed: int = Field(
        ge=0, description="random seed of the simulated stamps; the pretrained networks used seed 0"
    )
    simulated: Target | None = Field(
        description="simulator of ZTF or Rubin stamps and its options; for ZTF `young` and `cloudy` are the fractions "
        "of new objects and of shallow exposures in each class"
    )


class RecipeAliases(Node):
    """Keys that `recipe.steps` refers to."""

    size: int | None = Field(None, ge=1, description="side of the network's input in pixels")
    factor: int | None = Field(None, ge=2, description="width of the outer view relative to the central one")
    wide: int | None = Field(None, ge=1, description="side in pixels of the first crop: size x factor")
    each: bool | None = Field(None, description="scale each channel separately")


class Recipe(RecipeAliases):
    """Preprocessing of each stamp or spectrum."""

    name: str = Field(description="name of the recipe")
    min_share: float = Field(
        ge=0, le=1, description="minimum fraction of central pixels with data; other rows are rejected"
    )
    steps: list[Target] = Field(description="preprocessing steps, in order")


class Augment(Node):
    """Random changes to each training batch."""

    name: str = Field(description="name of the augmentation")
    margin: int = Field(ge=0, description="pixels of sky kept around the crop, for shifts and rotations")
    steps: list[Target] = Field(description="augmentation steps of each training batch, in order")
    redraw: list[str] = Field(
        description="metadata columns that half of the training rows copy, all together, from another row of the "
        "batch, e.g. `[ndethist,ncovhist,non_detections]`, so that the network cannot infer the class from them"
    )


class Features(Node):
    """Metadata columns given to the network."""

    name: str = Field(description="name of this choice of metadata columns")
    names: list[str] | None = Field(description="metadata columns for the network, e.g. `[fwhm,rb]`; null: all")


class Forest(Features):
    """Metadata columns given to the random forest of an ensemble."""

    name: str = Field(description="name of this choice of metadata columns for the forest")
    names: list[str] | None = Field(description="metadata columns that `ensemble.features` refers to")


class Optim(Node):
    """Optimiser and learning-rate schedule."""

    name: str = Field(description="name of this choice of optimiser and schedule")
    optimizer: Optimizer = Field(description="class of torch.optim and its options")
    groups: dict[str, dict[str, Any]] = Field(
        description="separate options for parameters by name, e.g. `+optim.groups.bias.weight_decay=0`"
    )
    schedule: Target | None = Field(
        description="class of torch.optim.lr_scheduler and its options, stepped after every batch"
    )


class Trainer(Node):
    """Options of Lightning's Trainer."""

    model_config = ConfigDict(extra="allow")
    accelerator: str = Field(description="`gpu`, `cpu` or `auto`; other options of Lightning's Trainer need a `+`")
    devices: int | str | list[int] = Field(description="number of devices, or a list of indices")
    precision: str | int = Field(
        description="precision of training. `auto`: `bf16-mixed` if bfloat16 is faster (AMX, GPU), else `32-true`. "
        "Validation and test always use float32"
    )
    max_epochs: int | None = Field(ge=-1, description="maximum number of epochs; -1 for no limit")


class ModelAliases(Node):
    """Keys that `model.net` and `model.task` refer to."""

    filters: int | None = Field(None, ge=1, description="number of convolution filters of `model=hits_shallow`")


class Model(ModelAliases):
    """Network and task."""

    name: Name = Field(description="name of the model in folders and tables")
    published: str | None = Field(None, description="published result to compare with")
    net: Target = Field(description="class of the network and its options")
    task: Target = Field(description="class that defines loss, outputs and metrics, and its options; see group `task`")


class Ensemble(Node):
    """How the networks of a sweep over folds are combined into one."""

    features: list[str] | None = Field(
        description="combine the networks of a sweep over folds into one, in `outputs/runs/NAME`, with a random forest "
        "on these metadata columns; `[]`: without a forest; null: do not combine them"
    )
    trees: int = Field(ge=1, description="number of trees of the forest")
    leaf: int = Field(ge=1, description="minimum number of rows in a leaf of the forest")


class Config(Node):
    """The composed config."""

    seed: int = Field(ge=0, le=2**32 - 1, description="random seed of weights, batch order, augmentation and dropout")
    data: Data
    recipe: Recipe
    augment: Augment
    features: Features
    forest: Forest | None = None  # another choice of the group `features`
    model: Model
    optim: Optim
    trainer: Trainer
    callbacks: dict[str, Target] | None = Field(
        description="`ema`, `timer`, or any callback of Lightning or your own, by name"
    )
    logger: dict[str, Target] | None = Field(
        description="`tensorboard`, `csv`, `wandb`, `mlflow`, `none`, or several: `[tensorboard,csv]`"
    )
    monitor: str | None = Field(description="validation metric that selects the checkpoint; null: keep the last epoch")
    patience: int = Field(ge=0, description="stop after this many validations without improvement")
    ema: float | None = Field(
        ge=0,
        le=1,
        description="decay per step of an exponential moving average of the weights, e.g. 0.99; the averaged weights "
        "are evaluated and saved",
    )
    init_from: str | None = Field(
        description="initial weights: a run, a checkpoint or a pretrained network (of an ensemble, its first member). "
        "Layers that do not match keep random weights and are logged; it is an error if less than a tenth matches"
    )
    distil: str | None = Field(
        description="teacher for distillation: a run, a checkpoint, a pretrained network or a sweep over folds (its "
        "runs with the same split). Labels are averaged with the teacher's probabilities; unlabelled rows use these "
        "alone"
    )
    calibration: Literal["temperature", "none"] = Field(
        description="calibration of the probabilities on the validation split; skipped if it would not lower log loss"
    )
    target_class: str = Field(
        description="class for operating points and headline metrics; if two classes do not include it, the second"
    )
    coverage: float = Field(gt=0, lt=1, description="nominal coverage of the conformal prediction sets")
    metrics: list[str] = Field(
        description="your own metrics, for the report and `compare`: dotted names of functions that take a predictions "
        "table and return a number"
    )
    ensemble: Ensemble
    outputs: str = Field(description="folder for runs, stores and sweeps")
    resume: str | None = Field(description="folder of an interrupted run to resume with its own config")
    name: Name = Field(description="name of a sweep's folder")


ALIASES: dict[str, type[Node]] = {"data": DataAliases, "recipe": RecipeAliases, "model": ModelAliases}


def check(config: DictConfig, options: Sequence[str] = (), file: Path | None = None) -> None:
    """Check that every key of a composed config is known and used, and that every value has a valid type and range.

    User-defined keys in data, recipe or model are allowed if another value refers to them. They are removed after the
    references have been resolved.

    Parameters
    ----------
    config : DictConfig
        The composed config; the part for Hydra itself is ignored.
    options : sequence of str
        Overrides that the config was composed with.
    file : Path, optional
        The config.yaml of a run folder that the config was read from; its references are already resolved.

    Raises
    ------
    InputError
        If a key or value is invalid; the message names the key, the nearest known key, and its option or yaml file.
    """
    plain: dict[str, Any] = {}
    for name in config:
        if name != "hydra":  # resolving it creates folders
            node = config[name]
            plain[str(name)] = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    try:
        Config.model_validate(plain)
        errors = []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    nodes = {group: node if isinstance(node, dict) else {} for group, node in plain.items()}
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    if others := nodes.get("trainer", {}).keys() - Trainer.model_fields:
        unknown += [("trainer", key) for key in others - trainer_options()]
    own = [path for path in unknown if len(path) == 2 and path[0] in ALIASES]
    aliases = [
        (group, key) for group, node in ALIASES.items() for key in node.model_fields if key in nodes.get(group, {})
    ]
    unread = own if file else find_unread([*own, *aliases], config, options)
    for path in [*(path for path in unknown if path not in own), *unread]:
        raise refuse(path, config, file or locate(path, options))
    for path in _find_unknown_params(config, plain):
        raise refuse(path, config, locate(("hydra", "sweeper", "params", ".".join(path)), options))
    if errors := [error for error in errors if error["type"] != "extra_forbidden"]:
        place, expected = explain(errors)
        key, where = ".".join(map(str, place)), str(file or locate(place, options))
        if errors[0]["type"] == "list_type" and isinstance(errors[0]["input"], str):
            expected = f"should be a list. Write {key}=[{errors[0]['input']}]"
        given = key if errors[0]["type"] == "missing" else f"{key}={str(errors[0]['input'])[:60]}"
        raise InputError(f"{'' if where in (key, given) else f'{where}: '}{given}: {expected}.")
    for key in filter(plain["trainer"].__contains__, RESERVED):
        instead = f"Choose with {key}=." if key in plain else "Leave it out."
        raise InputError(f"trainer.{key}: set by the run itself. {instead}")
    if own and not file:
        with flag_override(config, ["struct", "readonly"], False):
            for group, node in plain.items():
                config[group] = node
            for path in own:
                del config[path[0]][path[1]]


def refuse(path: Place, config: DictConfig, where: str | Path) -> InputError:
    """Build the error for an unused key, with a suggestion.

    Parameters
    ----------
    path : sequence
        Path of the key.
    config : DictConfig
        The composed config, whose keys are suggested as well.
    where : str or Path
        Option or file that sets the key.

    Returns
    -------
    InputError
        The error, not raised.
    """
    key, group, known = ".".join(map(str, path)), str(path[0]), list_fields()
    if any("." in str(name) for name in path):
        return InputError(f"{where}: {key} is one name with dots. In a yaml, nest the parts.")
    if group in ("experiment", "sweep", "search"):
        return InputError(f"{where}: {group} is a group, not a key. Begin its yaml with `# @package _global_`.")
    if key in known:
        choice = OmegaConf.select(config, f"{group}.name")
        return InputError(f"{where}: {key} is not used with {group}={choice}. Choose another {group}, or leave it out.")
    there = [name for name in _list_keys(OmegaConf.to_container(config)) if not f"{name}.".startswith(f"{key}.")]
    options = [f"trainer.{name}" for name in trainer_options().difference(RESERVED)]
    if near := _find_nearest(key, [*dict.fromkeys([*there, *known, *options])]):
        advice = f"Did you mean {'' if near in there or near in known else '+'}{near}?"
    else:
        advice = f"Refer to it as ${{{key}}} in a value, or leave it out." if group in ALIASES else "Leave it out."
    return InputError(f"{where}: {'' if str(where) == key else f'{key} is '}not a known key. {advice}")


def _find_nearest(key: str, known: Sequence[str]) -> str | None:
    """Return the known key most similar to this one, or None."""
    last = {name: name.rpartition(".")[2] for name in known}
    target = key.rpartition(".")[2]
    similar = [name for name in known if last[name] == target] or get_close_matches(key, known, n=1)
    similar = similar or [name for name in known if last[name] in get_close_matches(target, last.values(), n=1)]
    return similar[0] if similar else None


def _list_keys(config: Any, above: str = "") -> list[str]:
    """Return all dotted keys, without the `hydra` node."""
    if not isinstance(config, dict):
        return []
    names = [name for name in map(str, config) if above or name != "hydra"]
    return [key for name in names for key in (above + name, *_list_keys(config[name], f"{above}{name}."))]


def find_unread(paths: Sequence[Place], config: DictConfig, options: Sequence[str]) -> list[Place]:
    """Return the keys without a reference in the config or in any of its yaml files, including replaced values."""

    def left(paths: Sequence[Place], text: str) -> list[Place]:
        names = re.findall(r"\$\{(\.*[\w.]+)", text)
        keys = {".".join(path): path for path in paths}
        return [path for key, path in keys.items() if not any(_refers(name, key) for name in names)]

    unread = left(paths, str(OmegaConf.to_container(config)))
    return left(unread, str([content for _, _, content in _read_yamls(options)])) if unread else []


def _refers(name: str, key: str) -> bool:
    """Return True if the name in a reference stands for a key or a part of it."""
    if name.startswith("."):  # relative to the node that contains it
        return f".{key}".endswith(f".{name.lstrip('.')}")
    return f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}.")


def _find_unknown_params(config: DictConfig, plain: dict[str, Any]) -> Iterator[Place]:
    """Yield the keys of a sweep in a yaml that are in no config."""
    for key in map(str, OmegaConf.select(config, "hydra.sweeper.params") or ()):
        if re.fullmatch(r"[\w.]+", key) and not knows(key) and key not in _list_keys(plain):
            yield key.split(".")


def knows(key: str) -> bool:
    """Return True if a dotted key is in the schema or belongs to a key that accepts any option."""
    known = [*list_fields(), *(f"trainer.{name}" for name in trainer_options())]
    return any(f"{key}.".startswith(f"{name}.") for name in known)


def locate(path: Place, options: Sequence[str]) -> str:
    """Return the option or the yaml file that sets a key, or the key itself if neither is known."""
    key = ".".join(map(str, path))
    for option in reversed(OverridesParser.create().parse_overrides(list(options))):
        typed = option.key_or_group
        within = "." in typed or isinstance(option.value(), dict)  # not the choice of a group
        if typed == key or (within and f"{key}.".startswith(f"{typed}.")) or typed.startswith(f"{key}."):
            return option.input_line or key
    for file, package, content in _read_yamls(options):
        if [*path[: len(package)]] == package and _holds(content, path[len(package) :]):
            return file
    return key


def _holds(content: Any, path: Place) -> bool:
    """Return True if nested mappings contain the key at this path."""
    if not path or isinstance(content, list):
        return True
    return isinstance(content, dict) and path[0] in content and _holds(content[path[0]], path[1:])


def _read_yamls(options: Sequence[str]) -> Iterator[tuple[str, list[str], Any]]:
    """Yield the file, the package of the keys and the content of each yaml of a composition, last one first."""
    if GlobalHydra.instance().is_initialized():
        loader: Any = GlobalHydra.instance().config_loader()
        _, repository = loader._parse_overrides_and_create_caching_repo("train", list(options))  # with hydra.searchpath
        for part in reversed(loader.compute_defaults_list("train", list(options), RunMode.RUN).defaults):
            if part.config_path and (read := repository.load_config(part.config_path)):
                file = f"{read.path.removeprefix('file://')}/{part.config_path}.yaml"
                yield file, [*filter(None, (part.package or "").split("."))], OmegaConf.to_container(read.config)


def trainer_options() -> set[str]:
    """Return the options of Lightning's Trainer, read from its source because importing it takes seconds."""
    folder = find_spec("lightning").submodule_search_locations[0]  # type: ignore[union-attr, index]
    tree = ast.parse(Path(folder, "pytorch", "trainer", "trainer.py").read_text())
    trainer = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer")
    init = next(node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return {argument.arg for argument in init.args.kwonlyargs}


def list_fields(node: type[Node] = Config, above: str = "") -> dict[str, FieldInfo]:
    """Return, by dotted key, the schema fields that hold a value or accept any option."""
    fields: dict[str, FieldInfo] = {}
    for name, field in node.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        inner = next((kind for kind in kinds if issubclass(kind, Node) and kind is not Target), None)
        if inner is None or issubclass(inner, Target):
            fields |= {} if field.alias else {f"{above}{name}": field}
        fields |= list_fields(inner, f"{above}{name}.") if inner else {}
    return fields


def describe(config: DictConfig) -> Iterator[tuple[str, str | None, str]]:
    """Describe each key of the schema.

    Parameters
    ----------
    config : DictConfig
        The composed config that has the values.

    Yields
    ------
    key : str
        Dotted key.
    value : str or None
        Its value in the config; "" for null, None if the config lacks the key.
    meaning : str
        What the key means, its range and its choices.
    """
    there = _list_keys(OmegaConf.to_container(config))
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    for key, field in list_fields().items():
        value = OmegaConf.select(config, key)
        if OmegaConf.is_config(value):  # entries by name, each from its own yaml
            value = ", ".join(map(str, value)) if isinstance(value, DictConfig) and "_target_" not in value else None
        shown = json.dumps(value).strip('"') if value is not None else "" if key in there else None
        limits = [
            f"{word} {getattr(one, name)}"
            for one in field.metadata
            for name, word in words.items()
            if hasattr(one, name)
        ]
        limits += [f"one of {', '.join(get_args(field.annotation))}"] if get_origin(field.annotation) is Literal else []
        yield key, shown, f"{field.description}{'; ' if limits else ''}{', '.join(limits)}"


def update_table(text: str, config: DictConfig) -> str:
    """Return the text of conf/README.md with its table of options updated from the schema and a config's defaults."""
    rows = [f"| `{key}` | {value or ''} | {meaning} |" for key, value, meaning in describe(config)]
    table = "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])
    begin, end = "<!-- options -->", "<!-- end of options -->"
    return f"{text.partition(begin)[0]}{begin}\n{table}\n{end}{text.partition(end)[2]}"


if __name__ == "__main__":
    from alerce_early.experiments.config import CONF, compose_config

    readme = Path(CONF, "README.md")
    readme.write_text(update_table(readme.read_text(), compose_config()))
