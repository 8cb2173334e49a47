"""What a night's ranking by one class is worth, judged on the rows that were drawn at random for labelling."""

from typing import Any

import numpy as np

from alerce_early.evaluation import intervals, tables, thresholds

QUEUE = "queue"  # the column with the reason why a row was labelled
RANDOM = "random"  # its value for rows drawn at random from the whole table
RANK = "rank"  # the column with the place of a row in the whole table, 1 for the most probable of the target class
RANKED = "ranked_rows"  # the constant with the number of rows of the whole table
TOP = (10, 30, 100, 300, 1000)  # numbers of alerts that somebody may look at
COMPLETENESS = 0.9  # for which the workload is given


def judge(table: tables.Table, constants: tables.Constants, target: str) -> dict[str, Any]:
    """Estimate purity, recall and workload from the random rows alone.

    Parameters
    ----------
    table : mapping of str to ndarray
        Labelled predictions with the column ``queue`` (N,) str and, for the recall at K, ``rank`` (N,) int.
    constants : mapping of str to float
        May hold `RANKED`.
    target : str
        The class that is searched for.

    Returns
    -------
    dict
        ``of``, the class; ``labelled`` and ``n``, the numbers of labelled and of random rows; ``shares``, by name a
        dict of ``n``, ``value`` and ``interval`` (95 %, see `intervals.share`), without the names that have no rows.
        ``workload`` is the share of alerts to look at, most probable first, until `COMPLETENESS` of the class is found
        (interval: bootstrap over objects). Empty if the table has no column ``queue``, or no class stands out.
    """
    name = thresholds.looked_for(tables.classes_of(table), target)
    if QUEUE not in table or name is None:
        return {}
    drawn = tables.take_rows(table, table[QUEUE] == RANDOM)
    found: dict[str, Any] = {"of": name, "labelled": len(table["label"]), "n": len(drawn["label"]), "shares": {}}
    own, called = drawn["label"] == name, drawn["predicted"] == name
    right, everything = drawn["label"] == drawn["predicted"], np.full(len(own), True)
    parts = {"prevalence": (own, everything), "purity": (own, called), "completeness": (called, own)}
    parts["accuracy"] = (right, everything)
    if RANK in drawn:
        tops = [k for k in TOP if k < (constants.get(RANKED) or 0)]
        parts |= {f"recall_at_{k}": (drawn[RANK] <= k, own) for k in tops}
    objects = tables.find_objects(drawn)
    for share, (hits, of) in parts.items():
        if of.any():
            bounds = list(intervals.share(hits[of], objects[of]))
            found["shares"][share] = {"n": int(of.sum()), "value": float(hits[of].mean()), "interval": bounds}
    if own.any():
        order = np.argsort(-thresholds.find_score(drawn, name), kind="stable")

        def workload(times: np.ndarray) -> dict[str, float]:
            targets, rows = np.cumsum((times * own)[order]), np.cumsum(times[order])
            if not targets[-1]:
                return {}
            enough = int((targets >= COMPLETENESS * targets[-1] - intervals.ROUNDING).argmax())
            return {"workload": float(rows[enough] / rows[-1])}

        value, interval = workload(np.ones(len(own)))["workload"], intervals.bootstrap(workload, objects)["workload"]
        found["shares"]["workload"] = {"n": int(own.sum()), "value": value, "interval": list(interval)}
    return found
