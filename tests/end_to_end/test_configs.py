"""What is mistyped on the command line is refused in one line that names what there is."""

from collections.abc import Callable

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from alerce_early.errors import InputError
from alerce_early.experiments.config import quote_options, quote_value, translate_errors
from tests.helpers.command import run


@pytest.mark.parametrize(
    ("option", "message"),
    (
        ("data.pth=FILE", "data has no key pth; wanted one of batch_size, "),
        ("optim=adan", "optim=adan is no choice; wanted one of adam, "),
        ("data.groups={SN:[SN]", "data.groups={SN:[SN] is no option; wanted KEY=VALUE"),
    ),
)
def test_a_misspelt_option_is_told_with_what_there_is(
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
def test_what_something_reads_may_be_added(composed: Callable[..., DictConfig], option: str) -> None:
    composed(option)


def test_callbacks_are_chosen_by_name_and_several_at_once(composed: Callable[..., DictConfig]) -> None:
    assert composed().callbacks is None
    one = composed("callbacks=[ema,timer]", "callbacks.ema.decay=0.5", "+callbacks.mine._target_=my_package.Mine")
    assert set(one.callbacks) == {"ema", "timer", "mine"} and one.callbacks.ema.decay == 0.5


def test_the_command_tells_it_in_one_line() -> None:
    done = run("alerce_early.train", "modle=x")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the config has no key modle; wanted one of seed, ")
    assert done.stderr.count("\n") == 1
