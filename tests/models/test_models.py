"""Networks: exact parameter counts, and invariance under rotation of the input."""

import numpy as np
import pytest
import torch

from alerce_early.errors import InputError
from alerce_early.experiments.instantiate import make_data
from alerce_early.models.rotinv import N_ROTATIONS, DeepHiTS, RotInv, cyclic_mean, rotate_quarters
from alerce_early.models.stamp_classifier import StampClassifier
from alerce_early.models.stamp_cnn import StampCNN
from tests.helpers.tiny import spec


@pytest.mark.parametrize(
    ("kernel", "size", "filters"), ((3, 21, 32), (3, 25, 32), (5, 21, 32), (5, 25, 32), (3, 21, 16))
)
def test_rotinv_is_invariant_under_quarter_turns(kernel: int, size: int, filters: int) -> None:
    torch.manual_seed(0)
    net = RotInv(spec(shape=(3, size, size)), kernel=kernel, filters=filters).eval()
    image = torch.rand(8, 3, size, size)
    z = net({"image": image})
    assert z.std(0).min() > 1e-3  # not invariant by ignoring its input
    for turn in range(1, N_ROTATIONS):
        assert (net({"image": image.rot90(turn, (2, 3))}) - z).abs().max() <= 1e-5


def test_rotinv_equals_the_published_model() -> None:
    """Reyes et al. 2018: four rotated copies through the same layers, and the mean output of the dense ones.

    Any symmetric pooling is invariant, so invariance cannot distinguish a mean from a maximum.
    """
    torch.manual_seed(0)
    net = RotInv(spec()).eval()
    weights = iter(list(net.parameters()))
    layers = [(next(weights).numpy(force=True), next(weights).numpy(force=True)) for _ in range(8)]
    image = torch.rand(3, 3, 21, 21).numpy()
    seen = []
    for turn in range(4):
        x = np.pad(np.rot90(image, turn, (2, 3)), [(0, 0), (0, 0), (3, 3), (3, 3)])
        for i, (kernel, bias) in enumerate(layers[:5]):
            x = np.maximum(correlate(x if i == 0 else np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)]), kernel, bias), 0)
            if i in (1, 4):
                n, channels, side, _ = x.shape
                x = x.reshape(n, channels, side // 2, 2, side // 2, 2).max((3, 5))
        x = x.reshape(len(x), -1)
        for matrix, bias in layers[5:7]:
            x = np.maximum(x @ matrix.T + bias, 0)
        seen.append(x)
    assert np.ptp(seen, axis=0).max() > 1e-3  # the four rotations differ
    matrix, bias = layers[7]
    expected = sum(seen) / 4 @ matrix.T + bias
    assert net({"image": torch.from_numpy(image)}).numpy(force=True) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", (RotInv, StampClassifier))
def test_dropout_is_after_every_hidden_dense_layer(kind: type[RotInv] | type[StampClassifier]) -> None:
    net = kind(spec(("fwhm",)), dropout=0.3)
    layers = list(net.modules())
    dense = [i for i, layer in enumerate(layers) if isinstance(layer, torch.nn.Linear)][:-1]
    assert len(dense) == (2 if kind is RotInv else 3)
    assert all(isinstance(layers[i + 2], torch.nn.Dropout) and layers[i + 2].p == 0.3 for i in dense)


def test_deep_hits_concatenates_four_rotations() -> None:
    """Cabrera-Vives et al. 2017."""
    torch.manual_seed(0)
    net = DeepHiTS(spec()).eval()
    image = torch.rand(3, 3, 21, 21)
    turns = [net.trunk(image.rot90(turn, (2, 3))) for turn in range(N_ROTATIONS)]
    assert torch.allclose(net({"image": image}), net.head(torch.cat(turns, 1)), atol=1e-5)
    kinds = [type(layer).__name__ for layer in net.modules()]
    assert kinds.count("LeakyReLU") == 7 and "ReLU" not in kinds


def correlate(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(N, I, S, S) with kernel (O, I, K, K): (N, O, S - K + 1, S - K + 1)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (2, 3))
    return np.einsum("nihwab,oiab->nohw", windows, kernel, optimize=True) + bias[:, None, None]


@pytest.mark.parametrize("features", (0, 23))
def test_stamp_classifier_is_invariant_under_quarter_turns(features: int) -> None:
    torch.manual_seed(0)
    net = StampClassifier(spec(tuple(f"column{i}" for i in range(features)))).eval()
    batch = {"image": torch.rand(8, 3, 21, 21), "features": 100 + 10 * torch.randn(8, features)}
    z = net(batch)
    assert z.std(0).min() > 1e-3
    assert (net(batch | {"image": batch["image"].rot90(1, (2, 3))}) - z).abs().max() <= 1e-5
    other = {"features": batch["features"].flip(0)}
    assert not features or (net(batch | other) - z).abs().max() > 1e-3


def test_stamp_classifier_standardises_features() -> None:
    torch.manual_seed(0)
    net = StampClassifier(spec(("one", "other"))).eval()
    seen: list[torch.Tensor] = []
    net.metadata.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net({"image": torch.rand(1, 3, 21, 21), "features": torch.tensor([[110.0, 81.0]])})
    assert seen[0].tolist() == [[1.0, -2.0]]


def test_stamp_classifier_takes_signed_logarithms() -> None:
    net = StampClassifier(spec(("count", "latitude")), logarithms=True).eval()
    seen: list[torch.Tensor] = []
    net.metadata.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net({"image": torch.rand(2, 3, 21, 21), "features": torch.tensor([[3000.0, -9.0], [0.0, 0.0]])})
    assert seen[0].tolist() == [[pytest.approx(np.log(3001)), pytest.approx(-np.log(10))], [0, 0]]


@pytest.mark.parametrize(("logarithms", "mean"), ((False, 0.0), (True, np.log(3.5))))
def test_value_missing_only_at_prediction_becomes_the_mean(logarithms: bool, mean: float) -> None:
    known = spec(("rare", "often", "seldom"), feature_mean=(2.5, -300.0, 2.5), feature_std=(0.5, 450.0, 50.0))
    net = StampClassifier(known, logarithms=logarithms).eval()
    seen: list[torch.Tensor] = []
    net.metadata.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net({"image": torch.rand(1, 3, 21, 21), "features": torch.tensor([[-999.0, -999.0, -999.0]])})
    often = -np.log(1000) if logarithms else -699 / 450
    assert seen[0].tolist() == [[pytest.approx(mean), pytest.approx(often), pytest.approx(mean)]]


def test_same_padding_of_even_kernels_is_as_in_keras() -> None:
    net = StampCNN(spec(shape=(1, 4, 4), classes=("a",)), ["conv 1 2 same", "flatten"])
    convolution = net.layers[0]
    image = torch.rand(1, 1, 4, 4)
    padded = torch.nn.functional.pad(image, (0, 1, 0, 1))
    expected = torch.nn.functional.conv2d(padded, *convolution[1].parameters())
    assert torch.allclose(convolution(image), expected)


@pytest.mark.parametrize("layer", ("convolution 3", "conv 3", "conv 8 3 full", "dense many", "relu 3"))
def test_unknown_layer_is_named(layer: str) -> None:
    with pytest.raises(InputError, match=f"layers: '{layer}'"):
        StampCNN(spec(), [layer])


def test_stamps_too_small_for_the_layers_are_rejected() -> None:
    with pytest.raises(InputError, match="layers"):
        StampCNN(spec(shape=(3, 4, 4)), ["conv 8 7", "flatten"])


def test_a_plain_net_is_not_invariant() -> None:
    torch.manual_seed(0)
    net = StampCNN(spec(), ["conv 8 3", "relu", "flatten"]).eval()
    image = torch.rand(8, 3, 21, 21)
    assert (net({"image": image.rot90(1, (2, 3))}) - net({"image": image})).abs().max() > 1e-3


def test_rotations_and_their_mean_keep_rows_separate() -> None:
    image = torch.rand(5, 2, 4, 4)
    turned = rotate_quarters(image)
    assert turned.shape == (20, 2, 4, 4) and torch.equal(turned[5:10], image.rot90(1, (2, 3)))
    means = cyclic_mean(turned.flatten(1).sum(1, keepdim=True))
    assert torch.allclose(means[:, 0], image.sum((1, 2, 3)))


def test_incompatible_net_and_task_are_rejected() -> None:
    with pytest.raises(InputError, match=r"RotInv.*model=spectra_class"):
        RotInv(spec(kind="spectra"))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("model=rotinv", "data=sdss"), "data=sdss contains spectra, but RotInv needs stamps.*model=spectra_class"),
        (
            ("model=spectra_class", "data=alerce"),
            "data=alerce contains stamps, but SpectraClass needs spectra.*model=rotinv",
        ),
    ],
)
def test_incompatible_pair_is_rejected_before_data_are_read(composed, pair: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_data(composed(*pair))
