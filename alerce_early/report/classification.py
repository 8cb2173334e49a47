"""What a page says of a table of classifications: each section from what `Classification.judge` found."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alerce_early.evaluation import calibration, conformal, metrics, tables, thresholds, uncertainty
from alerce_early.evaluation.kinds import Classification
from alerce_early.report import figures
from alerce_early.report.page import Section, number

MORE = {
    "macro_precision": "macro precision",
    "mcc": "Matthews' correlation",
    "roc_auc": "ROC AUC, macro",
    "average_precision": "average precision, macro",
    "log_loss": "log loss (nats)",
    "brier": "Brier score, summed over classes",
    "ece": "expected calibration error",
    "f2/SN": "F-beta of SN, recall counts twice",
}
BY_CLASS = {
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
}
CALIBRATION = {
    "log_loss": "log loss (nats)",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "classwise_ece": "calibration error by class, mean",
}
CAPTIONS = {
    "confusion": "Confusion matrix: share of the true class, and counts.",
    "by_class": "Each class against the rest, over the thresholds on its probability.",
}
SEPARATION = {
    "entropy": "entropy of the prediction",
    "entropy_of_means": "entropy of the prediction by the means of the weights",
    "gain": "the first less the second",
    "mutual_information": "mutual information of prediction and weights",
}
NAMES = {"p": "uncalibrated", "q": "calibrated"}  # prefix of the columns, and what they are
MISTAKES = 16  # shown

Table = Mapping[str, np.ndarray]
Images = Callable[[np.ndarray], np.ndarray]
Judged = Mapping[str, Any]
Drawn = Mapping[str, Figure | Path]  # by file name, or the file itself


class ClassificationChapter:
    """The chapter on classes: metrics, calibration and prediction sets, misclassified objects, limitations."""

    def draw(self, judged: Judged, table: Table) -> dict[str, Figure]:
        classes = judged["classes"]
        ranked = {
            name: metrics.Ranking(own, table[f"p_{name}"]).counts(np.ones(len(own)))
            for name in classes
            if 0 < (own := table["label"] == name).sum() < len(own)
        }
        drawn = {"confusion": figures.confusion(np.array(judged["confusion"]), classes)}
        drawn |= {"by_class": figures.by_class(ranked)} if ranked else {}
        if points := judged["thresholds"]:
            own, score = table["label"] == points["of"], thresholds.find_score(table, points["of"])
            drawn["purity_completeness"] = figures.purity_completeness(own, score, points["of"])
            if len(classes) == 2 and not own.all():
                drawn["det"] = figures.error_tradeoff(own, score, points["of"])
        for name, bins in judged["by_column"].items():
            drawn[f"by_{name}"] = figures.accuracy_by_column(bins, tables.METADATA[name])
        probabilities = calibration.find_probabilities(table)
        shown = {NAMES[prefix]: of for prefix, of in probabilities.items()}
        drawn["reliability"] = figures.reliability(tables.label_indices(table, classes), shown)
        drawn["risk_coverage"] = figures.risk_coverage(uncertainty.find_accuracies(table))
        return drawn | ({"draws": figures.weight_draws(table, classes)} if judged["uncertainty"]["draws"] else {})

    def write(self, judged: Judged, table: Table, drawn: Drawn, images: Images | None) -> list[Section]:
        return [
            self._result(judged, drawn),
            *(self._thresholds(judged["thresholds"], drawn) if judged["thresholds"] else []),
            *(self._by_column(judged["by_column"], drawn) if judged["by_column"] else []),
            self._calibration(judged["calibration"], drawn),
            *(self._sets(judged["conformal"]) if judged["conformal"] else []),
            self._uncertainty(judged["uncertainty"], drawn),
            self._mistakes(table, judged["classes"], images),
            self._limits(judged, table),
        ]

    def _result(self, judged: Judged, drawn: Drawn) -> Section:
        values, bounds = judged["values"], judged["intervals"]
        rates = [name for name in values if name.startswith("fnr_at_fpr_")]
        overall = {**Classification.words, **MORE, **{name: _describe_rate(name) for name in rates}}
        rows_of = dict(zip(judged["classes"], np.array(judged["confusion"]).sum(1).tolist(), strict=True))
        overall = {name: words for name, words in overall.items() if rows_of.get(name.removeprefix("recall/"), 1)}
        by_class = []
        for name in sorted(judged["classes"], key=lambda name: name != "SN"):  # stable: SN first, then as they come
            keys = [f"{metric}/{name}" for metric in BY_CLASS]
            by_class.append(
                [name, str(rows_of[name]), *[number(values[k], bounds[k]) if k in values else "" for k in keys]]
            )
        return Section(
            "",
            words=[
                "Brackets are 95 % intervals; where two overlap widely, this split cannot tell the classes or the runs "
                "apart."
            ],
            tables=[
                (
                    (),
                    [[words, number(values[name], bounds[name])] for name, words in overall.items() if name in values],
                ),
                (("class", "rows", *BY_CLASS.values()), by_class),
            ],
            pictures=[(caption, drawn[name]) for name, caption in CAPTIONS.items() if name in drawn],
        )

    def _thresholds(self, judged: Judged, drawn: Drawn) -> list[Section]:
        name, measures, chosen_by = judged["of"], ("completeness", "purity"), judged.get("rows")
        few = chosen_by is not None and chosen_by < thresholds.FEW
        doubt = f" (warning: chosen by only {chosen_by} rows of {name}; expect another value)" if few else ""
        rows = []
        for point in judged["points"]:
            wanted, bounds = f"{point['wanted']} of at least {point['level']:.0%}{doubt}", point.get("intervals", {})
            given = ["none taken" if point[of] is None else number(point[of], bounds.get(of)) for of in measures]
            none = point["threshold"] is None
            rows.append([wanted, "none is", "", ""] if none else [wanted, number(point["threshold"]), *given])
        captions = {
            "purity_completeness": f"Purity and completeness of {name} against the threshold, and against each other.",
            "det": f"Detection error tradeoff: missed {name} against others taken for it, on normal-deviate axes.",
        }
        return [
            Section(
                f"Thresholds for {name}",
                words=[
                    f"Rows count as {name} where its probability is at least the threshold. Completeness is the share "
                    f"of true {name} among which that holds, purity the share of true {name} among those taken for it; "
                    f"purity depends on how common {name} is in these rows, and a sky has another mix. "
                    + (
                        "The thresholds were chosen on the validation rows; brackets are 95 % intervals of what they "
                        "give on these."
                        if judged["chosen"]
                        else "There are no other rows here that could have chosen the thresholds: they are read off "
                        "the very rows they are judged on, so expect a little less elsewhere."
                    )
                ],
                tables=[(("wanted", "threshold", *measures), rows)],
                pictures=[(caption, drawn[file]) for file, caption in captions.items() if file in drawn],
            )
        ]

    def _by_column(self, judged: Judged, drawn: Drawn) -> list[Section]:
        words = "Bins of equally many rows with 95 % intervals. The mix of classes changes from bin to bin as well."
        section = Section("Where it works", words=[words])
        section.pictures += [(f"Accuracy against {tables.METADATA[name]}.", drawn[f"by_{name}"]) for name in judged]
        return [section]

    def _calibration(self, judged: Judged, drawn: Drawn) -> Section:
        rows = []
        for name, words in CALIBRATION.items():
            rows.append([words, *(number(of["values"][name], of["intervals"][name]) for of in judged.values())])
        section = Section(
            "Calibration",
            words=[
                "Rows in bins of equal counts by the probability of their most probable class: of those with 80 %, "
                "80 % should be right. The expected calibration error (Guo et al. 2017) is the mean distance; by "
                "class, that of the probability of each class from its share. Neither is ever 0, not even for perfect "
                "probabilities: the fewer the rows, the larger they are by chance alone."
            ],
            tables=[(("", *(NAMES[prefix] for prefix in judged)), rows)],
            pictures=[("Share of right rows against mean probability, with 95 % intervals.", drawn["reliability"])],
        )
        if "q" in judged:
            section.words.append(
                "The calibrated probabilities, columns q_*, are the uncalibrated ones: no temperature lowered the log "
                "loss of validation rows that were left out of its fit."
                if judged["q"]["unmoved"]
                else "The calibrated probabilities, columns q_*, have the temperature of the lowest log loss on the "
                "validation rows alone; the class predicted is still that of the columns p_*."
            )
        return section

    def _sets(self, judged: Judged) -> list[Section]:
        parts, kinds = list(judged["sets"]["set"]), conformal.KINDS
        section = Section(
            "Conformal prediction sets",
            words=[
                f"A set holds the true class with a probability of {judged['wanted']:.0%}, if these rows are like the "
                "validation rows that set its thresholds: over all rows (marginal), or over the rows of each class "
                "(class-conditional). The promise is kept on average over validation sets; with few validation rows of "
                "a class a single one may be off by a few per cent. The same rows chose the epoch, which flatters them "
                "a little. Brackets are 95 % binomial intervals, for rows of different objects. An empty set says that "
                "no class is typical of the row; a class with too few validation rows for the promise is in every set."
            ],
        )
        for what, spell in (
            ("coverage", lambda of: number(of["coverage"], of["interval"])),
            ("mean size", lambda of: f"{of['size']:.2f}"),
        ):
            rows = [[part, *(spell(judged["sets"][name][part]) for name in kinds)] for part in parts]
            section.tables.append(((what, *(f"{words} ({name})" for name, words in kinds.items())), rows))
        return [section]

    def _uncertainty(self, judged: Judged, drawn: Drawn) -> Section:
        section = Section(
            "Uncertainty",
            words=["Rows sorted by predictive entropy: leaving out the least certain should pay in accuracy."],
            tables=[(("rows kept", "accuracy"), [[f"{share:.0%}", number(of)] for share, of in judged["kept"]])],
            pictures=[("Accuracy of the most confident rows against the share kept.", drawn["risk_coverage"])],
        )
        if areas := judged["separation"]["values"]:
            bounds = judged["separation"]["intervals"]
            rows = [[words, number(areas[name], bounds[name])] for name, words in SEPARATION.items() if name in areas]
            section.tables.append((("tells wrong rows from right ones", "ROC AUC"), rows))
        if judged["draws"]:
            section.words.append(
                "Over draws, each draw of the weights counts as one verdict on each row; their mean is what is "
                "predicted, one verdict per row."
            )
            rows = [[name, str(n), *map(number, numbers)] for name, n, *numbers in judged["draws"]]
            header = ("true class", "rows", "mean p", "standard deviation of the draws")
            section.tables.append(((*header, "accuracy over draws", "accuracy of their mean"), rows))
            caption = "Probability of each class by true class: mean and standard deviation over draws of the weights."
            section.pictures.append((caption, drawn["draws"]))
        return section

    def _mistakes(self, table: Table, classes: Sequence[str], images: Images | None) -> Section:
        section = Section("Most confident mistakes")
        confidence = np.max([table[f"p_{name}"] for name in classes], axis=0)
        wrong = np.flatnonzero(table["label"] != table["predicted"])
        shown = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
        if not len(shown):
            section.words.append("There is none.")
        elif images:
            captions = [
                f"{table['id'][i]}\n{table['label'][i]} taken for {name}, p = {table[f'p_{name}'][i]:.2f}"
                for i, name in zip(shown, table["predicted"][shown], strict=True)
            ]
            picture = figures.gallery(images(table["row"][shown]), captions)
            section.pictures.append(("As the net sees them.", picture))
        else:
            columns = ("id", "label", "predicted", *(f"p_{name}" for name in classes))
            cells = zip(*(table[name][shown].tolist() for name in columns), strict=True)
            spell = lambda cell: f"{cell:.3f}" if isinstance(cell, float) else str(cell)  # noqa: E731
            section.tables.append((columns, [list(map(spell, row)) for row in cells]))
        return section

    def _limits(self, judged: Judged, table: Table) -> Section:
        rows_of = {name: sum(row) for name, row in zip(judged["classes"], judged["confusion"], strict=True) if sum(row)}
        rarest = min(rows_of, key=lambda name: rows_of[name])
        low, high = judged["intervals"][f"recall/{rarest}"]
        objects = len(np.unique(tables.find_objects(table)))
        shared = [f"The {judged['n']:,} rows are of {objects:,} objects; whole objects were drawn for the intervals."]
        return Section(
            "What this evaluation cannot say",
            words=[
                f"{rarest} has the fewest rows, {rows_of[rarest]}: its recall may be anything from {low:.2f} to "
                f"{high:.2f}. Two systems that differ by less than such an interval cannot be ranked by these rows.",
                *(shared if objects < judged["n"] else []),
                "The intervals tell how numbers vary with the rows that happened to be judged. They do not hold what "
                "another seed of the training would change, nor another season, telescope or mix of classes. About one "
                "95 % interval in twenty misses its truth.",
                "Labels are taken as true: a wrong label counts as a mistake of the classifier, and rows that nobody "
                "could label, often the faint ones, are not judged at all.",
            ],
        )


def _describe_rate(name: str) -> str:
    rate, _, missed = name.removeprefix("fnr_at_fpr_").partition("/")
    return f"share of {missed} missed at {float(rate):.0%} false positives"
