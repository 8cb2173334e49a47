"""Metrics of the user's own: functions from a predictions table to a number, by their dotted names."""

from collections.abc import Callable, Iterable
from typing import Any

from alerce_early.construct import function
from alerce_early.errors import InputError
from alerce_early.evaluation.tables import Table


def find_metrics(names: Iterable[str]) -> dict[str, Callable[[Table], float]]:
    """Return the functions of these dotted names, by name; raises InputError for one that cannot be imported."""
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
    """Return the numbers of an evaluated table with the user's own among its values.

    Parameters
    ----------
    judged : dict
        What `Kind.judge` returns for the table.
    names : iterable of str
        Dotted names. A value is called by the last part of its name or, where that is taken, by all of it.
    table : mapping of str to ndarray
        The labelled rows of one split.

    Returns
    -------
    dict
        With "own", the dotted name of each added value by what it is called.

    Raises
    ------
    InputError
        If a function cannot be imported, fails, or returns no number.
    """
    values, own = dict(judged["values"]), {}
    for name, metric in find_metrics(names).items():
        short = name.rpartition(".")[2]
        called = name if short in values else short
        try:
            values[called] = float(metric(table))
        except Exception as error:  # code of the user's own may fail in any way
            raise InputError(f"metrics={name}: {error!r}. Correct it, and continue the run with resume=.") from None
        own[called] = name
    return {**judged, "values": values, "own": own}
