"""One kind of error for what the user can mend, shown as one line and no traceback."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")  # the 3.12 syntax for generics would shut out Python 3.11
T = TypeVar("T")

# Of this package with an extra, e.g. [stream]: by its folder. Its name is in no index, where anybody could take it.
INSTALL = "pip install '.{}'"


class InputError(Exception):
    """A mistake in what was given: says what was seen, what was wanted and which flag to change.

    Names from a file come through escaped: a message is one printable line, whatever they hold.
    status: with which a command ends on it.
    """

    status = 2

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class MissingExtraError(InputError):
    """An optional dependency is not installed."""

    def __init__(self, lacking: str, extra: str = ""):
        super().__init__(
            f"{lacking} is not installed. Try {INSTALL.format(f'[{extra}]' * bool(extra))}, in the checkout."
        )


def one_line(error: BaseException) -> str:
    """Return a library's own words for an error in one line, not long, without a full stop."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words[:200].rstrip(".")


@contextmanager
def require_extra(what: str, name: str = "") -> Iterator[None]:
    """Say which extra, or the package, brings what is imported inside and is missing; raises InputError.

    what: what wants it, for people. What is there and cannot be loaded says why itself.
    """
    try:
        yield
    except ImportError as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name):
            raise InputError(f"{what}: {one_line(error)}.") from None
        raise MissingExtraError(f"{what}: {error.name}", name) from None


def exit_on_input_error(command: Callable[P, T]) -> Callable[P, T]:
    """Make a command end with status 2 and one line on an `InputError`, instead of a traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.status)

    return wrapped
