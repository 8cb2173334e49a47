"""Schema of the whole composed config: its keys, types, ranges and choices.

`python -m alerce_early.experiments.schema` writes the table of these options into conf/README.md again. What a
`_target_` names takes the options of its signature, which are checked when it is built (`instantiate.check`).
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

# Options of Lightning's Trainer that the run sets, so that it resumes exactly and keeps everything in its folder.
RESERVED = (
    *("callbacks", "logger", "plugins", "default_root_dir", "use_distributed_sampler"),
    *("num_sanity_val_steps", "enable_model_summary", "enable_progress_bar"),
)
Place = Sequence[Any]  # the names, and numbers in lists, that lead to a key
Name = str | int | float


class Node(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Target(Node):
    """A class or function by its dotted name, and any options of it."""

    model_config = ConfigDict(extra="allow")
    target: str = Field(alias="_target_", description="dotted name of a class or function, also of your own package")


class Optimizer(Target):
    lr: float = Field(ge=0, description="learning rate; a schedule may change it")


class DataAliases(Node):
    """Keys that `data.source` refers to; a data yaml has those that its reader takes."""

    path: str | None = Field(None, description="the raw file or folder; `ALERCE_STAMPS`, `SDSS_SPECTRA` name defaults")
    test_path: str | None = Field(None, description="another file of that format, to be judged on")
    extra: str | None = Field(
        None, description="a file of that format for the training split only, e.g. generated stamps"
    )
    labels: str | None = Field(
        None,
        description="a CSV of candid (or objectId) and label for packets and stamps; null: `labels.csv` beside them",
    )
    labels_map: dict[str | int, str | None] | None = Field(
        None, description="classes of names in the labels, e.g. `{SN Ia: SN, TDE: null}`; null: of no class"
    )
    classes: list[str] | Literal["labels"] | None = Field(
        None,
        description="e.g. `[AGN,SN,VS,asteroid,bogus,satellite]`, or `labels`: those that the labels have; null: the "
        "first five and those that `labels_map` adds",
    )
    columns: dict[Literal["images", "labels", "ids", "metadata"], str | None] | None = Field(
        None,
        description="names of these columns in a stamps file, e.g. `{images: image_triplet}`; null: the usual names",
    )
    schemas: str | None = Field(
        None, description="of messages that come without: a folder of .avsc files, one of them, or a registry's URL"
    )
    pad_edges: bool | None = Field(
        None,
        description="of ZTF packets: keep cutouts that the edge of a chip has cut by up to 20 pixels, with no data for "
        "what is missing, instead of dropping them",
    )
    channels: list[str] | None = Field(None, description="images of each stamp to use, by name")
    n: int | None = Field(None, ge=1, description="rows of simulated data")
    seed: int | None = Field(None, ge=0, description="of simulated data")
    epoch: Name | None = Field(None, description="of simulated alerts: `today`, or 2020, that of the published file")
    counts: Literal["as_file", "balanced"] | None = Field(
        None, description="`as_file`: classes as frequent as in `ALERCE_stamps_2020.pkl`; `balanced`: as many of each"
    )


class Split(Node):
    validation: float = Field(ge=0, description="rows of each class, or, below 1, their share; objects stay together")
    test: float = Field(ge=0, description="likewise")
    seed: int = Field(ge=0, description="of the random split")
    folds: int | None = Field(description="the test rows are one of so many folds, whatever `test` says")
    fold: int | None = Field(description="which of them, from 0")
    by: Literal["object", "night"] = Field(
        description="`night`: all rows that an object, a position or an observing night connects are in one part. Rows "
        "of a night share weather, fields and artefacts, and a network recognises a night that it was trained on"
    )


class Data(DataAliases):
    name: str = Field(description="of the data, in folders and tables")
    kind: Literal["stamps", "spectra"] = Field(description="what the reader returns")
    source: Target = Field(description="the reader and its options")
    batch_size: int = Field(ge=1, description="rows per step, of all processes together")
    batches_per_epoch: int | None = Field(ge=1, description="null: as many as show every training row once")
    sampling: Literal["balanced", "as_is", "undersample", "oversample"] = Field(
        description="as many rows of each class, every row once, or every class cut or repeated to the same size"
    )
    groups: dict[str, list[str] | None] | None = Field(
        description="new classes, e.g. `{SN: [SN], rest: [AGN, VS]}`; classes in no group are left out and counted"
    )
    keep: dict[str, list[float]] | None = Field(description="only rows with these values, e.g. `{z_conf: [3]}`")
    target: str | None = Field(description="the column to predict, for regression")
    match_radius: float | None = Field(
        ge=0, le=3600, description="arcsec within which rows are of one object; null: by name alone"
    )
    split: Split
    nights: str | None = Field(
        description="for `split.by=night` where the data do not say when they were observed, as packets do: a CSV of "
        "objectId and `jd`, `mjd`, `candid` (of ZTF) or `night`"
    )
    simulated_share: float | None = Field(
        ge=0,
        lt=1,
        description="e.g. 0.5 with few real stamps: so much of each training batch are simulated stamps, as many of "
        "each class, with metadata where the network takes them; they train and are never judged",
    )
    simulated_n: int = Field(ge=1, description="how many simulated stamps there are to draw from")
    simulated_seed: int = Field(ge=0, description="of these; the pretrained networks saw those of seed 0")
    simulated: Target | None = Field(
        description="what simulates them, for the data of ZTF and Rubin; ZTF's takes `young` and `cloudy`, the "
        "shares of new objects and of shallow exposures in each class"
    )


class RecipeAliases(Node):
    """Keys that `recipe.steps` refers to."""

    size: int | None = Field(None, ge=1, description="pixels on a side that the network sees")
    factor: int | None = Field(None, ge=2, description="the wider view is so many times as wide as the centre")
    wide: int | None = Field(None, ge=1, description="pixels that are cut out first: size x factor")
    each: bool | None = Field(None, description="every channel in a unit of its own")


class Recipe(RecipeAliases):
    name: str = Field(description="of the recipe")
    min_share: float = Field(
        ge=0, le=1, description="of the central pixels that must hold data; other rows are set aside"
    )
    steps: list[Target] = Field(description="what is done to a stamp or spectrum, in order")


class Augment(Node):
    name: str = Field(description="of the augmentation")
    margin: int = Field(ge=0, description="pixels of real sky that the store keeps around the crop")
    steps: list[Target] = Field(description="what is done to each training batch, in order")
    redraw: list[str] = Field(
        description="metadata columns that half of the training rows take from another row of the batch, all together, "
        "e.g. `[ndethist,ncovhist,non_detections]`: where young objects are all of one class, age must not become it"
    )


class Features(Node):
    name: str = Field(description="of the choice")
    names: list[str] | None = Field(description="metadata columns for the network, e.g. `[fwhm,rb]`; null: all")


class Forest(Features):
    names: list[str] | None = Field(description="metadata columns that `ensemble.features` refers to")


class Optim(Node):
    name: str = Field(description="of the choice")
    optimizer: Optimizer = Field(description="one of torch.optim and its options")
    groups: dict[str, dict[str, Any]] = Field(
        description="options of their own for parameters of one name, e.g. `+optim.groups.bias.weight_decay=0`"
    )
    schedule: Target | None = Field(description="one of torch.optim.lr_scheduler, stepped with every batch")


class Trainer(Node):
    model_config = ConfigDict(extra="allow")
    accelerator: str = Field(description="`gpu`, `cpu` or `auto`; with `+`, any other option of Lightning's Trainer")
    devices: int | str | list[int] = Field(description="how many, or which")
    precision: str | int = Field(
        description="auto: `bf16-mixed` where bfloat16 is faster (AMX, a GPU), else `32-true`; judged in float32"
    )
    max_epochs: int | None = Field(ge=-1, description="epochs of training at most")


class ModelAliases(Node):
    """Keys that `model.net` and `model.task` refer to."""

    filters: int | None = Field(None, ge=1, description="of the convolution of `model=hits_shallow`")


class Model(ModelAliases):
    name: Name = Field(description="of the model, in folders and tables")
    published: str | None = Field(None, description="the published result to compare with")
    net: Target = Field(description="the network and its options")
    task: Target = Field(description="loss, outputs and numbers, and their options: the group `task`")


class Ensemble(Node):
    features: list[str] | None = Field(
        description="a list joins the networks of a sweep over folds to one, in `outputs/runs/NAME`, with a random "
        "forest on these metadata columns; `[]`: without a forest"
    )
    trees: int = Field(ge=1, description="of the forest")
    leaf: int = Field(ge=1, description="rows at least in a leaf of it")


class Config(Node):
    seed: int = Field(ge=0, le=2**32 - 1, description="fixes weights, batch order, augmentation and dropout")
    data: Data
    recipe: Recipe
    augment: Augment
    features: Features
    forest: Forest | None = None  # of the group `features`, under another name
    model: Model
    optim: Optim
    trainer: Trainer
    callbacks: dict[str, Target] | None = Field(description="`ema`, `timer`, or any of Lightning's or your own by name")
    logger: dict[str, Target] | None = Field(
        description="`tensorboard`, `csv`, `wandb`, `mlflow`, `none`, or several: `[tensorboard,csv]`"
    )
    monitor: str | None = Field(description="validation number that chooses the checkpoint; null: the last epoch")
    patience: int = Field(ge=0, description="validations without a better one that end the run")
    ema: float | None = Field(
        ge=0,
        le=1,
        description="e.g. 0.99: judged and kept is the running mean of the weights; each step keeps that share of it",
    )
    init_from: str | None = Field(
        description="a run, checkpoint or pretrained network whose weights the run begins with; of joined ones the "
        "first. Those that do not fit stay fresh and are logged; fewer than a tenth that fit are refused"
    )
    distil: str | None = Field(
        description="a run, checkpoint, pretrained network or sweep over folds that teaches: labels become the mean "
        "with its probabilities, rows without one have these alone. Of a sweep those teach that held out the rows"
    )
    calibration: Literal["temperature", "none"] = Field(
        description="of the probabilities, on the validation rows; not used where it would not lower their log loss"
    )
    target_class: str = Field(
        description="the class of thresholds, headlines and the first row of tables; of two classes without it the last"
    )
    coverage: float = Field(gt=0, lt=1, description="of the conformal prediction sets")
    metrics: list[str] = Field(
        description="your own, on page and in `compare`: dotted names of functions from a predictions table to a number"
    )
    ensemble: Ensemble
    outputs: str = Field(description="where runs, stores and sweeps go")
    resume: str | None = Field(description="the folder of a cut run to continue with, by its own config")
    name: Name = Field(description="of a sweep's folder")


ALIASES: dict[str, type[Node]] = {"data": DataAliases, "recipe": RecipeAliases, "model": ModelAliases}


def check(config: DictConfig, options: Sequence[str] = (), file: Path | None = None) -> None:
    """Check a composed config: every key is known and read, and every value is of its type and within its range.

    A key of one's own in data, recipe or model that a value of the config refers to has served once it is resolved,
    and goes.

    Parameters
    ----------
    config : DictConfig
        The composed config; Hydra's own part of it is not looked at.
    options : sequence of str
        Overrides that it was composed with.
    file : Path, optional
        The config.yaml of a run folder that it was read from, where nothing refers to anything any more.

    Raises
    ------
    InputError
        If not, naming the key, the nearest known one, and the yaml file or option that it stands in.
    """
    plain: dict[str, Any] = {}
    for name in config:
        if name != "hydra":  # which makes folders as it is resolved
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
        at, asked = explain(errors)
        key, where = ".".join(map(str, at)), str(file or locate(at, options))
        if errors[0]["type"] == "list_type" and isinstance(errors[0]["input"], str):
            asked = f"should be a list. Write {key}=[{errors[0]['input']}]"
        given = key if errors[0]["type"] == "missing" else f"{key}={str(errors[0]['input'])[:60]}"
        raise InputError(f"{'' if where in (key, given) else f'{where}: '}{given}: {asked}.")
    for key in filter(plain["trainer"].__contains__, RESERVED):
        instead = f"Choose with {key}=." if key in plain else "Leave it out."
        raise InputError(f"trainer.{key}: decided by the run itself. {instead}")
    if own and not file:
        with flag_override(config, ["struct", "readonly"], False):
            for group, node in plain.items():
                config[group] = node
            for path in own:
                del config[path[0]][path[1]]


def refuse(path: Place, config: DictConfig, where: str | Path) -> InputError:
    """Return the error for a key that nothing reads, with the nearest key there is."""
    key, group, known = ".".join(map(str, path)), str(path[0]), list_fields()
    if any("." in str(name) for name in path):
        return InputError(f"{where}: {key} is one name with dots. In a yaml, write each part below the one before.")
    if group in ("experiment", "sweep", "search"):
        return InputError(f"{where}: {group} is a group, not a key. Begin its yaml with `# @package _global_`.")
    if key in known:
        choice = OmegaConf.select(config, f"{group}.name")
        return InputError(
            f"{where}: nothing reads {key} with {group}={choice}. Choose another {group}, or leave it out."
        )
    there = [name for name in _list_keys(OmegaConf.to_container(config)) if not f"{name}.".startswith(f"{key}.")]
    options = [f"trainer.{name}" for name in trainer_options().difference(RESERVED)]
    if near := _find_nearest(key, [*dict.fromkeys([*there, *known, *options])]):
        advice = f"Did you mean {'' if near in there or near in known else '+'}{near}?"
    else:
        advice = f"Let a value refer to it by ${{{key}}}, or leave it out." if group in ALIASES else "Leave it out."
    return InputError(f"{where}: {'' if str(where) == key else f'{key} is '}not a key that anything reads. {advice}")


def _find_nearest(key: str, known: Sequence[str]) -> str | None:
    last = {name: name.rpartition(".")[2] for name in known}
    wanted = key.rpartition(".")[2]
    near = [name for name in known if last[name] == wanted] or get_close_matches(key, known, n=1)
    near = near or [name for name in known if last[name] in get_close_matches(wanted, last.values(), n=1)]
    return near[0] if near else None


def _list_keys(config: Any, above: str = "") -> list[str]:
    """All dotted keys, but for Hydra's own."""
    if not isinstance(config, dict):
        return []
    names = [name for name in map(str, config) if above or name != "hydra"]
    return [key for name in names for key in (above + name, *_list_keys(config[name], f"{above}{name}."))]


