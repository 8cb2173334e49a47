"""Kinds of evaluation: classification, regression and generation.

The columns of a table decide which kind applies, so that a table of another program is evaluated like one of a run.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from alerce_early.errors import InputError
from alerce_early.evaluation import (
    calibration,
    conformal,
    intervals,
    metrics,
    screening,
    tables,
    thresholds,
    uncertainty,
)

Table = Mapping[str, np.ndarray]
NO_CONSTANTS: tables.Constants = {}
BY_DETECTIONS = {"1": 1, "2 to 3": 2, "4 to 10": 4, "more than 10": 11}  # lowest number of detections per bin


class Kind(Protocol):
    """Evaluation and ranking of tables of one kind.

    Attributes
    ----------
    name : str
        Name of the kind.
    words : mapping of str to str
        Labels of the headline metrics by name, most important first.
    digits : int
        Decimals of a displayed metric.
    curves : tuple of str
        Validation metrics to plot by epoch; a name that ends in "/" stands for all metrics with this prefix.
    ranked_by : str
        Metric that ranks runs: the mean over strata of `correct`, or one minus it if `lower_is_better`.
    lower_is_better : bool
        Whether a lower value of `ranked_by` is better.
    """

    name: str
    words: Mapping[str, str]
    digits: int
    curves: tuple[str, ...]
    ranked_by: str
    lower_is_better: bool

    def fits(self, columns: list[str]) -> bool:
        """Return True if a table with these columns is of this kind."""
        ...

    def judge(self, table: Table, constants: tables.Constants = NO_CONSTANTS) -> dict[str, Any]:
        """Compute all metrics of a labelled table.

        Parameters
        ----------
        table : mapping of str to ndarray
            Columns (N,).
        constants : mapping of str to float
            Constants of the table, such as thresholds and the nominal coverage.

        Returns
        -------
        dict
            Plain values, at least {"n": rows, "values": {name: number}, "intervals": {name: [low, high]}}.
        """
        ...

    def correct(self, table: Table) -> np.ndarray:
        """Score each row: (N,) bool, True if correct, or (N,) float64, higher is better."""
        ...

    def strata(self, table: Table) -> np.ndarray:
        """Return the stratum of each row, (N,) str; all strata have the same weight in the score."""
        ...


class Classification:
    """Evaluation of class probabilities.

    Tables have the columns label and p_<class>, and optionally the columns that calibration and conformal sets add.
    Class attributes as in `Kind`.

    Parameters
    ----------
    target : str
        Class that has thresholds and is listed first.
    """

    name = "classification"
    digits = 3
    curves: tuple[str, ...] = ("balanced_accuracy", "accuracy", "recall/")
    ranked_by = "balanced_accuracy"
    lower_is_better = False

    def __init__(self, target: str = metrics.TARGET):
        self.target = target
        self.words: Mapping[str, str] = {
            f"recall/{target}": f"{target} recall",
            "balanced_accuracy": "balanced accuracy",
            "accuracy": "accuracy",
            "macro_f1": "macro F1",
        }

    def fits(self, columns: list[str]) -> bool:
        """Return True if there is a column p_<class>."""
        return any(name.startswith("p_") for name in columns)

    def judge(self, table: Table, constants: tables.Constants = NO_CONSTANTS) -> dict[str, Any]:
        """Compute all metrics of a labelled table.

        Parameters
        ----------
        table : mapping of str to ndarray
            ``label`` and ``p_<class>``, optionally metadata and the columns of calibration and conformal sets.
        constants : mapping of str to float
            Constants of the table, such as thresholds and the nominal coverage.

        Returns
        -------
        dict
            The keys of `summarise`, and "thresholds", "by_column", "by_detections", "calibration", "conformal",
            "uncertainty" and, for a table labelled from a queue, "screening": the results of those modules, {} if the
            table lacks their columns.
        """
        screened = screening.judge(table, constants, self.target)
        return (
            self.summarise(table)
            | ({"screening": screened} if screened else {})
            | {
                "thresholds": thresholds.judge(table, constants, self.target),
                "by_column": uncertainty.judge_by_column(table),
                "by_detections": self.judge_by_detections(table),
                "calibration": calibration.judge(table),
                "conformal": conformal.judge(table, constants),
                "uncertainty": uncertainty.judge(table),
            }
        )

    def summarise(self, table: Table) -> dict[str, Any]:
        """Compute metrics, their 95 % intervals and the confusion matrix.

        The intervals of recall, precision and accuracy are from `intervals.share`. All others are bootstraps over
        objects, corrected by `intervals.widen` if they have no width, as for a class of ten rows that are all correct.

        Returns
        -------
        dict
            {"n", "values", "intervals", "classes": names, "confusion": counts by true and predicted class}.
        """
        classes = tables.classes_of(table)
        labels, probabilities = tables.label_indices(table, classes), tables.probabilities(table, classes)
        predicted, objects = probabilities.argmax(1), tables.find_objects(table)
        judged = intervals.judge_rows(metrics.Classification(labels, probabilities, classes, self.target), objects)
        bounds = judged["intervals"]
        bounds["ece"] = intervals.reflect_interval(judged["values"]["ece"], bounds["ece"])
        of_each = {name: objects[labels == i] for i, name in enumerate(classes)}
        for name, bound in bounds.items():
            metric, _, of = name.partition("/")
            if metric not in metrics.LOSSES:
                bounds[name] = intervals.widen(judged["values"][name], bound, [of_each[of]] if of else of_each.values())
        parts = {"accuracy": np.full(len(labels), True)}
        for i, name in enumerate(classes):
            parts |= {f"recall/{name}": labels == i, f"precision/{name}": predicted == i}
        bounds |= {
            name: list(intervals.share((labels == predicted)[part], objects[part])) for name, part in parts.items()
        }
        if np.ptp(bounds["balanced_accuracy"]) <= intervals.ROUNDING:  # each class all right or all wrong
            recalls = [bounds[f"recall/{name}"] for name in classes if len(of_each[name])]
            bounds["balanced_accuracy"] = np.mean(recalls, axis=0).tolist()
        counts = metrics.confusion(labels, predicted, len(classes))
        return {**judged, "classes": list(classes), "confusion": counts.tolist()}

    def judge_by_detections(self, table: Table) -> dict[str, Any]:
        """Compute the headline metrics `words` by number of detections.

        Returns
        -------
        dict
            {bin: {"n", "values", "intervals"}} for the bins that have rows, without the recall of a class that has no
            rows in the bin; {} for a table without the column `tables.DETECTIONS`.
        """
        judged = {}
        bins = uncertainty.find_bins(table.get(tables.DETECTIONS, np.array([])), [*BY_DETECTIONS.values()])
        for name, rows in zip(BY_DETECTIONS, bins, strict=True):
            if len(rows):
                part = tables.take_rows(table, rows)
                found, of = self.summarise(part), ("", *part["label"])
                kept = [word for word in self.words if word in found["values"] and word.partition("/")[2] in of]
                numbers = {key: {word: found[key][word] for word in kept} for key in ("values", "intervals")}
                judged[name] = {"n": len(rows), **numbers}
        return judged

    def correct(self, table: Table) -> np.ndarray:
        """Compare the most probable class with the true one, (N,) bool."""
        return uncertainty.correct(table)

    def strata(self, table: Table) -> np.ndarray:
        """Return the true class of each row, (N,) str."""
        return table["label"].astype(str)


class Regression:
    """Evaluation of redshifts.

    Tables have the columns true, predicted and label, and optionally confidence, which is used only to rank rows. Class
    attributes as in `Kind`, and:

    Attributes
    ----------
    shares : tuple of str
        Metrics that are fractions of the rows.
    kept : tuple of float
        Fractions of the most confident rows that are evaluated separately.
    """

    name = "regression"
    words: Mapping[str, str] = {
        "catastrophic": "catastrophic",
        "nmad": "NMAD",
        "mae": "mean absolute error",
        "mse": "mean squared error",
    }
    digits = 4
    curves: tuple[str, ...] = ("catastrophic", "nmad", "mae")
    ranked_by = "catastrophic"
    lower_is_better = True
    shares = ("catastrophic",)
    kept = (0.5, 0.8)

    def fits(self, columns: list[str]) -> bool:
        """Return True if there are the columns true and predicted."""
        return {"true", "predicted"} <= set(columns)

    def judge(self, table: Table, constants: tables.Constants = NO_CONSTANTS) -> dict[str, Any]:
        """Compute the metrics of `metrics.redshift`, with intervals by a bootstrap over objects.

        Returns
        -------
        dict
            {"n", "values", "intervals"} of all rows, "by_class": the same for each class, and "most_confident": the
            same for each fraction `kept` of the most confident rows, {} without the column confidence.
        """
        true, predicted = (table[name].astype(np.float64) for name in ("true", "predicted"))
        objects = tables.find_objects(table)

        def summarise(times: np.ndarray) -> dict[str, float]:
            rows = np.repeat(np.arange(len(true)), times.astype(int))  # a median takes no weights
            return metrics.redshift(true[rows], predicted[rows])

        most_confident = {}
        if "confidence" in table:
            order = np.argsort(-table["confidence"], kind="stable")
            for share in self.kept:
                rows = order[: max(1, round(share * len(order)))]
                most_confident[str(share)] = intervals.judge_rows(summarise, objects, rows, self.shares)
        return {
            **intervals.judge_by_class(summarise, objects, table["label"], self.shares),
            "most_confident": most_confident,
        }

    def correct(self, table: Table) -> np.ndarray:
        """Return a mask (N,) of the redshifts that are not catastrophic failures."""
        true, predicted = (table[name].astype(np.float64) for name in ("true", "predicted"))
        return np.abs(metrics.velocity(true, predicted)) <= metrics.CATASTROPHIC

    def strata(self, table: Table) -> np.ndarray:
        """Return one stratum for all rows, (N,) str."""
        return np.full(len(table["true"]), "all")


class Generation:
    """Evaluation of stamp reconstructions.

    Tables have the columns reconstruction (root mean square error), nll, kl (see `GenerateTask`) and label. Class
    attributes as in `Kind`.
    """

    name = "generation"
    words: Mapping[str, str] = {
        "reconstruction": "reconstruction error",
        "kl": "KL (nats per stamp)",
        "nll": "-log likelihood (nats per pixel)",
    }
    digits = 3
    curves: tuple[str, ...] = ("reconstruction", "nll")
    ranked_by = "reconstruction"
    lower_is_better = True

    def fits(self, columns: list[str]) -> bool:
        """Return True if there are the columns reconstruction, nll and kl."""
        return set(self.words) <= set(columns)

    def judge(self, table: Table, constants: tables.Constants = NO_CONSTANTS) -> dict[str, Any]:
        """Compute the mean of each column, with intervals by a bootstrap over objects.

        Returns
        -------
        dict
            {"n", "values", "intervals"} of all rows, and "by_class": the same for each class.
        """
        columns = {name: table[name].astype(np.float64) for name in self.words}

        def average(weights: np.ndarray) -> dict[str, float]:
            return {name: float(weights @ column / weights.sum()) for name, column in columns.items()}

        return intervals.judge_by_class(average, tables.find_objects(table), table["label"])

    def correct(self, table: Table) -> np.ndarray:
        """Return one minus the reconstruction error, (N,) float64."""
        return 1 - table["reconstruction"].astype(np.float64)

    def strata(self, table: Table) -> np.ndarray:
        """Return one stratum for all rows, (N,) str."""
        return np.full(len(table["reconstruction"]), "all")


def choose_kind(table: Table, target: str = metrics.TARGET) -> Kind:
    """Choose the kind of evaluation by the columns of a table.

    Parameters
    ----------
    table : mapping of str to ndarray
        Only the names of its columns are used.
    target : str
        Target class, if the table has class probabilities.

    Raises
    ------
    InputError
        If no kind fits the columns.
    """
    kinds: tuple[Kind, ...] = (Classification(target), Regression(), Generation())
    for kind in kinds:
        if kind.fits(list(table)):
            return kind
    raise InputError(
        f"columns {', '.join(table)}: no evaluation fits them. Expected p_<class>, or true and predicted, or "
        f"{', '.join(Generation.words)}."
    )
