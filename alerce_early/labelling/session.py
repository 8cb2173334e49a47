"""One person's session: the queue of alerts, the data of the page, and the labels."""

import getpass
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data.readers.packets.fields import SURVEYS
from alerce_early.errors import InputError
from alerce_early.labelling import alerts, queues
from alerce_early.labelling.alerts import STRETCHES, Night, describe, find_levels, list_links
from alerce_early.labelling.labels_file import SKIP, UNSURE, LabelsFile
from alerce_early.report.palette import looks
from alerce_early.serving import inputs

BATCH = 20  # alerts that are planned at once: later ones know of the labels of those before
RANDOM, PROBABLE, SIMILAR, DISAGREE = "random", "probable", "similar", "disagree"


class Session:
    """Alerts and their queue, for one person.

    Parameters
    ----------
    night : Night
        The alerts, N of them.
    stamps : ndarray, (N, C, H, W) float16
        Of `Night.read_stamps`.
    labels : LabelsFile
        Where labels go; alerts that it has of this person do not come again.
    share : float in [0, 1]
        How many of the alerts shown are drawn at random.
    strategy, target : str, int
        The queue to begin with, as of `queues.choose`.
    """

    def __init__(
        self,
        night: Night,
        stamps: np.ndarray,
        labels: LabelsFile,
        share: float = 0.2,
        strategy: str = "uncertain",
        target: int = 0,
    ):
        self.night, self.stamps, self.labels, self.share = night, stamps, labels, share
        self.strategy, self.target = strategy, target
        self.keys, self.classes = night.keys, night.classes
        self._probabilities, self._embeddings = night.probabilities, night.embeddings
        self._rows = {key: row for row, key in enumerate(self.keys)}
        self._drawn = queues.reserve(self.keys, share)
        self._held = np.isin(np.arange(len(self.keys)), self._drawn)
        self._plans: dict[tuple[str, int], list[tuple[int, bool]]] = {}
        self._rng = np.random.default_rng(0)
        self._lock = threading.Lock()

    @property
    def data(self) -> str:
        """The value of ``data=`` for training on these alerts with a table of labels, or ""."""
        survey = self.night.source.format.survey
        return SURVEYS[survey].data if survey else ""

    def describe(self) -> dict[str, Any]:
        """Describe the session for the page, as plain values."""
        colours = looks(self.classes)
        return {
            "classes": [{"name": name, "colour": colours[name].colour} for name in self.classes],
            "models": [name for name, _ in self.night.members],
            "channels": self.night.source.spec.channels,
            "side": self.stamps.shape[2:],
            "stretches": STRETCHES,
            "other": [UNSURE, SKIP],
            "strategies": list_strategies(len(self.night.members)),
            "strategy": self.strategy,
            "target": self.target,
            "who": self.labels.who,
            "file": self.labels.path.name,
            "random": self.share,
            **self.progress(),
        }

    def progress(self) -> dict[str, Any]:
        """Count the labels, and compare them with other people's."""
        mine = self.labels.mine()
        given = [label for label in mine.values() if label in self.classes]
        return {
            "labels": len(given),
            "counts": {name: given.count(name) for name in self.classes},
            "left": sum(key not in mine for key in self.keys),
            "agreements": [one._asdict() for one in self.labels.agreements()],
        }

    def upcoming(self, strategy: str, target: int = 0) -> list[dict[str, Any]]:
        """Return the next alerts of a queue, as row and the queue each is from; raises InputError for another name."""
        self._check_queue(strategy, target)
        mine = self.labels.mine()
        labelled = np.array([key in mine for key in self.keys])
        with self._lock:
            plan = [one for one in self._plans.get((strategy, target), []) if not labelled[one[0]]]
            if len(plan) <= BATCH // 2:
                plan += self._extend(strategy, target, labelled, [row for row, _ in plan])
            self._plans[strategy, target] = plan
        return [{"row": row, "queue": RANDOM if random else self._name(strategy, target)} for row, random in plan]

    def _extend(
        self, strategy: str, target: int, labelled: np.ndarray, planned: Sequence[int]
    ) -> list[tuple[int, bool]]:
        busy = labelled.copy()
        busy[list(planned)] = True
        drawn = self._drawn[~busy[self._drawn]]
        chosen = drawn[:0]
        if strategy != RANDOM:
            if strategy == SIMILAR:
                busy[target] = True
            rows = np.flatnonzero(~self._held | busy)  # those held back are neither chosen nor anybody's neighbours
            of = self._probabilities[:, rows], self._embeddings[rows], busy[rows]
            place = int(np.searchsorted(rows, target)) if strategy == SIMILAR else target
            chosen = rows[queues.choose(strategy, *of, BATCH, self._rng, place)]
        return queues.mix(chosen, drawn, self.share, BATCH, self._rng)

    def _name(self, strategy: str, target: int) -> str:
        if strategy == PROBABLE:
            return f"{PROBABLE} {self.classes[target]}"
        return f"{SIMILAR} {self.keys[target]}" if strategy == SIMILAR else strategy

    def show(self, row: int) -> dict[str, Any]:
        """Describe an alert for the page, except its stamps."""
        self._check(row)
        return {
            "row": row,
            "id": str(self.night.table["id"][row]),
            "probabilities": self._probabilities.mean(0)[row].tolist(),
            "members": self._probabilities[:, row].tolist(),
            "facts": describe(self.night.table, row),
            "links": list_links(self.night.table, row),
            "levels": find_levels(self.stamps[row]),
            "mine": self.labels.mine().get(self.keys[row], ""),
        }

    def encode_stamps(self, row: int) -> bytes:
        """Return the stamps of an alert, (C, H, W) little-endian float16."""
        self._check(row)
        return self.stamps[row].astype("<f2").tobytes()

    def label(self, row: int, label: str, strategy: str, target: int = 0) -> dict[str, Any]:
        """Write a label to disk; returns `progress`. Raises InputError for an alert, label or queue that is unknown."""
        self._check(row)
        if label not in (*self.classes, UNSURE, SKIP):
            raise InputError(f"label {label[:40]}: unknown. Choose from {', '.join((*self.classes, UNSURE, SKIP))}.")
        self._check_queue(strategy, target)
        queue = RANDOM if self._held[row] else self._name(strategy, target)
        probabilities = self._probabilities.mean(0)[row].tolist()
        name = str(self.night.table["id"][row])
        self.labels.add(self.keys[row], name, label, queue, self.night.model, probabilities)
        return self.progress()

    def undo(self) -> dict[str, Any]:
        """Withdraw the last label; returns its row, or None, and `progress`."""
        candid = self.labels.undo(self.keys)
        return {"row": None if candid is None else self._rows[candid], **self.progress()}

    def _check(self, row: int) -> None:
        if not 0 <= row < len(self.keys):
            raise InputError(f"alert {row}: there are {len(self.keys):,}, from 0.")

    def _check_queue(self, strategy: str, target: int) -> None:
        ends = {PROBABLE: len(self.classes), SIMILAR: len(self.keys)}.get(strategy, 1)
        if strategy not in queues.STRATEGIES or not 0 <= target < ends:
            raise InputError(f"queue {strategy[:20]} {target}: unknown. Choose from {', '.join(queues.STRATEGIES)}.")


