"""Classification by a point estimate of the weights or by a Bayesian network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, special
from torch.nn import functional

from alerce_early.construct import function
from alerce_early.errors import InputError
from alerce_early.evaluation import metrics
from alerce_early.models.flipout import FlipoutMLP
from alerce_early.tasks.base import Batch, Table, Task

if TYPE_CHECKING:
    from alerce_early.data.datamodule import AlertData

MAX_SAMPLED_ROWS = 1000  # test rows whose individual draws are shown; bounds memory
MIN_WIDTH_RATIO = 2.0  # 95th over 5th percentile of the posterior widths, below which nothing was learned about them


def focal_loss(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Return the focal loss (B,) of exclusive classes (Lin et al. 2017, equation 4, of a softmax).

    torchvision's `sigmoid_focal_loss` is of one sigmoid per class, whose probabilities do not add up to 1.

    Parameters
    ----------
    logits, target : Tensor
        (B, classes) float32; the target is the probability of each class.
    gamma : float
        How fast the loss of a row falls as it is classified better; 0 is cross entropy.
    """
    log_p = logits.log_softmax(1)
    # a root has infinite slope at 0
    missed = (-log_p.expm1()).clamp_min(torch.finfo(log_p.dtype).eps)
    return -(target * missed**gamma * log_p).sum(1)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": partial(functional.cross_entropy, reduction="none"),
    "binary": partial(functional.binary_cross_entropy_with_logits, reduction="none"),
    "focal": focal_loss,
}


def find_loss(name: str) -> Callable[..., Tensor]:
    """Return the loss of a name in `LOSSES`, or the user's function of a dotted name; InputError otherwise."""
    if "." in name:
        try:
            return function(name)
        except InputError as error:
            raise InputError(f"model.task.loss={name}: {error}") from None
    if name not in LOSSES:
        raise InputError(
            f"model.task.loss={name}: unknown loss. Choose from {', '.join(LOSSES)}, or name a function of your own as "
            "package.module.function."
        )
    return LOSSES[name]


