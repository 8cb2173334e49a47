"""Classification task: its losses by hand, and its checkpoints."""

from math import log
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from alerce_early.errors import InputError
from alerce_early.evaluation import metrics
from alerce_early.experiments.instantiate import make_data, make_task
from alerce_early.serving.deployed import Deployed
from alerce_early.serving.export import content_of
from alerce_early.serving.runtimes import session_of
from alerce_early.tasks import restore
from alerce_early.tasks.classify import BayesTask, ClassifyTask, focal_loss
from alerce_early.tasks.regress import LinesTask
from tests.helpers.tiny import spec

SPEC = spec(shape=(2, 5, 5), classes=("a", "b")).plain()
ADAM = {"optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3}, "schedule": None}
FLIPOUT = {"_target_": "alerce_early.models.flipout.FlipoutMLP", "hidden": [8]}


def task(cls: type[ClassifyTask], **options) -> ClassifyTask:
    return cls(net=FLIPOUT, spec=SPEC, optim=ADAM, augment={"margin": 0, "steps": []}, **options)


def test_loss_subtracts_the_entropy() -> None:
    z, batch = torch.tensor([[log(3.0), 0.0]]), {"label": torch.tensor([0])}  # p = 3/4, 1/4
    cross_entropy, entropy = -log(0.75), -0.75 * log(0.75) - 0.25 * log(0.25)
    assert task(ClassifyTask).losses(z, batch)["loss"].item() == pytest.approx(cross_entropy, abs=1e-6)
    regular = task(ClassifyTask, entropy=0.5).losses(z, batch)["loss"].item()
    assert regular == pytest.approx(cross_entropy - 0.5 * entropy, abs=1e-6)


def test_label_smoothing_applies_in_training_only() -> None:
    z, batch = torch.tensor([[log(3.0), 0.0]]), {"label": torch.tensor([0])}  # p = 3/4, 1/4
    smooth = task(ClassifyTask, label_smoothing=0.2)
    assert smooth.losses(z, batch)["loss"].item() == pytest.approx(-0.9 * log(0.75) - 0.1 * log(0.25), abs=1e-6)
    assert smooth.eval().losses(z, batch)["loss"].item() == pytest.approx(-log(0.75), abs=1e-6)


def test_mixup_mixes_stamps_and_labels_with_equal_weights() -> None:
    label = torch.tensor([0, 1, 1, 0])
    image = label.float().view(4, 1, 1, 1).expand(4, 2, 5, 5)  # every pixel is the class index
    mixed = task(ClassifyTask, mixup=1.0).mix({"image": image, "label": label})
    assert torch.allclose(mixed["image"][:, 0, 0, 0], mixed["wanted"][:, 1], atol=1e-6)
    assert ((mixed["wanted"] > 0.01) & (mixed["wanted"] < 0.99)).any()
    z = torch.tensor([[log(3.0), 0.0]]).expand(4, 2)
    by_hand = -(mixed["wanted"] * torch.tensor([log(0.75), log(0.25)])).sum(1).mean()
    assert task(ClassifyTask).losses(z, mixed)["loss"].item() == pytest.approx(by_hand.item(), abs=1e-6)


def test_mixup_rejects_metadata() -> None:
    facts = {"spec": spec(("fwhm",), shape=(2, 5, 5), classes=("a", "b")).plain(), "optim": ADAM}
    mixed = ClassifyTask(net=FLIPOUT, augment={"margin": 0, "steps": []}, mixup=1.0, **facts)
    with pytest.raises(InputError, match=r"model\.task\.mixup"):
        mixed.mix({"image": torch.zeros(2, 2, 5, 5), "features": torch.zeros(2, 1), "label": torch.tensor([0, 1])})


def test_one_sigmoid_per_class_on_one_hot_labels() -> None:
    z, batch = torch.tensor([[log(3.0), 0.0], [-log(3.0), 0.0]]), {"label": torch.tensor([0, 0])}  # 3/4, 1/2; 1/4, 1/2
    binary = task(ClassifyTask, loss="binary")
    by_hand = -(log(3 / 4) + log(1 - 1 / 2) + log(1 / 4) + log(1 - 1 / 2)) / 4
    assert binary.losses(z, batch)["loss"].item() == pytest.approx(by_hand, abs=1e-6)
    outputs = binary.outputs(z, batch)
    assert outputs["p_a"].tolist() == pytest.approx([3 / 5, 1 / 3]) and outputs["p_b"].tolist() == pytest.approx(
        [2 / 5, 2 / 3]
    )
    entropy = -(3 / 5 * log(3 / 5) + 2 / 5 * log(2 / 5) + 1 / 3 * log(1 / 3) + 2 / 3 * log(2 / 3)) / 2
    regular = task(ClassifyTask, loss="binary", entropy=0.5).losses(z, batch)["loss"].item()
    assert regular == pytest.approx(by_hand - 0.5 * entropy, abs=1e-6)


@pytest.mark.parametrize("gamma", (0.0, 0.5, 2.0))
def test_focal_loss_decreases_for_well_classified_rows(gamma: float) -> None:
    z, batch = torch.tensor([[log(3.0), 0.0], [1e4, 0.0]]).requires_grad_(), {"label": torch.tensor([0, 0])}  # 3/4, 1
    loss = task(ClassifyTask, loss="focal", focal_gamma=gamma).losses(z, batch)["loss"]
    assert loss.item() == pytest.approx(-(0.25**gamma) * log(0.75) / 2, abs=1e-6)
    loss.backward()
    assert z.grad is not None and z.grad.isfinite().all()
    sure = torch.tensor([[log(3.0), 0.0]]), torch.tensor([[1.0, 0.0]])
    ours, theirs = (
        focal_loss(*sure, gamma).item(),
        sigmoid_focal_loss(sure[0][:, :1], sure[1][:, :1], -1, gamma).item(),
    )
    assert ours == pytest.approx(theirs, abs=1e-6)  # the softmax of two classes is a sigmoid


def test_class_weights_apply_in_training_only() -> None:
    z, batch = torch.tensor([[log(3.0), 0.0], [log(3.0), 0.0]]), {"label": torch.tensor([0, 1])}  # p = 3/4, 1/4
    weighed = task(ClassifyTask, class_weights=[2, 0.5])
    wanted = functional.cross_entropy(z, batch["label"], torch.tensor([2.0, 0.5]), reduction="sum").item() / 2
    assert weighed.losses(z, batch)["loss"].item() == pytest.approx(wanted, abs=1e-6)
    by_sigmoid = task(ClassifyTask, class_weights=[2, 0.5], loss="binary").losses(z, batch)["loss"].item()
    rows = functional.binary_cross_entropy_with_logits(z, torch.eye(2), reduction="none").mean(1)
    assert by_sigmoid == pytest.approx((rows @ torch.tensor([2.0, 0.5])).item() / 2, abs=1e-6)
    assert weighed.eval().losses(z, batch)["loss"].item() == pytest.approx(-(log(0.75) + log(0.25)) / 2, abs=1e-6)


def test_balanced_weights_follow_the_training_rows(quick) -> None:
    config = quick("model.task.class_weights=balanced")
    data = make_data(config)
    rows = data.labels[data.parts["train"]]
    wanted = compute_class_weight("balanced", classes=np.arange(5), y=rows)
    assert make_task(config, data.spec).class_weights.tolist() == pytest.approx(wanted.tolist())
    assert max(wanted) > 2 * min(wanted)


@pytest.mark.parametrize("weights", ([1], [1, 2, 3], [1, -1], [0, 0]))
def test_class_weights_that_do_not_match_are_rejected(weights: list[float]) -> None:
    with pytest.raises(InputError, match=r"model\.task\.class_weights"):
        task(ClassifyTask, class_weights=weights)


def test_exported_sigmoids_equal_the_trained_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)  # these weights give stamps whose sigmoids all underflow in float32
    facts = {"raw_shape": (2, 5, 5), "channels": ("sci", "temp")}
    net = {"_target_": "alerce_early.models.stamp_cnn.StampCNN", "layers": ["flatten"]}
    trained = ClassifyTask(
        net=net,
        spec=spec(shape=(2, 5, 5), classes=("a", "b"), **facts).plain(),
        optim=ADAM,
        augment={"margin": 0, "steps": []},
        loss="binary",
    )
    images = torch.randn(6, 2, 5, 5)
    shares = trained.net({"image": images}).sigmoid()
    shares = shares / shares.sum(1, keepdim=True)
    deployed = Deployed(trained)
    assert torch.allclose(deployed(images), shares, atol=1e-6)
    content, difference = content_of(deployed)
    assert difference < 1e-5
    session = session_of(content)
    assert np.allclose(session.run(["table"], {"stamps": images.numpy()})[0], shares.detach(), atol=1e-5)


