"""User-defined metrics: functions that take a predictions table and return a number, given by dotted names."""

from collections.abc import Callable, Iterable
from typing import Any

from alerce_early.construct import function
from alerce_early.errors import InputError
from alerce_early.evaluation.tables import Table


def find_metrics(names: Iterable[str]) -> dict[str, Callable[[Table], float]]:
    """Import metrics by their dotted names; raise InputError if one cannot be imported."""
    found = {}
    for name in names:
        if "." not in str(name):
            raise InputError(f"metrics={name}: not a dotted name. List functions as package.module.function.")
        try:
            found[name] = function(name)
        except InputError as error:
            raise InputError(f"metrics={name}: {error}") from None
    return found


def add_metrics(judged: dict[str, Any], names: Iterable[str], table: Table) -> dict[str, Any]:
    """Add user-defined metrics to the results of a split.

    Parameters
    ----------
    judged : dict
        Results of `Kind.judge` for the table.
    names : iterable of str
        Dotted names of the functions.
    table : mapping of str to ndarray
        The labelled rows of one split.

    Returns
    -------
    dict
        The results with the new metrics in "values", named by the last part of the dotted name or, if that is already
        used, by the full name. "own" maps each new name to its dotted name.

    Raises
    ------
    InputError
        If a function cannot be imported, fails, or does not return a number.
    """
    values, own = dict(judged["values"]), {}
    for name, metric in find_metrics(names).items():
        short = name.rpartition(".")[2]
        called = name if short in values else short
        try:
            values[called] = float(metric(table))
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"metrics={name}: {error!r}. Correct the function, then use resume=.") from None
        own[called] = name
    return {**judged, "values": values, "own": own}
