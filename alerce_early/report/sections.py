"""What a page says of a judged table, by kind of evaluation: figures by file name, and sections.

A page must not call a result a test that is none, so each begins with which rows it stands on.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from alerce_early.evaluation import comparison, metrics
from alerce_early.evaluation.baselines import TREES
from alerce_early.evaluation.kinds import Classification, Generation, Kind, Regression
from alerce_early.report import figures, foreign_table
from alerce_early.report.classification import ClassificationChapter
from alerce_early.report.page import Section, by_part, number

Table = Mapping[str, np.ndarray]
Images = Callable[[np.ndarray], np.ndarray]  # row numbers (n,) to (n, C, ...)

SHOWN = 12  # of the largest errors
# Accuracy and SN recall on the five classes: what the 2020 report set out to reach, and what was published since, on
# real alerts of the survey.
FIVE = {"AGN", "SN", "VS", "asteroid", "bogus"}
REACHED = {
    "goal of the 2020 report": (0.95, 0.85),
    "its own network": (0.688, 0.0),
    "Carrasco-Davis et al. 2021, stamps": (0.9008, 0.82),
    "Carrasco-Davis et al. 2021, stamps and metadata": (0.9412, 0.88),
}
COLUMNS = 8  # of the metadata that matter most
STANDING = {
    "test": "neither trained nor chose the network",
    "validation": "chose the network, calibration, sets, thresholds, which flatters all; the test rows have no labels",
    foreign_table.UNSEEN: "are of objects that neither trained nor chose the network",
    foreign_table.SEEN: "are of objects that trained or chose the network, which flatters all numbers",
    foreign_table.SPLIT: "came as they are: whether the classifier was trained or chosen on them is not known here",
}


class Chapter(Protocol):
    """What a page says of tables of one kind."""

    def draw(self, judged: Mapping[str, Any], table: Table) -> dict[str, Figure]:
        """Return figures by file name; judged: of `Kind.judge`."""
        ...

    def write(
        self, judged: Mapping[str, Any], table: Table, drawn: Mapping[str, Figure | Path], images: Images | None
    ) -> list[Section]:
        """Return the sections. The first tells the numbers; drawn: of `draw`; images: None where there are none."""
        ...


class RegressionChapter:
    """Redshifts: failures first, then where they are."""

    def draw(self, judged: Mapping[str, Any], table: Table) -> dict[str, Figure]:
        true, velocity = table["true"], metrics.velocity(table["true"], table["predicted"])
        bound = metrics.CATASTROPHIC / metrics.LIGHT * (1 + true)
        drawn = {
            "predicted": figures.predicted_against_true(true, table["predicted"], table["label"], bound),
            "residuals": figures.residuals(velocity, metrics.CATASTROPHIC, "km/s"),
        }
        if "confidence" in table:
            failed = np.abs(velocity) > metrics.CATASTROPHIC
            drawn["confidence"] = figures.by_confidence(table["confidence"], failed)
        return drawn

    def write(
        self, judged: Mapping[str, Any], table: Table, drawn: Mapping[str, Figure | Path], images: Images | None
    ) -> list[Section]:
        rows = {"all": judged, **judged["by_class"]}
        rows |= {f"most confident {float(share):.0%}": part for share, part in judged["most_confident"].items()}
        captions = {
            "predicted": "Predicted against true redshift; the band is what is not yet catastrophic.",
            "residuals": "Errors as velocities; the dotted lines are the catastrophic limit.",
            "confidence": "What is left of the failures when only the most confident are kept.",
        }
        errors = np.abs(metrics.velocity(table["true"], table["predicted"]))
        numbers = [
            "true {:.3f}, predicted {:.3f}".format(*pair)
            for pair in zip(table["true"], table["predicted"], strict=True)
        ]
        return [
            Section(
                "",
                words=[
                    "Brackets are 95 % intervals. A redshift is catastrophic when it is off by more than "
                    f"{metrics.CATASTROPHIC:,.0f} km/s; bias and NMAD are the median and the scaled median deviation "
                    "of (predicted - true) / (1 + true)."
                ],
                tables=[by_part(rows, {**Regression.words, "bias": "bias"}, Regression.digits)],
                pictures=[(captions[name], figure) for name, figure in drawn.items()],
            ),
            *_show_worst("Largest errors", table, errors, numbers, images),
        ]


class GenerationChapter:
    """Reconstructions: means, and the stamps that the generator expects least."""

    def draw(self, judged: Mapping[str, Any], table: Table) -> dict[str, Figure]:
        return {}

    def write(
        self, judged: Mapping[str, Any], table: Table, drawn: Mapping[str, Figure | Path], images: Images | None
    ) -> list[Section]:
        return [
            Section(
                "",
                words=[
                    "Means with 95 % intervals. The reconstruction error is a root mean square in the units of the "
                    "recipe and holds the sky's noise, which no code can tell; KL is how much the code says of a stamp."
                ],
                tables=[by_part({"all": judged, **judged["by_class"]}, Generation.words)],
            ),
            *_show_worst(
                "Least expected stamps", table, table["nll"], [f"{x:.2f} nats per pixel" for x in table["nll"]], images
            ),
        ]


CHAPTERS: dict[str, Chapter] = {
    Classification.name: ClassificationChapter(),
    Regression.name: RegressionChapter(),
    Generation.name: GenerationChapter(),
}


def draw(kind: Kind, judged: Mapping[str, Any], table: Table) -> dict[str, Figure]:
    """Return the figures of a judged table by file name."""
    return CHAPTERS[kind.name].draw(judged, table)


def write(
    kind: Kind, judged: Mapping[str, Any], table: Table, drawn: Mapping[str, Figure | Path], images: Images | None
) -> list[Section]:
    """Return what the page says of the judged rows of one split; drawn: of `draw`.

    images: row numbers (n,) to (n, C, ...); None where there are none, as for a table from elsewhere.
    """
    first, *rest = CHAPTERS[kind.name].write(judged, table, drawn, images)
    split = str(table["split"][0])
    first.title = (
        "Result"
        if split in (foreign_table.SPLIT, foreign_table.UNSEEN, foreign_table.SEEN)
        else f"Result on the {split} split"
    )
    first.words.insert(0, f"{len(table['split']):,} {split} rows that {STANDING[split]}.")
    return [first, *rest]


def headline(kind: Kind, judged: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value with interval) of the numbers that matter most, but of a class that has no rows."""
    values, intervals = judged["values"], judged["intervals"]
    counts = zip(judged.get("classes", ()), judged.get("confusion", ()), strict=True)
    absent = {f"recall/{name}" for name, row in counts if not sum(row)}
    return [
        (words, number(values[name], intervals[name], kind.digits))
        for name, words in kind.words.items()
        if name in values and name not in absent
    ]