def find_unread(paths: Sequence[Place], config: DictConfig, options: Sequence[str]) -> list[Place]:
    """Return the keys that nothing refers to, neither in the config nor in a yaml where a later value replaced it."""

    def left(paths: Sequence[Place], text: str) -> list[Place]:
        names = re.findall(r"\$\{(\.*[\w.]+)", text)
        keys = {".".join(path): path for path in paths}
        return [path for key, path in keys.items() if not any(_refers(name, key) for name in names)]

    unread = left(paths, str(OmegaConf.to_container(config)))
    return left(unread, str([content for _, _, content in _read_yamls(options)])) if unread else []


def _refers(name: str, key: str) -> bool:
    if name.startswith("."):  # relative to where it stands
        return f".{key}".endswith(f".{name.lstrip('.')}")
    return f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}.")


def _find_unknown_params(config: DictConfig, plain: dict[str, Any]) -> Iterator[Place]:
    """Yield the keys that a yaml sweeps over and no config has."""
    for key in map(str, OmegaConf.select(config, "hydra.sweeper.params") or ()):
        if re.fullmatch(r"[\w.]+", key) and not knows(key) and key not in _list_keys(plain):
            yield key.split(".")


def knows(key: str) -> bool:
    """Return whether a dotted key is in the schema, or below one that takes any options."""
    known = [*list_fields(), *(f"trainer.{name}" for name in trainer_options())]
    return any(f"{key}.".startswith(f"{name}.") for name in known)


