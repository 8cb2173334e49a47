"""Flag alerts in Boolean columns is_<class>, by operating points fitted on the validation rows of a run."""

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
        """Name of the column."""
        return f"is_{self.name}"

    def __str__(self) -> str:
        return f"{self.column}: p_{self.name} of at least {self.threshold:.4g}, for {self.aim} on the validation rows"


def find(text: str, facts: Facts) -> Flag:
    """Find the threshold for a purity or a completeness.

    For a network without operating points, the class-conditional prediction sets provide one threshold: the one whose
    completeness is their coverage.

    Parameters
    ----------
    text : str
        ``CLASS:purity=LEVEL`` or ``CLASS:completeness=LEVEL``, LEVEL a whole percent in [0.01, 1].
    facts : Facts
        Metadata of the network.

    Returns
    -------
    Flag
        The threshold.

    Raises
    ------
    InputError
        If the text has another form, the class is unknown, or no threshold reaches the level.
    """
    parts = re.fullmatch(r"(.+):(purity|completeness)=(\d*\.?\d+)", text)
    if not parts:
        raise InputError(f"--threshold {text}: not an operating point. Give {FORM}.")
    name, aim, level = parts[1], parts[2], float(parts[3])
    if name not in facts.classes:
        advice = f"Choose from {', '.join(facts.classes)}." if facts.classes else "It is not a classifier."
        raise InputError(f"--threshold {text}: the network has no class {name}. {advice}")
    sets, points = facts.conformal, (facts.operating_points or {}).get(name)
    if points is None:
        if sets and aim == "completeness" and level == sets["coverage"]:
            return Flag(name, f"a {aim} of {level:g}", 1 - sets["thresholds"]["set"][facts.classes.index(name)])
        instead = (
            f"Give {name}:completeness={sets['coverage']:g}, the coverage of its sets, or train" if sets else "Train"
        )
        raise InputError(f"--threshold {text}: this network has no operating points for {name}. {instead} again.")
    if not (1 <= (percent := round(100 * level)) <= 100) or abs(100 * level - percent) > 1e-9:
        raise InputError(f"--threshold {text}: {parts[3]} is not a level. Give a whole percent from 0.01 to 1.")
    threshold = points[aim][percent - 1]
    if threshold is None:
        best = max(number for number, value in enumerate(points[aim], 1) if value is not None)
        raise InputError(
            f"--threshold {text}: no threshold reaches it on the validation rows. Give at most {best / 100}."
        )
    return Flag(name, f"a {aim} of {level:g} with {points['rows']:,} rows of {name}", threshold)
