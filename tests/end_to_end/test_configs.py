"""Wrong options and config keys are refused with one line that names the key and the nearest valid one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

import alerce_early
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.experiments.config import CONF, compose_config, quote_options, quote_value, translate_errors
from tests.helpers.command import run


@pytest.mark.parametrize(
    ("option", "message"),
    (
        ("data.pth=FILE", "data.pth: "),
        ("optim=adan", "optim=adan is not a choice. Choose from adam, "),
        ("data.groups={SN:[SN]", "data.groups={SN:[SN] is not an option. Write KEY=VALUE"),
    ),
)
def test_the_error_for_a_wrong_option_lists_the_choices(
    composed: Callable[..., DictConfig], option: str, message: str
) -> None:
    with pytest.raises(InputError) as error, translate_errors():
        composed(option)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("text", ("a/b-1.ckpt", "a b", "it's", 'say "x"', "a\\", 'a\\"b\\\\', "x,y=[1]{2}", "1e3 "))
def test_a_quoted_text_is_read_back(composed: Callable[..., DictConfig], text: str) -> None:
    assert composed(f"name={quote_value(text)}").name == text


@pytest.mark.parametrize("text", ("DIR/epoch=3-step=120.ckpt", "a=b", "x y=z", "~/é=1.ckpt", "=", "a==b"))
def test_a_value_may_hold_an_equals_sign(composed: Callable[..., DictConfig], text: str) -> None:
    assert composed(f"init_from={text}").init_from == text
    (several,) = OverridesParser.create().parse_overrides(quote_options([f"init_from={text},x"]))
    assert [getattr(value, "text", value) for value in several.value().list] == [text, "x"]


@pytest.mark.parametrize(
    "option",
    (
        *(
            "+trainer.gradient_clip_val=1",
            "model.net.dropout=0",
            "model.task.entropy=.5",
            "+optim.optimizer.amsgrad=true",
        ),
        *("data.groups={SN:[SN],rest:[AGN]}", "+hydra.job.name=x", "++seed=3", "+data.keep.z_conf=[3]"),
    ),
)
def test_keys_that_some_code_reads_may_be_added(composed: Callable[..., DictConfig], option: str) -> None:
    composed(option)


def test_names_of_labels_and_classes_may_be_any_text(composed: Callable[..., DictConfig]) -> None:
    given = composed("data=alerts", "data.labels_map={SN Ia: SN, TDE: null}", "data.classes=[SN,AGN]")
    assert given.data.source.labels_map == {"SN Ia": "SN", "TDE": None} and given.data.source.classes == ["SN", "AGN"]
    assert composed("data=alerts", "+data.labels_map.star=VS").data.source.labels_map == {"star": "VS"}
    for option in ("data.classes=all", "data.labels_map=SN", "target_class=3"):
        with pytest.raises(InputError, match=option.partition("=")[0]):
            composed("data=alerts", option)


def test_several_callbacks_may_be_chosen_by_name(composed: Callable[..., DictConfig]) -> None:
    assert composed().callbacks is None
    one = composed("callbacks=[ema,timer]", "callbacks.ema.decay=0.5", "+callbacks.mine._target_=my_package.Mine")
    assert set(one.callbacks) == {"ema", "timer", "mine"} and one.callbacks.ema.decay == 0.5


def test_the_command_prints_a_one_line_error() -> None:
    done = run("alerce_early.train", "modle=x")
    assert done.returncode == 2
    assert done.stderr.startswith("error: modle: ") and "model?" in done.stderr
    assert done.stderr.count("\n") == 1


def yaml_of(folder: Path, name: str, text: str) -> str:
    """Write a yaml file and return its path as messages print it."""
    (file := folder / f"{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# @package _global_\n{text}\n")
    return str(file)


@pytest.mark.parametrize(
    ("text", "key", "near"),
    (
        ("data: {batchsize: 64}", "data.batchsize", "data.batch_size"),
        ("patiance: 3", "patiance", "patience"),
        ("data: {data.batches_per_epoch: 80}", "data.data.batches_per_epoch", "data.batches_per_epoch"),
        ("trainer: {gradient_clip: 1}", "trainer.gradient_clip", "trainer.gradient_clip_val"),
        ("recipe: {sise: 21}", "recipe.sise", "recipe.size"),
        ("data.batch_size: 64", "data.batch_size", "dots"),
        ("data: {batch_size: 64", "line 3", "expected"),
        ("seed: 1\nseed: 2", "duplicate key seed", "line 3"),
        ("hydra: {sweeper: {params: {model.task.entropi: '0,1', seeds: '0,1'}}}", "seeds", "seed"),
    ),
)
def test_the_error_for_a_wrong_key_names_its_yaml_file(text: str, key: str, near: str, tmp_path: Path) -> None:
    file = yaml_of(tmp_path, "experiment/mine", text)
    found = f"hydra.searchpath=['file://{tmp_path}']"
    with pytest.raises(InputError) as error:
        compose_config(found, "experiment=mine", hydra=True)
    assert all(word in str(error.value) for word in (file, key, near))


def test_the_error_for_a_missing_package_line_names_the_line(tmp_path: Path) -> None:
    file = Path(yaml_of(tmp_path, "experiment/mine", "seed: 1"))
    file.write_text("seed: 1\n")
    with pytest.raises(InputError, match="@package _global_"):
        compose_config(f"hydra.searchpath=['file://{tmp_path}']", "experiment=mine", hydra=True)


def test_an_unknown_key_is_refused_in_every_entry_point(finished_run: Run, tmp_path: Path) -> None:
    """Command line, yaml in --config-dir, sweep, Python and the config of a run to resume."""
    file = yaml_of(tmp_path, "experiment/mine", "data: {batchsize: 64}")
    own = ("--config-dir", str(tmp_path), f"outputs={tmp_path}", "experiment=mine")
    for words in (own, (*own, "sweep=seeds"), ("+data.batchsize=64", f"outputs={tmp_path}")):
        done = run("alerce_early.train", *words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        where = file if "experiment=mine" in words else "+data.batchsize=64"
        assert where in done.stderr and "data.batch_size?" in done.stderr
    with pytest.raises(InputError, match=r"\+data\.batchsize=64: .*data\.batch_size\?"):
        alerce_early.run("+data.batchsize=64", f"outputs={tmp_path}")
    with pytest.raises(InputError, match="sweep=seeds"):  # Python would run only one of them
        alerce_early.run("sweep=seeds", f"outputs={tmp_path}")
    shutil.copytree(finished_run.path, folder := tmp_path / "cut")
    (folder / "metrics.json").unlink()
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("  batch_size:", "  batchsize: 64\n  batch_size:", 1))
    with pytest.raises(InputError, match=r"cut/config\.yaml: .*data\.batchsize .*data\.batch_size\?"):
        alerce_early.run(f"resume={folder}")
    assert not [path for path in tmp_path.rglob("train.log") if path.parent != folder]


def test_a_new_key_is_accepted_only_if_a_value_refers_to_it(tmp_path: Path) -> None:
    found = f"hydra.searchpath=['file://{tmp_path}']"
    steps = "[{_target_: alerce_early.data.recipe.Crop, size: '${recipe.mine}'}]"
    yaml_of(tmp_path, "experiment/mine", f"recipe: {{mine: 33, steps: {steps}}}")
    config = compose_config(found, "experiment=mine", "recipe.mine=21")
    assert (
        config.recipe.steps[0].size == 21 and "mine" not in config.recipe
    )  # removed after resolution, so that the run can be resumed
    yaml_of(tmp_path, "experiment/mine", "recipe: {mine: 33}")
    with pytest.raises(InputError, match=r"recipe\.mine"):
        compose_config(found, "experiment=mine")
    file = yaml_of(tmp_path, "experiment/mine", "defaults: [override /data: alerce]\ndata: {epoch: today}")
    with pytest.raises(InputError, match=rf"{file}: .*data\.epoch .*data=alerce"):
        compose_config(found, "experiment=mine")
    compose_config("recipe=minmax", "recipe.steps=[]")  # recipe.size stays, although nothing refers to it now


@pytest.mark.parametrize(
    "file", sorted(Path(CONF).glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}={file.stem}"
)
def test_every_config_matches_the_schema(file: Path) -> None:
    config = compose_config(f"{file.parent.name}={file.stem}", hydra=True)
    params = [f"{key}={values}" for key, values in (config.hydra.sweeper.get("params") or {}).items()]
    for option in OverridesParser.create().parse_overrides(params):
        first, *_, last = option.sweep_string_iterator() if option.is_discrete_sweep() else (option.value().start,) * 2
        for value in (first, last):
            compose_config(f"{file.parent.name}={file.stem}", f"{option.get_key_element()}={value}")


@pytest.mark.parametrize(
    ("option", "key"),
    (
        *(("data.batch_size=0", "data.batch_size"), ("data.batch_size=x", "data.batch_size"), ("seed=-1", "seed")),
        *(("coverage=1", "coverage"), ("calibration=hot", "calibration"), ("ema=2", "ema"), ("data.n=1.5", r"data\.n")),
        *(("optim.optimizer.lr=nan", "lr"), ("data.split={validation: many}", r"data\.split\.validation")),
        *(("data.path=x", r"data\.path.*data=simulated"), ("+logger.mine={a: 1}", r"logger\.mine\._target_")),
        ("metrics=my_package.f", r"metrics=\[my_package\.f\]"),
    ),
)
def test_the_error_for_a_value_out_of_range_names_its_key(option: str, key: str) -> None:
    with pytest.raises(InputError, match=key):
        compose_config(option)