def list_strategies(n_networks: int) -> list[str]:
    """List the queues available for a number of networks."""
    return [name for name in queues.FROM_START if name != DISAGREE or n_networks > 1]


def open_session(
    given: Sequence[str],
    models: Sequence[str],
    packets: Sequence[str],
    out: Path,
    who: str | None = None,
    queue: str | None = None,
    share: float = 0.2,
) -> Session:
    """Read the alerts, after everything that may be refused, since they may take minutes.

    Parameters
    ----------
    given : sequence of str
        What `predict` takes; with `packets`, one predictions table.
    models : sequence of str
        The networks that classify `given`.
    packets : sequence of str
        The alerts of a predictions table, instead of `models`.
    out : Path
        The CSV of labels.
    who : str, optional
        Who labels; the login name by default.
    queue : str, optional
        Where to begin: a name of `list_strategies`, ``probable`` with ``:CLASS``.
    share : float in [0, 1]
        How much is drawn at random.

    Raises
    ------
    InputError
        If a network, a file, the queue or the CSV is invalid.
    """
    networks = [alerts.open_network(model) for model in models]
    night = alerts.read_table(Path(given[0]), packets) if packets else None
    classes = night.classes if night else networks[0].classes
    strategy, _, name = (queue or (DISAGREE if len(networks) > 1 else "uncertain")).partition(":")
    known = list_strategies(len(networks))
    if strategy not in known or (name not in classes if strategy == PROBABLE else name):
        of = f"{', '.join(known)}; {PROBABLE} with {', '.join(f':{one}' for one in classes)}"
        of += f"; {DISAGREE} with two networks as --model"
        raise InputError(f"--queue {queue}: not a queue of these alerts. Choose from {of}.")
    target = classes.index(name) if strategy == PROBABLE else 0
    share = 1.0 if strategy == RANDOM else share
    labels = LabelsFile(out, who or _find_login(), classes)
    night = night or alerts.classify(networks, inputs.find(given, networks[0].spec, out))
    night = alerts.narrow(night, strategy, target, share)
    return Session(night, night.read_stamps(), labels, share, strategy, target)


def _find_login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise InputError("--who: this user has no login name. Give one.") from None