class ClassifyTask(Task):
    """Minimise a loss on exclusive classes; the outputs are probabilities p_<class> that sum to 1.

    Parameters
    ----------
    *args, **options
        See `Task`.
    loss : str
        ``cross_entropy``, of a softmax; ``binary``, the mean binary cross entropy of one sigmoid per class on one-hot
        labels, as in Keras, whose outputs are the sigmoids over their sum; ``focal``, see `focal_loss`; or the dotted
        name of a function of logits and target, (B, classes) float32 each, that returns the loss of each row, (B,).
        The function is imported for training only.
    focal_gamma : float
        Exponent of the focal loss.
    class_weights : "balanced" or sequence of float, optional
        Weight of the loss of a training row by its class: one number per class in label order, or scikit-learn's
        balanced weights, the number of training rows over the number of classes times the rows of the class.
    entropy : float
        Weight of the mean entropy (nats) of the predictions, which is subtracted from the loss so that uncertain
        stamps are not forced into one class (Carrasco-Davis et al. 2021).
    label_smoothing : float
        Share of a label that is spread evenly over all classes, in [0, 1).
    mixup : float
        Parameter of the Beta distribution with which pairs of training stamps and labels are mixed (Zhang et al.
        2018); 0 switches it off. It excludes metadata, since a mean with a missing value has no meaning.
    """

    def __init__(
        self,
        *args: Any,
        loss: str = "cross_entropy",
        focal_gamma: float = 2.0,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
        entropy: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        **options: Any,
    ):
        super().__init__(*args, **options)
        self.loss, self.entropy, self.label_smoothing, self.mixup = loss, entropy, label_smoothing, mixup
        self.focal_gamma = focal_gamma
        self.register_buffer("class_weights", self._weigh_classes(class_weights), persistent=False)

    lower_is_better = frozenset({"loss", "log_loss", "brier", "ece", *metrics.MISS_RATES})
    target = metrics.TARGET
    shown: tuple[str, ...] = (f"recall/{target}",)
    class_weights: Tensor | None

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raise InputError if the loss is unknown."""
        find_loss(options.get("loss", "cross_entropy"))

    def look_for(self, target: str) -> None:
        """Set the target class. Its recall is reported first; with two classes, its F2 score is reported, too."""
        self.shown = tuple(name.replace(f"recall/{self.target}", f"recall/{target}") for name in self.shown)
        self.target = target

    def _weigh_classes(self, given: Literal["balanced"] | Sequence[float] | None) -> Tensor | None:
        """Return the weight of each class, (classes,) float32, or None if all are 1."""
        if given is None:
            return None
        counts = torch.tensor(self.spec.class_counts)
        weights = counts.sum() / (len(counts) * counts) if given == "balanced" else torch.tensor([*map(float, given)])
        if len(weights) != len(self.spec.classes) or not (weights >= 0).all() or not weights.sum() > 0:
            raise InputError(
                f"model.task.class_weights={given}: expected balanced, or a number from 0 for each of "
                f"{', '.join(self.spec.classes)}."
            )
        return weights

    @cached_property
    def _loss_of_rows(self) -> Callable[[Tensor, Tensor], Tensor]:
        found = find_loss(self.loss)
        return partial(found, gamma=self.focal_gamma) if found is focal_loss else found

    def losses(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of a batch, from logits `z` (B, classes), less the weighted entropy."""
        z = z.float()  # in mixed precision, too
        wanted = batch["wanted"] if "wanted" in batch else functional.one_hot(batch["label"], z.shape[1]).float()
        weights = wanted @ self.class_weights if self.training and self.class_weights is not None else None
        if self.training and self.label_smoothing:
            wanted = wanted.lerp(torch.full_like(wanted, 1 / z.shape[1]), self.label_smoothing)
        rows = self._loss_of_rows(z, wanted)
        if rows.shape[:1] != z.shape[:1]:
            raise InputError(f"model.task.loss={self.loss}: returned shape {(*rows.shape,)}. Return ({len(z)},).")
        fit = (rows if weights is None else rows.reshape(len(z), -1) * weights[:, None]).mean()
        if not self.entropy:
            return {"loss": fit}
        entropy = torch.distributions.Categorical(logits=self._logits(z), validate_args=False).entropy().mean()
        return {"loss": fit - self.entropy * entropy}

    def _logits(self, z: Tensor) -> Tensor:
        """Return the logits whose softmax is the probabilities; of log sigmoids that is each sigmoid's share."""
        # not `logsigmoid`, whose exported form is -inf if a sigmoid is too small for float32
        return -functional.softplus(-z) if self.loss == "binary" else z

    def _probabilities(self, z: Tensor) -> Tensor:
        """Return the probabilities (..., classes) float32, given the network's output (..., classes)."""
        return self._logits(z.float()).softmax(-1)

    def mix(self, batch: Batch) -> Batch:
        """Add the target probabilities ``wanted`` (B, classes) of distillation and MixUp; MixUp also mixes stamps."""
        if "taught" in batch:
            batch = batch | {"wanted": batch["taught"]}
        if not self.mixup:
            return batch
        if self.spec.features:
            raise InputError(f"model.task.mixup={self.mixup}: MixUp cannot mix metadata. Set features=none or mixup=0.")
        from torchvision.transforms import v2  # slow to import, and otherwise needed by one network only

        mix_up = v2.MixUp(alpha=self.mixup, num_classes=len(self.spec.classes))
        image, wanted = mix_up(batch["image"], batch.get("wanted", batch["label"]))
        return batch | {"image": image, "wanted": wanted}

    def scores(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the accuracy on the training batch, with augmentation and dropout."""
        wanted = batch["taught"].argmax(1) if "taught" in batch else batch["label"]
        return {"accuracy": (z.detach().argmax(1) == wanted).float().mean()}

    def outputs(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the columns p_<class>."""
        probabilities = self._probabilities(z)
        return {f"p_{name}": probabilities[:, i] for i, name in enumerate(self.spec.classes)}

    def report(self, table: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return `metrics.classification` of the table, whose labels are (N,) int64."""
        probabilities = np.stack([table[f"p_{name}"] for name in self.spec.classes], 1)
        return metrics.classification(table["label"], probabilities, self.spec.classes, self.target)

    def named(self, table: Mapping[str, np.ndarray]) -> Table:
        """Return the table with class names as labels, and with the most probable class."""
        probabilities = np.stack([table[f"p_{name}"] for name in self.spec.classes], 1)
        predicted = np.array(self.spec.classes)[probabilities.argmax(1)]
        # puts label and predicted next to each other, before the probabilities
        return {"label": np.empty(0), "predicted": predicted, **super().named(table)}


class BayesTask(ClassifyTask):
    """Minimise the negative evidence lower bound of a Bayesian network, per training row.

    The outputs are p_<class> and std_<class>, mean and standard deviation of a probability over samples of the
    weights; vote_<class>, the share of samples in which the class is the most probable; and in nats ``entropy`` of the
    mean prediction, ``mutual_information`` of prediction and weights, which more data could reduce, and
    ``entropy_of_means``, of the prediction with the mean weights.

    Parameters
    ----------
    *args, **options
        See `ClassifyTask`.
    draws : int
        Samples of the weights per prediction.
    kl_weight : float
        Weight of the KL divergence; less than 1 gives a cold posterior (Wenzel et al. 2020).
    anneal_steps : int
        Training steps over which the weight grows from 0 to `kl_weight`.

    Raises
    ------
    InputError
        If the network is not Bayesian.
    """

    lower_is_better = ClassifyTask.lower_is_better | {"cross_entropy", "kl"}
    shown = ("cross_entropy", "kl")
    net: FlipoutMLP

    def __init__(self, *args: Any, draws: int = 100, kl_weight: float = 1.0, anneal_steps: int = 0, **options: Any):
        super().__init__(*args, **options)
        if not isinstance(self.net, FlipoutMLP):
            raise InputError(f"model.net: {type(self.net).__name__} is not Bayesian. Choose FlipoutMLP.")
        self.draws, self.kl_weight, self.anneal_steps = draws, kl_weight, anneal_steps

    def losses(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return "loss" and its two parts, "cross_entropy" and "kl"."""
        fit = super().losses(z, batch)["loss"]
        kl = self.net.kl() / self.spec.n_train
        weight = min(1.0, self.global_step / self.anneal_steps) if self.anneal_steps and self.training else 1.0
        return {"loss": fit + weight * self.kl_weight * kl, "cross_entropy": fit, "kl": kl}

    def outputs(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return means, standard deviations and votes over samples of the weights, and uncertainties."""
        draws = self._probabilities(self.net.logit_samples(batch, self.draws))
        mean, std = draws.mean(0), draws.std(0, correction=0)
        votes = torch.nn.functional.one_hot(draws.argmax(2), draws.shape[2]).float().mean(0)
        entropy, expected = special.entr(mean).sum(1), special.entr(draws).sum(2).mean(0)
        return {
            **{f"p_{name}": mean[:, i] for i, name in enumerate(self.spec.classes)},
            **{f"std_{name}": std[:, i] for i, name in enumerate(self.spec.classes)},
            **{f"vote_{name}": votes[:, i] for i, name in enumerate(self.spec.classes)},
            "entropy": entropy,
            "mutual_information": entropy - expected,
            "entropy_of_means": special.entr(self._probabilities(z)).sum(1),
        }

    @torch.no_grad()
    def draw_predictions(self, data: AlertData) -> tuple[np.ndarray, np.ndarray] | None:
        """Return up to `MAX_SAMPLED_ROWS` test rows (R,) and their probabilities (draws, R, classes), or None."""
        self.eval()
        labelled = data.parts["test"][data.labels[data.parts["test"]] >= 0]
        if not len(labelled):
            return None
        rows = labelled[:: -(-len(labelled) // MAX_SAMPLED_ROWS)]
        image = self.recipe.finish(torch.from_numpy(data.store.images[rows])).to(self.device)
        return rows, self._probabilities(self.net.logit_samples({"image": image}, self.draws)).cpu().numpy()

    @torch.no_grad()
    def describe_posterior(self) -> dict[str, Any]:
        """Summarise the posterior of the weights.

        Returns
        -------
        dict
            "kl" in nats per training row, "kl_weight", "prior_std"; "widths", rows of layer, number of weights and 5th,
            50th and 95th percentile of sigma, all layers together first; "warning", a text or None.
        """
        layers = {f"layer {i}": sigma.cpu().numpy().ravel() for i, sigma in enumerate(self.net.sigmas, 1)}
        parts = {"all": np.concatenate([*layers.values()]), **layers}
        widths = [[name, sigma.size, *np.percentile(sigma, (5, 50, 95)).tolist()] for name, sigma in parts.items()]
        spread = widths[0][4] / widths[0][2]
        warning = (
            f"The posterior has not been learned: the 95th percentile of the weights' standard deviations is only "
            f"{spread:.2f} times the 5th. Try a larger optim.groups.rho.lr, more epochs or a smaller "
            "model.task.kl_weight."
        )
        return {
            "kl": float(self.net.kl()) / self.spec.n_train,
            "kl_weight": self.kl_weight,
            "prior_std": self.net.prior_std,
            "widths": widths,
            "warning": warning if spread < MIN_WIDTH_RATIO else None,
        }
