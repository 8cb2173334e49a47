"""Relevance: one layer by hand, conservation in whole networks, and equivariance under rotation."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.construct import module_class
from alerce_early.data.recipe import Recipe
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.experiments.config import to_plain
from alerce_early.experiments.explain import name_channels, write_relevance
from alerce_early.experiments.run import train
from alerce_early.models.relevance import Relevance, explain
from tests.helpers.tiny import spec

NETS = ("rotinv.RotInv", "stamp_classifier.StampClassifier", "rotinv.DeepHiTS")


def known(features: int = 0) -> DataSpec:
    mean, std = tuple(float(i) for i in range(features)), (2.0,) * features
    return spec(tuple(f"column{i}" for i in range(features)), feature_mean=mean, feature_std=std)


def network(name: str, features: int = 0) -> nn.Module:
    """Return a network with non-zero biases and batch statistics, as after training."""
    torch.manual_seed(0)
    net = module_class(f"alerce_early.models.{name}")(known(features)).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.uniform_(module.bias, -0.1, 0.1)
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.bias.data.uniform_(-0.5, 0.5)
    return net


def batch(features: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    image = torch.randn(4, 3, 21, 21, generator=random)
    return {"image": image, "features": torch.randn(4, features, generator=random)}


def total(found: Relevance) -> Tensor:
    return sum((part.flatten(1).sum(1) for part in found.parts.values()), found.biases)


class One(nn.Module):
    """One layer: logit = 2 a - b + c / 2 + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.layer.weight.data, self.layer.bias.data = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([1.0])

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.layer(batch["image"])


def test_one_layer_by_hand() -> None:
    net, stamp = One().eval(), torch.tensor([[1.0, 3.0, 4.0]])  # 2 - 3 + 2 + 1 = 2
    plain = explain(net, {"image": stamp}, "epsilon")
    assert torch.allclose(plain.parts["image"], torch.tensor([[2.0, -3.0, 2.0]]), atol=1e-5)
    assert plain.biases.item() == pytest.approx(1, abs=1e-5) and plain.logit.item() == pytest.approx(2)
    # positive: 2 + 2 + 1 = 5, shares twice the logit; negative: 3, shares minus the logit
    apart = explain(net, {"image": stamp}, "alpha_beta")
    assert torch.allclose(apart.parts["image"], torch.tensor([[2 * 2 / 5 * 2, -2.0, 2 * 2 / 5 * 2]]))
    assert apart.biases.item() == pytest.approx(2 * 1 / 5 * 2)
    # without negative contributions the positive ones share the whole logit, 2 + 1
    alone = explain(net, {"image": torch.tensor([[1.0, 0.0, 0.0]])}, "alpha_beta")
    assert torch.allclose(alone.parts["image"], torch.tensor([[2.0, 0.0, 0.0]])) and alone.biases.item() == 1


@pytest.mark.parametrize("rule", ("epsilon", "alpha_beta"))
@pytest.mark.parametrize("name", (*NETS, "logarithms"))
def test_relevance_sums_to_the_logit(name: str, rule: str) -> None:
    features = 0 if name in (NETS[0], NETS[2]) else 5
    net = network(NETS[1] if name == "logarithms" else name, features)
    net.logarithms = name == "logarithms"
    neutral = {"features": net.neutral} if features else {}
    found = explain(net, batch(features), rule, neutral)
    with torch.no_grad():
        logit, predicted = net(batch(features)).max(1)
    assert torch.allclose(found.logit, logit) and torch.equal(found.predicted, predicted)
    assert (total(found) - logit).abs().max() < 1e-3 * logit.abs().max()
    assert found.parts["image"].abs().sum() > 0 and (found.biases.abs() > 1e-3).any()


def test_without_biases_pixels_have_all_relevance() -> None:
    net = network("rotinv.RotInv")
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.zeros_(module.bias)
    found = explain(net, batch(), "epsilon")
    assert found.biases.abs().max() == 0
    assert torch.allclose(found.parts["image"].sum((1, 2, 3)), found.logit, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rule", ("epsilon", "alpha_beta"))
@pytest.mark.parametrize("name", NETS[:2])
def test_the_map_turns_with_the_stamp(name: str, rule: str) -> None:
    net, straight = network(name), batch()
    turned = straight | {"image": straight["image"].rot90(1, (2, 3))}
    maps = [explain(net, one, rule).parts["image"] for one in (straight, turned)]
    assert (maps[0].rot90(1, (2, 3)) - maps[1]).abs().max() < 1e-3 * maps[0].abs().max()
    assert (maps[0] - maps[1]).abs().max() > 0.1 * maps[0].abs().max()  # the maps do differ before rotation


def test_map_finds_the_decisive_pixel() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 2))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = net

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.layers(batch["image"])

    net[1].weight.data.zero_()
    net[1].weight.data[:, 4] = 1.0
    found = explain(Net().eval(), {"image": torch.ones(1, 1, 3, 3)}, "epsilon")
    assert (found.parts["image"].flatten() != 0).nonzero().flatten().tolist() == [4]


def test_a_row_does_not_depend_on_its_batch() -> None:
    net, rows = network(NETS[0]), batch()
    alone = explain(net, {"image": rows["image"][2:3]})
    assert torch.allclose(explain(net, rows).parts["image"][2:3], alone.parts["image"], rtol=1e-3, atol=1e-4)
    assert torch.allclose(explain(net, rows).biases[2:3], alone.biases, rtol=1e-3, atol=1e-4)


def test_errors() -> None:
    with pytest.raises(InputError, match=r"--rule gradient: .*alpha_beta, epsilon"):
        explain(network(NETS[0]), batch(), "gradient")
    with pytest.raises(InputError, match=r"Sequential.*Sigmoid"):
        explain(nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()).eval(), {"image": torch.ones(1, 3)})


def test_pictures_of_a_run(quick, tmp_path: Path) -> None:
    run = train(quick("model=stamp_classifier", "trainer.max_epochs=1", "data.batches_per_epoch=1"), tmp_path / "run")
    object_ = str(predictions.read(run.predictions)["id"][0])
    files = write_relevance(Run.find(run.path), [object_], tmp_path / "out", "alpha_beta")
    assert files and all(file.stat().st_size > 10_000 and object_ in file.name for file in files)
    with pytest.raises(InputError, match="--id nobody"):
        write_relevance(Run.find(run.path), ["nobody"], tmp_path / "out", "epsilon")


def test_every_input_channel_has_a_name(composed) -> None:
    recipe = Recipe(to_plain(composed("recipe=two_scales").recipe.steps))
    names = name_channels(("science", "template", "difference"), recipe)
    assert names[3:6] == ["no data", "science, whole", "template, whole"]
    assert len(names) == recipe(torch.rand(1, 3, 63, 63)).shape[1] == 8
