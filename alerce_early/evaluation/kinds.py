"""Which evaluation fits a table: decided by its columns, so that a foreign table can be judged like our own."""

from collections.abc import Mapping
from types import ModuleType

import numpy as np

from alerce_early.errors import InputError
from alerce_early.evaluation import classification, generation, regression

# Each has CURVES, WORDS, fits(columns), judge(table), headline(judged), pictures(judged, table), sections(...),
# and to rank by: RANKED_BY, LOWER_IS_BETTER, right(table), strata(table).
KINDS: tuple[ModuleType, ...] = (classification, regression, generation)


def choose_kind(table: Mapping[str, np.ndarray]) -> ModuleType:
    """Return the evaluation for a table; raises InputError where none fits."""
    for kind in KINDS:
        if kind.fits(list(table)):
            return kind
    raise InputError(f"no evaluation fits a table with the columns {', '.join(table)}.")
