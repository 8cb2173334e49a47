"""Purity, completeness and workload of a night's ranking by one class.

They are estimated from the labelled rows that were drawn at random: rows labelled for another reason are not
representative.
"""

from typing import Any

import numpy as np

from alerce_early.evaluation import intervals, tables, thresholds

QUEUE = "queue"  # the column with the reason why a row was labelled
RANDOM = "random"  # its value for rows that were drawn at random
RANK = "rank"  # the column with the rank of a row in the whole table, 1 for the most probable of the target class
RANKED = "ranked_rows"  # the constant with the number of rows in the whole table
TOP = (10, 30, 100, 300, 1000)  # K of the recall at K
COMPLETENESS = 0.9  # target of the workload


def judge(table: tables.Table, constants: tables.Constants, target: str) -> dict[str, Any]:
    """Estimate purity, recall and workload from the random rows alone.

    Parameters
    ----------
    table : mapping of str to ndarray
        Labelled predictions with the column ``queue`` (N,) str and, for the recall at K, ``rank`` (N,) int.
    constants : mapping of str to float
        May contain `RANKED`.
    target : str
        Target class.

    Returns
    -------
    dict
        ``of``, the class; ``labelled`` and ``n``, the numbers of labelled and of random rows; ``shares``, {name: {"n",
        "value", "interval"}} with 95 % intervals, see `intervals.share`; names without rows are omitted. ``workload``
        is the fraction of alerts to inspect, most probable first, until `COMPLETENESS` of the class is found; its
        interval is a bootstrap over objects. Empty if the table has no column ``queue`` or no target class.
    """
    name = thresholds.target_class(tables.classes_of(table), target)
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
