"""Group alerts by object: number of alerts, mean log-odds, first and last predicted class."""

import numpy as np

from alerce_early.evaluation import metrics, tables

SURE = float(np.finfo(np.float32).eps)  # probabilities are clipped to [SURE, 1 - SURE]


def summarize(table: tables.Table, target: str = metrics.TARGET) -> dict[str, np.ndarray]:
    """Summarize a table of alerts as one row per object.

    Parameters
    ----------
    table : mapping of str to ndarray
        Predictions (N,): ``id`` or ``object``, ``predicted``, ``p_<class>`` or ``q_<class>``; alerts are
        ordered by ``jd``, or without it by row.
    target : str
        Class whose log-odds are averaged; if the table lacks it, the last class.

    Returns
    -------
    dict of str to ndarray
        Columns (M,), in descending order of log-odds: ``id``, ``alerts`` (int64), ``log_odds_<target>`` (float64, the
        mean of ln(q / (1 - q)), with q clipped to at least 1.2e-7 from 0 and 1), ``first_call`` and ``last_call``
        (predicted class of the first and last alert), and with ``jd`` also ``first_jd`` and ``last_jd`` (days, NaN if
        unknown).
    """
    name = metrics.positive(tables.classes_of(table), target)
    score = np.asarray(table[f"q_{name}" if f"q_{name}" in table else f"p_{name}"], dtype=np.float64)
    score = np.clip(score, SURE, 1 - SURE)
    objects, which, counts = np.unique(tables.find_objects(table).astype(str), return_inverse=True, return_counts=True)
    time = np.asarray(table["jd"], dtype=np.float64) if "jd" in table else np.zeros(len(which))
    order = np.lexsort((time, which))
    last = np.cumsum(counts) - 1
    ends = {"first": order[last - counts + 1], "last": order[last]}
    found = {
        "id": objects,
        "alerts": counts,
        f"log_odds_{name}": np.bincount(which, np.log(score / (1 - score)), len(objects)) / counts,
        **{f"{end}_call": np.asarray(table["predicted"])[rows] for end, rows in ends.items()},
        **({f"{end}_jd": time[rows] for end, rows in ends.items()} if "jd" in table else {}),
    }
    return tables.take_rows(found, np.argsort(-found[f"log_odds_{name}"], kind="stable"))
