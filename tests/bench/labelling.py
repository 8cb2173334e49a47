"""Simulate labelling with each queue of `label`, to measure how many labels it needs.

    python -m tests.bench.labelling STAMPS.pkl --folds 5
    python -m tests.bench.labelling STAMPS.pkl --nights NIGHTS.csv
    python -m tests.bench.labelling STAMPS.pkl --learner network --folds 2 --counts 25 50 100 200

The labels of the stamps are known. Each fold of objects (or nights) is held out in turn. A queue requests labels from
the other folds in batches. After each batch, a learner is fitted to the labelled rows and evaluated on the held-out
fold.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

import alerce_early
from alerce_early.artifacts.predictions import EMBEDDING
from alerce_early.artifacts.run_folder import checkpoint_of
from alerce_early.data import nights, splits
from alerce_early.errors import exit_on_input_error
from alerce_early.evaluation import tables
from alerce_early.labelling import queues
from alerce_early.serving import inputs
from alerce_early.serving.deployed import Deployed
from alerce_early.serving.predict import classify_chunk

QUEUES = ("random", "probable", "uncertain", "margin", "disagree", "unlike", "diverse")
TOLERANCE = 0.01  # a curve this close to the score with all labels counts as having reached it
TARGET = "SN"
STAMPS = "stamps"  # key of the stamps, (N, C, H, W) float32, in a table
STEPS, BATCH, SMOOTHING = 60, 32, 0.05  # fine-tuning
Table = dict[str, np.ndarray]


class Regression:
    """Multinomial logistic regression on embeddings and log-probabilities, starting from zero weights.

    Parameters
    ----------
    model : str
        Name of the network that made the table; not used here.
    table : dict of str to ndarray
        Predictions of N rows, with embeddings.
    strength : float
        L2 penalty on the weights.

    Attributes
    ----------
    offset : ndarray (N, K) of float64
        Logits that the regression adds to.
    probabilities : ndarray (N, K) of float64
        Current class probabilities of all rows.
    embeddings : ndarray (N, D) of float64
        Embeddings of all rows.
    """

    columns: tuple[str, ...] = (EMBEDDING, "logarithms")

    def __init__(self, model: str, table: Table, strength: float):
        classes = tables.classes_of(table)
        table = {**table, "logarithms": np.log(np.maximum(tables.probabilities(table, classes), 1e-6))}
        x = np.concatenate([table[name].astype(np.float64) for name in self.columns], 1)
        self.x = np.column_stack([(x - x.mean(0)) / (x.std(0) + 1e-6), np.ones(len(x))])
        self.offset = self.start(table["logarithms"])
        self.strength, self.weights = strength, np.zeros((self.x.shape[1], len(classes)))
        self.embeddings, self.probabilities = table[EMBEDDING].astype(np.float64), softmax(self.offset, axis=1)

    def start(self, logarithms: np.ndarray) -> np.ndarray:
        """Return the initial logits (N, K), given the log-probabilities of the network."""
        return np.zeros_like(logarithms)

    def fit(self, rows: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
        """Fit to the labels (n,) of rows (n,), and update `probabilities` of all rows."""
        x, offset, wanted = self.x[rows], self.offset[rows], np.eye(self.offset.shape[1])[labels]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = flat.reshape(self.weights.shape)
            log_p = log_softmax(offset + x @ weights, axis=1)
            slope = x.T @ (np.exp(log_p) - wanted) + self.strength * weights
            return -(wanted * log_p).sum() + self.strength * (weights**2).sum() / 2, slope.ravel()

        found = minimize(loss, self.weights.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 60})
        self.weights = found.x.reshape(self.weights.shape)
        self.probabilities = softmax(self.offset + self.x @ self.weights, axis=1)


class Head(Regression):
    """Output layer of the network, fine-tuned from the trained weights."""

    columns = (EMBEDDING,)

    def start(self, logarithms: np.ndarray) -> np.ndarray:
        """Return the log-probabilities of the network."""
        return logarithms


class Network:
    """Whole network, fine-tuned from the trained weights with balanced batches, flips and label smoothing.

    Parameters
    ----------
    model : str
        Name, run folder or checkpoint of the network.
    table : dict of str to ndarray
        Predictions of N rows, with stamps.
    strength : float
        Not used; it is here for the signature of `Regression`.

    Attributes
    ----------
    probabilities : ndarray (N, K) of float64
        Current class probabilities of all rows.
    embeddings : ndarray (N, D) of float64
        Current embeddings of all rows.
    """

    def __init__(self, model: str, table: Table, strength: float):
        self.first = Deployed.load(checkpoint_of(Path(model)), embedding=True)
        self.images, self.columns = self.first.prepare(torch.from_numpy(table[STAMPS]))
        self._classify(self.first)

    def fit(self, rows: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
        """Fit to the labels (n,) of rows (n,), and update `probabilities` and `embeddings` of all rows."""
        torch.manual_seed(int(rng.integers(2**31)))
        tuned = copy.deepcopy(self.first)
        net = tuned.task.net.requires_grad_(True).train()
        optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=STEPS, pct_start=0.1)
        share = (1 / np.bincount(labels))[labels]
        for _ in range(STEPS):
            drawn = rng.choice(len(rows), BATCH, p=share / share.sum())
            image = self.images[rows[drawn]].rot90(int(rng.integers(4)), (2, 3))
            image = image.flip(3) if rng.integers(2) else image
            logits = net({"image": image, "features": self.columns[rows[drawn]]})
            torch.nn.functional.cross_entropy(
                logits, torch.from_numpy(labels[drawn]), label_smoothing=SMOOTHING
            ).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        self._classify(tuned.eval())

    def _classify(self, network: Deployed) -> None:
        with torch.inference_mode():
            found = network.network(self.images, self.columns)
        self.probabilities = np.stack([found[f"p_{name}"].numpy() for name in network.classes], 1).astype(np.float64)
        self.embeddings = found[EMBEDDING].numpy().astype(np.float64)


LEARNERS: dict[str, Callable[[str, Table, float], Regression | Network]] = {
    "regression": Regression,
    "head": Head,
    "network": Network,
}


def classify(model: str, path: Path) -> Table:
    """Classify the labelled rows of a stamps file; the table includes embeddings and stamps."""
    classifier = alerce_early.load(model, embedding=True)
    source, parts = inputs.find([path], classifier.spec), list[Table]()
    for chunk in source.chunks(256, (0, 1)):
        if chunk.records is not None:
            table, _ = classify_chunk(classifier, chunk, source.format.shown)
            stamps = np.moveaxis(np.asarray(chunk.records.images, np.float32), -1, 1)
            parts.append({**table, STAMPS: stamps[np.isin(chunk.keys, table["candid"])]})
    return tables.keep_labelled(tables.join_tables(parts))


def simulate(
    learners: Sequence[Regression | Network],
    labels: np.ndarray,
    held: np.ndarray,
    queue: str,
    counts: Sequence[int],
    target: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Simulate labelling of one fold with one queue.

    Parameters
    ----------
    learners : sequence of Regression or Network
        Learners to fit; the first one is evaluated, and the queue "disagree" needs two.
    labels : ndarray (N,) of int
        Class indices.
    held : ndarray (N,) of bool
        Rows held out for evaluation.
    queue : str
        Name of the queue.
    counts : sequence of int
        Numbers of labels after which to fit, in increasing order.
    target : int
        Index of the target class.
    rng : Generator
        Source of randomness.

    Returns
    -------
    list of ndarray (n,) of int
        Predicted classes of the held-out rows after each number of labels.
    """
    pool, chosen, predicted = np.flatnonzero(~held), np.array([], dtype=np.int64), []
    for n in counts:
        if more := min(n, len(pool)) - len(chosen):
            probabilities = np.stack([learner.probabilities[pool] for learner in learners])
            known = np.isin(pool, chosen)
            new = queues.choose(queue, probabilities, learners[0].embeddings[pool], known, more, rng, target)
            chosen = np.concatenate([chosen, pool[new]])
            for learner in learners:
                learner.fit(chosen, labels[chosen], rng)
        predicted.append(learners[0].probabilities[held].argmax(1))
    return predicted


