"""The kinds of evaluation: which fits a table is decided by its columns, so a foreign table is judged like our own."""

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
BY_DETECTIONS = {"1": 1, "2 to 3": 2, "4 to 10": 4, "more than 10": 11}  # lowest number of each bin


class Kind(Protocol):
    """How tables of one kind are judged and ranked.

    words: what the numbers that matter most are called, by name, the most important first. digits: of a number, shown.
    curves: names of validation numbers to draw by epoch; one that ends in "/" stands for all below it. ranked_by: the
    number that ranks runs, the mean over strata of what `find_right` returns, or one minus it if lower_is_better.
    """

    name: str
    words: Mapping[str, str]
    digits: int
    curves: tuple[str, ...]
    ranked_by: str
    lower_is_better: bool

    def fits(self, columns: list[str]) -> bool:
        """Tell whether a table with these columns is of this kind."""
        ...

    def judge(self, table: Table, constants: tables.Constants = NO_CONSTANTS) -> dict[str, Any]:
        """Return all numbers of a table, and of what its constants promise, as plain values.

        At least {"n": rows, "values": {name: number}, "intervals": {name: [low, high]}}.
        """
        ...

    def find_right(self, table: Table) -> np.ndarray:
        """Return how right each row is, (N,) bool or float64."""
        ...

    def find_strata(self, table: Table) -> np.ndarray:
        """Return the parts of the rows that weigh alike in the score, (N,) str."""
        ...


class Classification:
    """Probabilities of classes: columns label and p_<class>, and what else calibration, sets and thresholds added.

    target: the class that has thresholds and comes first.
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
        return any(name.startswith("p_") for name in columns)

    def judge(self, table: Table, constants: tables.Constants = NO_CONSTANTS) -> dict[str, Any]:
        """Return `summarise` and, by name, what the other modules say; {} where they have nothing to say of a table."""
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
        """Return {"n", "values", "intervals", "classes": names, "confusion": counts by true and predicted class}.

        Recall, precision and accuracy have the intervals of `intervals.share`; all else has a bootstrap over objects,
        and where that has no width, as of a class of ten rows that are all right, the interval of `intervals.widen`.
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
        if np.ptp(bounds["balanced_accuracy"]) <= intervals.ROUNDING:  # of classes that are all right or all wrong
            recalls = [bounds[f"recall/{name}"] for name in classes if len(of_each[name])]
            bounds["balanced_accuracy"] = np.mean(recalls, axis=0).tolist()
        counts = metrics.confusion(labels, predicted, len(classes))
        return {**judged, "classes": list(classes), "confusion": counts.tolist()}

    def judge_by_detections(self, table: Table) -> dict[str, Any]:
        """Return {bin: {"n", "values", "intervals"}} of `words` by number of detections, for the bins that have rows.

        {} of a table without the column `tables.DETECTIONS`. A class without rows in a bin has no recall there.
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

    def find_right(self, table: Table) -> np.ndarray:
        return uncertainty.find_right(table)

    def find_strata(self, table: Table) -> np.ndarray:
        """Return the classes."""
        return table["label"].astype(str)


class Regression:
    """Redshifts: columns true, predicted, and optionally confidence, of which only the order counts."""

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
    shares = ("catastrophic",)  # of the numbers, those that are a share of the rows
    kept = (0.5, 0.8)  # shares of the most confident rows that are judged by themselves

    def fits(self, columns: list[str]) -> bool:
        return {"true", "predicted"} <= set(columns)

    def judge(self, table: Table, constants: tables.Constants = NO_CONSTANTS) -> dict[str, Any]:
        """Return the numbers of `metrics.redshift`, with intervals by a bootstrap over objects.

        Beside those of all rows stand "by_class" and "most_confident", the same for the rows of each class and for
        shares of the rows.
        """
        true, predicted = (table[name].astype(np.float64) for name in ("true", "predicted"))
        objects = tables.find_objects(table)

        def summarise(times: np.ndarray) -> dict[str, float]:
            rows = np.repeat(np.arange(len(true)), times.astype(int))  # medians know no weights
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

    def find_right(self, table: Table) -> np.ndarray:
        """Return (N,) bool: whether the redshift is no catastrophic failure."""
        true, predicted = (table[name].astype(np.float64) for name in ("true", "predicted"))
        return np.abs(metrics.velocity(true, predicted)) <= metrics.CATASTROPHIC

    def find_strata(self, table: Table) -> np.ndarray:
        return np.full(len(table["true"]), "all")


class Generation:
    """Reconstructions of stamps: columns reconstruction (root mean square error), nll and kl, see `GenerateTask`."""

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
        return set(self.words) <= set(columns)

    def judge(self, table: Table, constants: tables.Constants = NO_CONSTANTS) -> dict[str, Any]:
        """Return means with intervals by a bootstrap over objects; "by_class": the same for the rows of each class."""
        columns = {name: table[name].astype(np.float64) for name in self.words}

        def average(weights: np.ndarray) -> dict[str, float]:
            return {name: float(weights @ column / weights.sum()) for name, column in columns.items()}

        return intervals.judge_by_class(average, tables.find_objects(table), table["label"])

    def find_right(self, table: Table) -> np.ndarray:
        """Return (N,) float64, one minus the reconstruction error."""
        return 1 - table["reconstruction"].astype(np.float64)

    def find_strata(self, table: Table) -> np.ndarray:
        return np.full(len(table["reconstruction"]), "all")


def choose_kind(table: Table, target: str = metrics.TARGET) -> Kind:
    """Return the kind of evaluation for a table; target: of classes. Raises InputError where none fits."""
    kinds: tuple[Kind, ...] = (Classification(target), Regression(), Generation())
    for kind in kinds:
        if kind.fits(list(table)):
            return kind
    raise InputError(f"no evaluation fits a table with the columns {', '.join(table)}.")