@pytest.mark.parametrize("classes", [("rest", "SN"), ("bogus", "real"), ("AGN", "SN", "VS")])
def test_best_checkpoint_has_the_best_monitored_metric(classes: tuple[str, ...]) -> None:
    """For every metric, correct predictions must be better than wrong ones."""
    labels = np.arange(60) % len(classes)
    sure = np.full((60, len(classes)), 0.05)
    sure[np.arange(60), labels] = 0.95
    right = metrics.classification(labels, sure / sure.sum(1, keepdims=True), classes)
    wrong = metrics.classification(labels, np.roll(sure, 1, axis=1) / sure.sum(1, keepdims=True), classes)
    assert all(right[name] != wrong[name] for name in right) and len(right) > 20
    assert {name for name in right if right[name] < wrong[name]} == set(filter(ClassifyTask.best_is_lowest, right))
    assert all(map(BayesTask.best_is_lowest, ("loss", "cross_entropy", "kl", "brier")))
    assert all(map(LinesTask.best_is_lowest, ("loss", "box", "offset", "nmad")))


def test_metrics_of_an_epoch_are_those_of_the_target_class() -> None:
    table = {"label": np.array([0, 1, 1]), "p_a": np.array([0.9, 0.2, 0.6]), "p_b": np.array([0.1, 0.8, 0.4])}
    assert "f2/a" not in task(ClassifyTask).report(table)
    one, other = task(ClassifyTask), task(BayesTask)
    for each in (one, other):
        each.look_for("a")
        assert each.report(table)["f2/a"] == 5 / 6 and next(iter(each.report(table))) == "recall/a"
    assert one.shown == ("recall/a",) and other.shown == BayesTask.shown


@pytest.mark.parametrize(
    "cls, options", [(ClassifyTask, {"entropy": 0.5, "loss": "binary"}), (BayesTask, {"draws": 7, "anneal_steps": 3})]
)
def test_a_checkpoint_opens_without_arguments(cls: type[ClassifyTask], options: dict, tmp_path: Path) -> None:
    saved = task(cls, **options)
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path)
    trainer.strategy.connect(saved)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    opened = restore.task(tmp_path / "a.ckpt")
    assert type(opened) is cls
    assert {name: getattr(opened, name) for name in options} == options
    assert torch.equal(opened.net.layers[0].rho, saved.net.layers[0].rho)
