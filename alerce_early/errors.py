"""One kind of error for what the user can mend, shown as one line and no traceback."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")  # the 3.12 syntax for generics would shut out Python 3.11
T = TypeVar("T")


class InputError(Exception):
    """A mistake in what was given: says what was seen, what was wanted and which flag to change.

    status: with which a command ends on it.
    """

    status = 2


def at_the_door(command: Callable[P, T]) -> Callable[P, T]:
    """Make a command end with status 2 and one line on an `InputError`, instead of a traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.status)

    return wrapped
