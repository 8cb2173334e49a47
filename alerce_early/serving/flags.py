"""Boolean columns is_<class>: alerts that reach an operating point fitted on a run's validation rows."""

import re
from dataclasses import dataclass

from alerce_early.errors import InputError
from alerce_early.serving.runtimes import Facts

FORM = "CLASS:purity=LEVEL or CLASS:completeness=LEVEL, such as SN:purity=.9"


@dataclass(frozen=True)
class Flag:
    """A threshold on the uncalibrated probability of one class.

    Parameters
    ----------
    name : str
        The class.
    aim : str
        Purity or completeness of the threshold on the validation rows, in words.
    threshold : float
        In [0, 1]; rows at or above it are flagged.
    """

    name: str
    aim: str
    threshold: float

    @property
    def column(self) -> str:
        return f"is_{self.name}"

    def __str__(self) -> str:
        return f"{self.column}: p_{self.name} of at least {self.threshold:.4g}, for {self.aim} on the validation rows"


def find(text: str, facts: Facts) -> Flag:
    """Find the threshold of ``CLASS:purity=LEVEL`` or ``CLASS:completeness=LEVEL``.

    Without operating points, the class-conditional prediction sets give one: the completeness that is their coverage.

    Raises
    ------
    InputError
        If it is not of this form, there is no such class, or no threshold gives it.
    """
    parts = re.fullmatch(r"(.+):(purity|completeness)=(\d*\.?\d+)", text)
    if not parts:
        raise InputError(f"--threshold {text}: not an operating point. Give {FORM}.")
    name, wanted, level = parts[1], parts[2], float(parts[3])
    if name not in facts.classes:
        classes = ", ".join(facts.classes) or "none, as it tells no classes"
        raise InputError(f"--threshold {text}: the network has no class {name}. Choose from {classes}.")
    sets, points = facts.conformal, (facts.operating_points or {}).get(name)
    if points is None:
        if sets and wanted == "completeness" and level == sets["coverage"]:
            return Flag(name, f"a {wanted} of {level:g}", 1 - sets["thresholds"]["set"][facts.classes.index(name)])
        has = f"{name}:completeness={sets['coverage']:g}, the coverage of its prediction sets" if sets else "none"
        raise InputError(f"--threshold {text}: this network has no operating points of {name}, but {has}. Train again.")
    if not (1 <= (percent := round(100 * level)) <= 100) or abs(100 * level - percent) > 1e-9:
        raise InputError(f"--threshold {text}: {parts[3]} is not a level. Give a whole percent from 0.01 to 1.")
    threshold = points[wanted][percent - 1]
    if threshold is None:
        best = max(number for number, value in enumerate(points[wanted], 1) if value is not None)
        raise InputError(f"--threshold {text}: no threshold gives it on the validation rows. The most is {best / 100}.")
    return Flag(name, f"a {wanted} of {level:g} with {points['rows']:,} rows of {name}", threshold)
