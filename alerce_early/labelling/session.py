"""Labelling session of one person: queue of alerts, data of the page, and labels."""

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

BATCH = 20  # alerts chosen at a time, with the labels known by then
RANDOM, PROBABLE, SIMILAR, DISAGREE = "random", "probable", "similar", "disagree"


class Session:
    """Queue and labels of one person.

    Parameters
    ----------
    night : Night
        The N alerts.
    stamps : ndarray, (N, C, H, W) float16
        Stamps, as returned by `Night.read_stamps`.
    labels : LabelsFile
        File for the labels; alerts that this person has labelled are not shown again.
    share : float in [0, 1]
        Share of the shown alerts that is drawn at random.
    strategy : str
        Queue at the start, see `queues.choose`.
    target : int
        Class or row of the strategy.
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
        """Value of ``data=`` for training on these alerts, or "" if their survey is unknown."""
        survey = self.night.source.format.survey
        return SURVEYS[survey].data if survey else ""

    def describe(self) -> dict[str, Any]:
        """Return the settings of the session for the page, as plain values."""
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
        """Count the labels and compute the agreement with other people."""
        mine = self.labels.mine()
        given = [label for label in mine.values() if label in self.classes]
        return {
            "labels": len(given),
            "counts": {name: given.count(name) for name in self.classes},
            "left": sum(key not in mine for key in self.keys),
            "agreements": [one._asdict() for one in self.labels.agreements()],
        }

    def upcoming(self, strategy: str, target: int = 0) -> list[dict[str, Any]]:
        """Choose the next alerts of a queue.

        Parameters
        ----------
        strategy : str
            One of `queues.STRATEGIES`.
        target : int
            Class or row of the strategy, see `queues.choose`.

        Returns
        -------
        list of dict
            ``row`` of each alert and ``queue``, the name of the queue that it is from.

        Raises
        ------
        InputError
            If there is no such queue.
        """
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
        """Choose up to `BATCH` more alerts: row, and whether it was drawn at random."""
        busy = labelled.copy()
        busy[list(planned)] = True
        drawn = self._drawn[~busy[self._drawn]]
        chosen = drawn[:0]
        if strategy != RANDOM:
            if strategy == SIMILAR:
                busy[target] = True
            rows = np.flatnonzero(~self._held | busy)  # unlabelled random rows must not influence the choice
            of = self._probabilities[:, rows], self._embeddings[rows], busy[rows]
            place = int(np.searchsorted(rows, target)) if strategy == SIMILAR else target
            chosen = rows[queues.choose(strategy, *of, BATCH, self._rng, place)]
        return queues.mix(chosen, drawn, self.share, BATCH, self._rng)

    def _name(self, strategy: str, target: int) -> str:
        """Return the name of a queue in the file of labels."""
        if strategy == PROBABLE:
            return f"{PROBABLE} {self.classes[target]}"
        return f"{SIMILAR} {self.keys[target]}" if strategy == SIMILAR else strategy

    def show(self, row: int) -> dict[str, Any]:
        """Return the data of an alert for the page, without its stamps, as plain values."""
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
        """Return the stamps (C, H, W) of an alert as little-endian float16."""
        self._check(row)
        return self.stamps[row].astype("<f2").tobytes()

    def label(self, row: int, label: str, strategy: str, target: int = 0) -> dict[str, Any]:
        """Write a label to disk and return `progress`.

        Parameters
        ----------
        row : int
            Row of the alert.
        label : str
            A class, `UNSURE` or `SKIP`.
        strategy, target : str, int
            Queue that offered the alert, see `upcoming`.

        Raises
        ------
        InputError
            If there is no such alert, label or queue, or the file cannot be written.
        """
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
        """Remove the last label; return ``row`` of its alert (or None) and `progress`."""
        candid = self.labels.undo(self.keys)
        return {"row": None if candid is None else self._rows[candid], **self.progress()}

    def _check(self, row: int) -> None:
        """Raise InputError if there is no such row."""
        if not 0 <= row < len(self.keys):
            raise InputError(f"alert {row}: out of range. Choose from 0 to {len(self.keys) - 1}.")

    def _check_queue(self, strategy: str, target: int) -> None:
        """Raise InputError if there is no such queue."""
        ends = {PROBABLE: len(self.classes), SIMILAR: len(self.keys)}.get(strategy, 1)
        if strategy not in queues.STRATEGIES or not 0 <= target < ends:
            raise InputError(f"queue {strategy[:20]} {target}: unknown. Choose from {', '.join(queues.STRATEGIES)}.")


def list_strategies(n_networks: int) -> list[str]:
    """List the queues that can start a session with this number of networks."""
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
    """Open a session.

    All arguments are checked before the alerts are read, which may take minutes.

    Parameters
    ----------
    given : sequence of str
        Files as for `predict`, or one predictions table with `packets`.
    models : sequence of str
        Networks that classify `given`.
    packets : sequence of str
        Files with the alerts of the predictions table, instead of `models`.
    out : Path
        CSV file for the labels.
    who : str, optional
        Name of the person; the login name by default.
    queue : str, optional
        Queue at the start: a name from `list_strategies`, or ``probable:CLASS``.
    share : float in [0, 1]
        Share of the shown alerts that is drawn at random.

    Raises
    ------
    InputError
        If a network, a file or the queue is invalid.
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
    """Return the login name, or raise InputError without one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise InputError("--who: not given, and this user has no login name. Give a name.") from None
