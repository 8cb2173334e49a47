"""Errors that the user can correct, shown as one line without a traceback."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")  # Python 3.11 lacks the new syntax for generics
T = TypeVar("T")

# From the checkout, because the package is in no index. {} is an extra, e.g. [stream].
INSTALL = "pip install '.{}'"


class InputError(Exception):
    """An invalid option, file or value; the message names it, the problem, and the flag or key to change.

    Parameters
    ----------
    message : str
        The message. Unprintable characters, e.g. in names from a file, are escaped.

    Attributes
    ----------
    status : int
        Exit status of a command that ends with this error.
    """

    status = 2

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class MissingExtraError(InputError):
    """An optional dependency is not installed.

    Parameters
    ----------
    lacking : str
        Name of the dependency, or of the feature that needs it.
    extra : str
        Extra of this package that installs it, if there is one.
    """

    def __init__(self, lacking: str, extra: str = ""):
        super().__init__(
            f"{lacking} is not installed. Try {INSTALL.format(f'[{extra}]' * bool(extra))}, in the checkout."
        )
        self._arguments = lacking, extra

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Rebuild the error from its arguments, when a worker process raised it."""
        return type(self), self._arguments


def one_line(error: BaseException) -> str:
    """Return the message of a library's error on one line of at most 200 characters, without a full stop."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words[:200].rstrip(".")


@contextmanager
def require_extra(what: str, name: str = "") -> Iterator[None]:
    """Turn a failed import inside the block into an error that names the extra to install.

    Parameters
    ----------
    what : str
        Feature that needs the import, for the message.
    name : str
        Extra of this package that installs it, if there is one.

    Raises
    ------
    MissingExtraError
        If a module is not installed.
    InputError
        If it is installed but cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name):
            raise InputError(f"{what}: {one_line(error)}.") from None
        raise MissingExtraError(f"{what}: {error.name}", name) from None


def exit_on_input_error(command: Callable[P, T]) -> Callable[P, T]:
    """Decorate a command so that an `InputError` ends it with one line and its status, without a traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.status)

    return wrapped
