"""Flipout layers against the distributions of their weights, and the columns of the Bayesian task."""

import html
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from alerce_early.artifacts import predictions
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.experiments.instantiate import make_data
from alerce_early.experiments.run import train
from alerce_early.models.flipout import FlipoutLinear, FlipoutMLP
from alerce_early.tasks import restore
from alerce_early.tasks.classify import BayesTask
from tests.helpers.tiny import spec

NET = {"_target_": "alerce_early.models.flipout.FlipoutMLP", "hidden": [8]}


SPEC = spec(shape=(2, 5, 5), classes=("artefact", "real"), n_train=10)


def layer(inputs: int = 6, outputs: int = 4, sigma: float = 0.5, **options) -> FlipoutLinear:
    torch.manual_seed(0)
    made = FlipoutLinear(inputs, outputs, **options)
    torch.nn.init.constant_(made.rho, torch.tensor(sigma).expm1().log().item())
    assert torch.allclose(made.sigma, torch.tensor(sigma))
    return made


def task(net: dict | None = None, groups: dict | None = None, **options) -> BayesTask:
    optim = {"optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3}, "groups": groups or {}, "schedule": None}
    return BayesTask(net or NET, SPEC.plain(), optim, {"margin": 0, "steps": []}, **options)


@pytest.mark.parametrize("prior_std", (1.0, 0.1))
def test_divergence_equals_that_of_torch_distributions(prior_std: float) -> None:
    made = layer(prior_std=prior_std)
    torch.nn.init.normal_(made.rho)
    expected = kl_divergence(Normal(made.mean, made.sigma), Normal(0.0, prior_std)).sum()
    assert torch.allclose(made.kl(), expected)


def test_divergence_counts_all_layers() -> None:
    net = FlipoutMLP(SPEC, hidden=(8, 8), prior_std=0.1)
    assert {part.prior_std for part in net.layers} == {0.1}
    assert torch.allclose(net.kl(), sum((part.kl() for part in net.layers), torch.tensor(0.0)))
    assert len(net.layers) == 3


def test_output_has_the_posterior_mean_and_variance_of_each_example() -> None:
    made, x = layer(), torch.rand(3, 6)
    n = 20_000
    with torch.no_grad():
        out = torch.stack([made(x) for _ in range(n)])
        expected_mean = torch.nn.functional.linear(x, made.mean, made.bias)
    expected_std = 0.5 * x.norm(dim=1, keepdim=True)
    assert ((out.mean(0) - expected_mean).abs() < 5 * expected_std / n**0.5).all()
    assert torch.allclose(out.std(0), expected_std.expand(3, 4), rtol=0.03)


def test_examples_of_a_batch_have_independent_noise() -> None:
    made, x = layer(outputs=1), torch.rand(1, 6).expand(2, 6)
    with torch.no_grad():
        out = torch.stack([made(x)[:, 0] for _ in range(5_000)])
    assert torch.corrcoef(out.T)[0, 1].abs() < 0.05  # one shared sample of the weights would give 1


def test_gradients_vary_less_than_with_one_sample_per_batch() -> None:
    made, x = layer(), torch.rand(64, 6)
    target = torch.randn(64, 4)

    def variance(output) -> float:
        gradients = []
        for _ in range(300):
            made.zero_grad()
            (output() - target).square().mean().backward()
            gradients.append(made.mean.grad.clone())
        return torch.stack(gradients).var(0).mean().item()

    def shared() -> torch.Tensor:
        weight = made.mean + made.sigma * torch.randn_like(made.sigma)
        return torch.nn.functional.linear(x, weight, made.bias)

    assert variance(lambda: made(x)) < 0.25 * variance(shared)


def test_draws_do_not_depend_on_the_batch() -> None:
    net = FlipoutMLP(SPEC).eval()
    image = torch.rand(7, 2, 5, 5)
    whole = net.logit_samples({"image": image}, 5)
    assert whole.shape == (5, 7, 2) and whole.std(0).min() > 0
    halves = [net.logit_samples({"image": part}, 5) for part in (image[:3], image[3:])]
    assert torch.allclose(torch.cat(halves, 1), whole, atol=1e-6)


def test_eval_mode_is_the_mean_weights() -> None:
    net = FlipoutMLP(SPEC)
    batch = {"image": torch.rand(3, 2, 5, 5)}
    assert not torch.equal(net(batch), net(batch))
    net.eval()
    assert torch.equal(net(batch), net(batch))


def test_columns_of_the_task() -> None:
    made = task(draws=50).eval()
    for part in made.net.layers:
        torch.nn.init.constant_(part.rho, 0.0)  # samples that disagree
    batch = {"image": torch.rand(9, 2, 5, 5)}
    with torch.no_grad():
        draws = made.net.logit_samples(batch, 50).softmax(2)
        columns = made.outputs(made.net(batch), batch)
    assert torch.allclose(columns["p_real"], draws[..., 1].mean(0))
    assert torch.allclose(columns["std_real"], draws[..., 1].std(0, correction=0))
    assert torch.allclose(columns["std_real"], columns["std_artefact"], atol=1e-6)
    expected = torch.distributions.Categorical(draws.mean(0)).entropy()
    assert torch.allclose(columns["entropy"], expected, atol=1e-5)
    votes = (draws[..., 1] > draws[..., 0]).float().mean(0)
    assert 0 < votes.mean() < 1 and torch.allclose(columns["vote_real"], votes)
    assert torch.allclose(columns["vote_artefact"], 1 - votes)
    of_means = torch.distributions.Categorical(logits=made.net(batch)).entropy()
    assert torch.allclose(columns["entropy_of_means"], of_means, atol=1e-5)
    information = columns["entropy"] - torch.distributions.Categorical(draws).entropy().mean(0)
    assert (information > 0.01).all() and torch.allclose(columns["mutual_information"], information, atol=1e-5)


def test_divergence_is_per_training_row_weighted_and_annealed(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = {"label": torch.tensor([0, 1])}
    z = torch.zeros(2, 2)
    losses = task().losses(z, batch)
    net = task().net
    assert torch.allclose(losses["loss"] - losses["cross_entropy"], losses["kl"])
    assert torch.isclose(losses["kl"] * 10, task().net.kl(), rtol=0.05) and len(net.layers) == 2
    weighed = task(kl_weight=0.25).losses(z, batch)
    assert torch.allclose(weighed["loss"] - weighed["cross_entropy"], 0.25 * weighed["kl"])
    begun = task(anneal_steps=100).losses(z, batch)  # step 0
    assert begun["loss"] == begun["cross_entropy"]
    monkeypatch.setattr(BayesTask, "global_step", 25)
    for made, weight in (
        (task(anneal_steps=100), 0.25),
        (task(anneal_steps=10), 1),
        (task(anneal_steps=100).eval(), 1),
    ):
        later = made.losses(z, batch)
        assert torch.allclose(later["loss"] - later["cross_entropy"], weight * later["kl"])


def test_posterior_widths_have_their_own_learning_rate() -> None:
    made = task(groups={"rho": {"lr": 0.1}})
    means, widths = made.configure_optimizers().param_groups
    assert (means["lr"], widths["lr"]) == (1e-3, 0.1)
    assert {id(weight) for weight in widths["params"]} == {id(part.rho) for part in made.net.layers}
    assert len(means["params"]) + len(widths["params"]) == len(list(made.net.parameters()))
    with pytest.raises(InputError, match="rhoo"):
        task(groups={"rhoo": {"lr": 0.1}}).configure_optimizers()


def test_equal_posterior_widths_give_a_warning() -> None:
    made = task(net=NET | {"prior_std": 0.1}, kl_weight=0.5)
    told = made.describe_posterior()
    assert "only 1.00 times" in told["warning"]
    assert told["kl"] == pytest.approx(made.net.kl().item() / 10) and (told["kl_weight"], told["prior_std"]) == (
        0.5,
        0.1,
    )
    torch.nn.init.normal_(made.net.layers[0].rho, std=2)
    told = made.describe_posterior()
    assert told["warning"] is None
    assert [(name, n) for name, n, *_ in told["widths"]] == [("all", 416), ("layer 1", 400), ("layer 2", 16)]
    assert told["widths"][1][3] == pytest.approx(made.net.layers[0].sigma.detach().quantile(0.5).item(), rel=1e-5)


def test_run_page_shows_posterior_samples(quick, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ("model=hits_flipout", "data=alerce", "model.task.draws=7", "optim.groups.rho.lr=1e-3")
    config = quick(*options, "trainer.max_epochs=1")
    run = train(config, tmp_path / "run")
    posterior = run.read_json("metrics.json")["posterior"]
    assert posterior["warning"] in caplog.text and "optim.groups.rho.lr" in posterior["warning"]
    page = html.unescape(run.page.read_text())
    assert "Uncertainty of the weights" in page and posterior["warning"] in page
    n = len(tables.select_split(predictions.read(run.predictions), "test")["row"])
    assert sorted(file.stem for file in run.pictures.glob("*.svg")) == [
        "Probability of each class over 7 draws of the weights, single test rows, the true class filled",
        f"Probability of the true class over 7 draws of the weights, {n} test rows",
    ]
    data = make_data(config)
    data.setup()
    rows, draws = restore.task(run.best).draw_predictions(data)
    written = predictions.read(run.predictions)
    shown = {row: i for i, row in enumerate(written["row"])}
    first = data.classes[0]
    assert np.allclose(draws[..., 0].mean(0), written[f"p_{first}"][[shown[row] for row in rows]], atol=1e-5)


def test_net_that_is_not_bayesian_is_rejected() -> None:
    with pytest.raises(InputError, match="RotInv"):
        task(net={"_target_": "alerce_early.models.rotinv.RotInv"})
