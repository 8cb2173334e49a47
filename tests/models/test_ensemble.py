"""Ensemble of several networks and a forest."""

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier

from alerce_early.experiments.ensemble import to_tensors
from alerce_early.models.ensemble import Ensemble, Forest, clamped_log
from tests.helpers.tiny import spec

LINEAR = {"_target_": "alerce_early.models.stamp_cnn.StampCNN", "layers": ["flatten"]}


def test_tensor_forest_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    columns = rng.choice(np.float32([-999, 0.1, 0.2, 0.3, 7]), (500, 4))  # many values equal or close to a split
    labels = (columns[:, 0] > 0.15).astype(int) + (columns[:, 1] * columns[:, 2] > 0.5) + rng.integers(0, 2, 500)
    grown = RandomForestClassifier(20, random_state=0).fit(columns[:250], labels[:250])
    options, tensors = to_tensors(grown, [0, 1, 2, 3])
    forest = Forest(**options, classes=len(grown.classes_))
    forest.load_state_dict(tensors)
    found = forest(torch.from_numpy(columns)).numpy()
    assert np.abs(found - grown.predict_proba(columns)).max() < 1e-6
    assert np.ptp(found, axis=0).min() > 0.5


def test_value_equal_to_a_split_follows_scikit_learn() -> None:
    """A tree splits at the midpoint, which between adjacent float32 is a float64 that rounds to one of them."""
    lows = np.float32([3.3, 3.7, 7.7, -3.3, -7.9, 2001.3])
    for low, high in ((np.float32(0), np.float32(2)), *zip(lows, np.nextafter(lows, np.float32(np.inf)), strict=True)):
        grown = RandomForestClassifier(5, random_state=0).fit([[low], [high]] * 10, [0, 1] * 10)
        options, tensors = to_tensors(grown, [0])
        forest = Forest(**options, classes=2)
        forest.load_state_dict(tensors)
        columns = np.float32([[low], [low / 2 + high / 2], [high]])
        wanted = grown.predict_proba(columns)
        assert wanted[0, 0] > wanted[2, 0]
        assert np.allclose(forest(torch.from_numpy(columns)).numpy(), wanted, atol=1e-6)


def test_members_are_averaged_geometrically() -> None:
    net = Ensemble(spec(shape=(1, 4, 4)), [{"net": LINEAR}] * 2).eval()
    batch = {"image": torch.randn(5, 1, 4, 4)}
    one, other = (member.net(batch).log_softmax(1) for member in net.members)
    assert torch.allclose(net(batch), (one + other) / 2, atol=1e-5) and not torch.allclose(one, other, atol=1e-2)


def test_forest_log_probabilities_are_added() -> None:
    small = {"trees": 1, "nodes": 3, "depth": 1}
    net = Ensemble(spec(("fwhm",), shape=(1, 4, 4)), [{"net": LINEAR}], small).eval()
    known = {"column": [0, 0, 0], "threshold": [2.0, 0.0, 0.0], "below": [1, 1, 2], "above": [2, 1, 2]}
    shares = [[1 / 3] * 3, [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]
    weights = {name: torch.tensor(values) for name, values in {**known, "probabilities": shares, "root": [0]}.items()}
    net.forest.load_state_dict(weights)
    batch = {"image": torch.randn(2, 1, 4, 4), "features": torch.tensor([[2.0], [2.1]])}
    wanted = net.members[0].net(batch).log_softmax(1) + clamped_log(torch.tensor(shares[1:]))
    assert torch.allclose(net(batch), wanted, atol=1e-5)


def test_member_gets_only_its_own_columns() -> None:
    columns = ("fwhm", "rb", "magpsf")
    own = {"features": ["magpsf", "fwhm"], "feature_mean": [18.0, 2.0], "feature_std": [1.0, 1.0]}
    member = {"net": {"_target_": "alerce_early.models.stamp_classifier.StampClassifier"}, **own}
    net = Ensemble(spec(columns), [member]).eval()
    seen: list[torch.Tensor] = []
    net.members[0].net.metadata.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net({"image": torch.rand(1, 3, 21, 21), "features": torch.tensor([[2.5, 0.9, 17.0]])})
    assert seen[0].tolist() == [[-1.0, 0.5]]


def test_probabilities_are_clamped_before_the_logarithm() -> None:
    net = Ensemble(spec(("fwhm",), shape=(1, 4, 4)), [{"net": LINEAR}], {"trees": 1, "nodes": 1, "depth": 0}).eval()
    net.forest.probabilities.copy_(torch.tensor([[0.999, 0.001, 0.0]]))
    batch = {"image": torch.randn(2, 1, 4, 4), "features": torch.zeros(2, 1)}
    added = net(batch) - net.members[0].net(batch).log_softmax(1)
    assert torch.allclose(added, torch.tensor([0.999, 1e-3, 1e-4]).log(), atol=1e-4)