def score(labels: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Return the accuracy and the balanced accuracy."""
    right = labels == predicted
    return float(right.mean()), float(np.mean([right[labels == one].mean() for one in np.unique(labels)]))


def labels_needed(counts: Sequence[int], curve: np.ndarray, wanted: float) -> float:
    """Return the number of labels at which a curve first reaches a value, by linear interpolation."""
    reached = int((curve >= wanted).argmax())
    if not reached:
        return float(counts[0])
    share = (wanted - curve[reached - 1]) / (curve[reached] - curve[reached - 1])
    return counts[reached - 1] + share * (counts[reached] - counts[reached - 1])


def show(counts: Sequence[int], curves: dict[str, np.ndarray]) -> None:
    """Print curves (seeds, counts, 2) and the labels that each queue needs, as mean and sd over seeds."""
    shown = [
        i for i, n in enumerate(counts) if n in (0, 20, 25, 40, 50, 60, 100, 160, 200, 300) or i + 1 == len(counts)
    ]
    for k, name in enumerate(("accuracy", "balanced accuracy")):
        with_all = np.mean([curve[:, -1, k].mean() for curve in curves.values()])
        print(
            f"\n{name} by number of labels; needed: to come within {TOLERANCE} of the score with all ({with_all:.3f})"
        )
        print(f"{'':10}", *(f"{counts[i]:>11}" for i in shown), f"{'needed':>15}")
        for queue, curve in curves.items():
            scores, ddof = curve[:, :, k], min(1, len(curve) - 1)
            cells = [f"{scores[:, i].mean():.3f}+-{scores[:, i].std(ddof=ddof):.3f}" for i in shown]
            needed = [labels_needed(counts, seed, with_all - TOLERANCE) for seed in scores]
            spread = np.std(needed, ddof=ddof)
            print(f"{queue:10}", *(f"{cell:>11}" for cell in cells), f"{np.mean(needed):7.0f} +- {spread:.0f}")


@exit_on_input_error
def main() -> None:
    """Simulate labelling for each seed, queue and fold, and print the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("path", type=Path, metavar="STAMPS", help="stamps file with labels")
    add("--nights", type=Path, help="CSV with columns objectId and night, to hold out whole nights")
    add("--learner", default="regression", choices=LEARNERS)
    add("--models", nargs=2, default=("ztf_simulated", "ztf_simulated_metadata"), metavar="MODEL")
    add("--queues", nargs="+", default=QUEUES, choices=QUEUES, metavar="QUEUE")
    add("--seeds", type=int, nargs="+", default=range(5), metavar="SEED", help="seeds of the folds and the queues")
    add("--folds", type=int, default=5)
    add("--counts", type=int, nargs="+", default=[*range(20, 420, 20)], help="numbers of labels after which to fit")
    add("--strength", type=float, default=10.0, help="L2 penalty of a regression (default: %(default)s)")
    add("--save", type=Path, metavar="NPZ", help="write the curves to this file, or append them to its curves")
    given = parser.parse_args()
    found = [classify(model, given.path) for model in given.models]
    both = np.intersect1d(found[0]["candid"], found[1]["candid"])
    found = [tables.take_rows(table, np.isin(table["candid"], both)) for table in found]
    labels, groups = tables.label_indices(found[0], classes := tables.classes_of(found[0])), found[0]["id"].astype(str)
    by: splits.By = "object"
    if given.nights:
        of, by = nights.read_nights(given.nights, "ZTF"), "night"
        pairs = np.array([(row, night) for row, name in enumerate(groups.tolist()) for night in of.get(name, ())])
        groups = nights.connect(groups, pairs[:, 0], pairs[:, 1])
    counts = [0, *given.counts, len(labels)]
    print(f"{len(labels)} rows, {len(np.unique(found[0]['id']))} objects, {len(np.unique(groups))} groups")
    curves: dict[str, list[np.ndarray]] = {}
    for seed in given.seeds:
        fold = splits.fold_of(labels, groups, given.folds, seed, by)
        for number, queue in enumerate(given.queues):
            predicted = np.empty((len(counts), len(labels)), dtype=np.int64)
            for which in range(given.folds):
                networks = list(zip(given.models, found, strict=True))[: 2 if queue == "disagree" else 1]
                learners = [LEARNERS[given.learner](*network, given.strength) for network in networks]
                rng, held = np.random.default_rng([seed, which, number]), fold == which
                predicted[:, held] = simulate(learners, labels, held, queue, counts, classes.index(TARGET), rng)
            curves.setdefault(queue, []).append(np.array([score(labels, one) for one in predicted]))
    joined = {queue: np.array(of) for queue, of in curves.items()}
    if given.save:
        if given.save.exists():
            before = np.load(given.save)
            joined = {queue: np.concatenate([before[queue], of]) for queue, of in joined.items()}
        np.savez(given.save, **joined)  # type: ignore[arg-type]
    show(counts, joined)


if __name__ == "__main__":
    main()