def write_goal(judged: Mapping[str, Any]) -> list[Section]:
    """Return how a run stands against the goal and what was published; nothing for other classes than the five."""
    if set(judged.get("classes", ())) != FIVE:
        return []
    names = ("accuracy", "recall/SN")
    own = ["this network", *(number(judged["values"][name], judged["intervals"][name]) for name in names)]
    rows = [own, *([who, *map(number, numbers)] for who, numbers in REACHED.items())]
    words = (
        "The published numbers are from real alerts, equally many per class (report: 200, paper: 100), with "
        "networks trained on most of the 52,244; numbers of simulated rows or another mix are no match."
    )
    return [Section("Against the goal", words=[words], tables=[(("", "accuracy", "SN recall"), rows)])]


def write_baselines(result: Mapping[str, Any], judged: Mapping[str, Any]) -> Section:
    """Return what the images bought.

    result: of `evaluate_baselines`; judged: the run's own numbers on the same rows.
    """
    rows = {
        "this network": judged,
        "its teacher": result.get("teacher"),
        "metadata alone": result.get("metadata"),
        "majority class": result["majority"],
    }
    names = [name for name in Classification.words if name in judged["values"]]
    table = [
        [what, *(number(of["values"][name], of["intervals"][name]) for name in names)]
        for what, of in rows.items()
        if of is not None
    ]
    section = Section("What the images bought", tables=[(("", *[Classification.words[name] for name in names]), table)])
    if "skipped" in result:
        section.words.append(result["skipped"])
        return section
    left_out = f" Not {', '.join(result['left_out'])}: labels were made with it." if result["left_out"] else ""
    tests = "; ".join(f"{test}: {comparison.verdict(p)}" for test, p in result["paired"].items())
    section.words.append(
        f"A random forest of {TREES} trees on {len(result['importances'])} metadata columns, trained and judged on the "
        f"same rows.{left_out} Network against forest: {tests}."
    )
    ranked = sorted(result["importances"].items(), key=lambda pair: -pair[1])[:COLUMNS]
    section.tables.append((("most important columns", "share"), [[name, f"{share:.3f}"] for name, share in ranked]))
    if not result["drift"]:
        section.words.append("No metadata column is distributed otherwise in the judged rows than in training.")
        return section
    section.words.append(
        "Some columns are distributed otherwise in the judged rows than in training (Kolmogorov-Smirnov, p < 0.05 "
        "over all columns together), perhaps by another mix of classes; what rests on them may not carry over."
    )
    formats = {"column": "", "ks": ".2f", "p": ".1e", "psi": ".2f", "median": ".3g", "other_median": ".3g"}
    header = ("drifted columns", "KS", "p", "PSI", "median in training", "here")
    drifted = [[format(one[name], form) for name, form in formats.items()] for one in result["drift"]]
    section.tables.append((header, drifted))
    return section


def write_posterior(posterior: Mapping[str, Any]) -> Section:
    """Return what is known of the weights; posterior: of `Task.describe_posterior`."""
    rows = [[name, f"{n:,}", *(f"{value:.2g}" for value in widths)] for name, n, *widths in posterior["widths"]]
    return Section(
        "Uncertainty of the weights",
        words=[
            *([posterior["warning"]] if posterior["warning"] else []),
            f"The weights' divergence from their prior, of standard deviation {posterior['prior_std']:g}, is "
            f"{posterior['kl']:.3g} nats per training row, of which the loss has {posterior['kl_weight']:g} times; 1 "
            "is the evidence lower bound, less makes the posterior narrower than the data warrant by themselves.",
            "Below: the standard deviations of the weights' posteriors. Where they are all alike, no weight is known "
            "better than another, and draws of them tell little.",
        ],
        tables=[(("standard deviation", "weights", "5th percentile", "median", "95th percentile"), rows)],
    )


def _show_worst(
    title: str, table: Table, errors: np.ndarray, numbers: list[str], images: Images | None
) -> list[Section]:
    """Return a section with the rows of the largest errors (N,) as pictures; numbers: (N,) what their captions say."""
    if images is None:
        return []
    worst = np.argsort(-errors, kind="stable")[:SHOWN]
    captions = [f"{table['id'][i]}\n{table['label'][i]}, {numbers[i]}" for i in worst]
    return [
        Section(title, pictures=[("As the net sees them.", figures.gallery(images(table["row"][worst]), captions))])
    ]
