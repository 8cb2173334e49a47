"""Bayesian classification: how sure is the network of its own weights?"""

from typing import Any

from torch import Tensor, special

from alerce_early.errors import InputError
from alerce_early.models.flipout import FlipoutMLP
from alerce_early.tasks.base import Batch
from alerce_early.tasks.classify import ClassifyTask


class BayesTask(ClassifyTask):
    """Cross entropy plus the weights' divergence from their prior, over the number of training rows.

    That is the negative evidence lower bound per training row. draws: of the weights for a prediction;
    anneal_steps: training steps over which the divergence's weight grows from 0 to 1.

    Columns: p_<class> and std_<class>, mean and standard deviation over the draws; entropy of the mean
    prediction, and mutual_information of prediction and weights, what more data could teach; both in nats.
    """

    shown = ("cross_entropy", "kl")
    net: FlipoutMLP

    def __init__(self, *args: Any, draws: int = 100, anneal_steps: int = 0, **options: Any):
        super().__init__(*args, **options)
        if not isinstance(self.net, FlipoutMLP):
            raise InputError(f"BayesTask needs a net with draws; {type(self.net).__name__} has none. Try FlipoutMLP.")
        self.draws, self.anneal_steps = draws, anneal_steps

    def losses(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        fit = super().losses(z, batch)["loss"]
        kl = self.net.kl() / self.spec.n_train
        weight = min(1.0, self.global_step / self.anneal_steps) if self.anneal_steps and self.training else 1.0
        return {"loss": fit + weight * kl, "cross_entropy": fit, "kl": kl}

    def outputs(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        draws = self.net.draws(batch, self.draws).float().softmax(2)
        mean, std = draws.mean(0), draws.std(0, correction=0)
        entropy, expected = special.entr(mean).sum(1), special.entr(draws).sum(2).mean(0)
        return {
            **{f"p_{name}": mean[:, i] for i, name in enumerate(self.spec.classes)},
            **{f"std_{name}": std[:, i] for i, name in enumerate(self.spec.classes)},
            "entropy": entropy,
            "mutual_information": entropy - expected,
        }
