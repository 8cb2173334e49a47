"""What is mistyped on the command line is refused in one line that names what there is."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from omegaconf import DictConfig

from alerce_early.configs import understood
from alerce_early.errors import InputError


@pytest.mark.parametrize(
    ("option", "told"),
    (
        ("data.pth=FILE", "data has no key pth; wanted one of name, "),
        ("optim=adan", "optim=adan is no choice; wanted one of adam, "),
        ("groups={SN:[SN]", "groups={SN:[SN] is no option; wanted KEY=VALUE"),
    ),
)
def test_a_misspelt_option_is_told_with_what_there_is(
    composed: Callable[..., DictConfig], option: str, told: str
) -> None:
    with pytest.raises(InputError) as error, understood():
        composed(option)
    assert str(error.value).startswith(told)


def test_the_command_tells_it_in_one_line() -> None:
    done = subprocess.run([sys.executable, "-m", "alerce_early.train", "modle=x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the config has no key modle; wanted one of seed, ")
    assert done.stderr.count("\n") == 1