def locate(path: Place, options: Sequence[str]) -> str:
    """Return the option or else the yaml file that sets this key, or the key where none is known."""
    key = ".".join(map(str, path))
    for option in reversed(OverridesParser.create().parse_overrides(list(options))):
        typed = option.key_or_group
        within = "." in typed or isinstance(option.value(), dict)  # else a group's choice
        if typed == key or (within and f"{key}.".startswith(f"{typed}.")) or typed.startswith(f"{key}."):
            return option.input_line or key
    for file, package, content in _read_yamls(options):
        if [*path[: len(package)]] == package and _holds(content, path[len(package) :]):
            return file
    return key


def _holds(content: Any, path: Place) -> bool:
    if not path or isinstance(content, list):
        return True
    return isinstance(content, dict) and path[0] in content and _holds(content[path[0]], path[1:])


def _read_yamls(options: Sequence[str]) -> Iterator[tuple[str, list[str], Any]]:
    """Yield each yaml of a composition, the last first: its file, the package of its keys, and its content."""
    if GlobalHydra.instance().is_initialized():
        loader: Any = GlobalHydra.instance().config_loader()
        _, repository = loader._parse_overrides_and_create_caching_repo("train", list(options))  # with hydra.searchpath
        for part in reversed(loader.compute_defaults_list("train", list(options), RunMode.RUN).defaults):
            if part.config_path and (read := repository.load_config(part.config_path)):
                file = f"{read.path.removeprefix('file://')}/{part.config_path}.yaml"
                yield file, [*filter(None, (part.package or "").split("."))], OmegaConf.to_container(read.config)


def trainer_options() -> set[str]:
    """Return the options of Lightning's Trainer, read from its source: to import it takes seconds."""
    folder = find_spec("lightning").submodule_search_locations[0]  # type: ignore[union-attr, index]
    tree = ast.parse(Path(folder, "pytorch", "trainer", "trainer.py").read_text())
    trainer = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer")
    init = next(node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return {argument.arg for argument in init.args.kwonlyargs}


def list_fields(node: type[Node] = Config, above: str = "") -> dict[str, FieldInfo]:
    """Return each dotted key of the schema that holds a value, or any options, with what is known of it."""
    fields: dict[str, FieldInfo] = {}
    for name, field in node.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        inner = next((kind for kind in kinds if issubclass(kind, Node) and kind is not Target), None)
        if inner is None or issubclass(inner, Target):
            fields |= {} if field.alias else {f"{above}{name}": field}
        fields |= list_fields(inner, f"{above}{name}.") if inner else {}
    return fields


def describe(config: DictConfig) -> Iterator[tuple[str, str | None, str]]:
    """Yield each key of the schema, its value, None where the config lacks it, and its meaning, range and choices."""
    there = _list_keys(OmegaConf.to_container(config))
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    for key, field in list_fields().items():
        value = OmegaConf.select(config, key)
        if OmegaConf.is_config(value):  # several by name, of which each has its own yaml
            value = ", ".join(map(str, value)) if isinstance(value, DictConfig) and "_target_" not in value else None
        shown = json.dumps(value).strip('"') if value is not None else "" if key in there else None
        limits = [
            f"{word} {getattr(one, name)}"
            for one in field.metadata
            for name, word in words.items()
            if hasattr(one, name)
        ]
        limits += [f"one of {', '.join(get_args(field.annotation))}"] if get_origin(field.annotation) is Literal else []
        yield key, shown, f"{field.description}{'; ' if limits else ''}{' '.join(limits)}"


def update_table(text: str, config: DictConfig) -> str:
    """Return the text of conf/README.md with the table of options as the schema and a config's defaults have it."""
    rows = [f"| `{key}` | {value or ''} | {meaning} |" for key, value, meaning in describe(config)]
    table = "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])
    begin, end = "<!-- options -->", "<!-- end of options -->"
    return f"{text.partition(begin)[0]}{begin}\n{table}\n{end}{text.partition(end)[2]}"


if __name__ == "__main__":
    from alerce_early.experiments.config import CONF, compose_config

    readme = Path(CONF, "README.md")
    readme.write_text(update_table(readme.read_text(), compose_config()))
