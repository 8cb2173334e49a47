"""Generator: likelihood and divergence, training, output files, and their use as additional rows."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alerce_early import generate
from alerce_early.artifacts.run_folder import Run
from alerce_early.data import splits
from alerce_early.data.readers import hits, stamps_file
from alerce_early.data.recipe import Recipe
from alerce_early.errors import InputError
from alerce_early.experiments import generate as generation
from alerce_early.experiments.instantiate import make_data, make_task
from alerce_early.experiments.run import train
from alerce_early.models.vae import Encoding, Pixels, StampVAE
from tests.helpers.tiny import spec


@pytest.mark.parametrize("shape", ((3, 21, 21), (4, 21, 21), (1, 16, 16), (2, 33, 33)))
def test_any_channels_and_size(shape: tuple[int, ...]) -> None:
    net = StampVAE(spec(shape=shape), latent=5, width=4)
    batch = {"image": torch.randn(6, *shape), "label": torch.arange(6) % 3}
    coded = net(batch)
    assert coded.mean.shape == coded.log_variance.shape == (6, 5) and coded.kl().shape == (6,)
    assert coded.pixels.mean.shape == coded.pixels.scale.shape == (6, *shape)
    assert net.generate(batch["label"]).shape == (6, *shape)
    assert net.generate(batch["label"], size=63).shape == (6, shape[0], 63, 63)
    (coded.pixels.nll(batch["image"]) + coded.kl()).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_moments_of_codes_are_exact_in_mixed_precision() -> None:
    code, label = torch.randn(60, 5), torch.arange(60) % 3
    nets = [StampVAE(spec(), latent=5, width=4) for _ in range(2)]
    nets[0]._update_moments(code, label)
    with torch.autocast("cpu", torch.bfloat16):
        nets[1]._update_moments(code, label)
    assert torch.equal(nets[0].code_mean, nets[1].code_mean)
    assert torch.equal(nets[0].code_square, nets[1].code_square)


def test_divergence_equals_that_of_torch() -> None:
    mean, log_variance = torch.randn(4, 7), torch.randn(4, 7)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    zero = torch.zeros(4, 1, 2, 2)
    assert torch.allclose(Encoding(mean, log_variance, Pixels(zero, zero, zero)).kl(), expected, atol=1e-5)


def pixels(n: int) -> tuple[Pixels, torch.distributions.MultivariateNormal]:
    """Return a likelihood with correlated channels, and the same as a distribution of torch over (n, S, S, 3)."""
    mean, scale, mix = torch.randn(n, 3, 2, 2), 0.2 + torch.rand(n, 3, 2, 2), torch.randn(n, 3, 2, 2)
    root = torch.zeros(n, 2, 2, 3, 3)
    root[..., 0, 0] = root[..., 1, 1] = root[..., 2, 2] = 1.0
    root[..., 1, 0], root[..., 2, 0], root[..., 2, 1] = mix.unbind(1)
    # channels in the order of sampling: channel 2 depends on the noise of 0 and 1
    return Pixels(mean, scale, mix), torch.distributions.MultivariateNormal(
        mean.movedim(1, -1), scale_tril=scale.movedim(1, -1)[..., None] * root
    )


def test_likelihood_equals_torch_without_missing_pixels() -> None:
    ours, theirs = pixels(5)
    image = torch.randn(5, 3, 2, 2)
    each = -theirs.log_prob(image.movedim(1, -1)) / 3
    assert torch.allclose(ours.nll(image), each.mean((1, 2)), atol=1e-4)
    image[:, 1, 0, 0] = torch.nan
    assert torch.allclose(ours.nll(image), each.flatten(1)[:, 1:].mean(1), atol=1e-4)
    assert (ours.nll(torch.full_like(image, torch.nan)) == 0).all()


def test_draws_have_the_covariance_of_the_likelihood() -> None:
    torch.manual_seed(0)
    ours, theirs = pixels(1)
    many = Pixels(*(part.expand(40_000, -1, -1, -1) for part in (ours.mean, ours.scale, ours.mix))).sample()
    found = torch.cov(many[:, :, 0, 0].T)
    expected = theirs.covariance_matrix[0, 0, 0]
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_moments_of_codes_are_kept_by_class() -> None:
    torch.manual_seed(0)
    net = StampVAE(spec(shape=(1, 16, 16), classes=("a", "b")), latent=2, width=4)
    label = torch.arange(256) % 2
    centre = torch.tensor([[3.0, 0.0], [-3.0, 1.0]])
    for _ in range(800):
        net._update_moments(centre[label] + 0.5 * torch.randn(256, 2), label)
    assert (net.code_mean - centre).abs().max() < 0.1
    covariance = net.code_square - net.code_mean[:, :, None] * net.code_mean[:, None, :]
    assert (covariance - 0.25 * torch.eye(2)).abs().max() < 0.1


def test_recipe_can_be_undone(composed: Any, survey: dict[str, Any]) -> None:
    whole = [image for image in survey["images"] if image.shape == (63, 63, 3) and np.isfinite(image).all()][:8]
    raw = torch.from_numpy(np.stack(whole).astype(np.float32)).movedim(-1, 1)
    recipe = Recipe(composed("recipe=invertible", "recipe.size=63").recipe.steps)
    seen = recipe(raw)
    assert (recipe(recipe.undo(seen)) - seen).abs().max() < 1e-3
    with pytest.raises(InputError, match=r"MinMax.*recipe=invertible"):
        Recipe(composed("recipe=minmax").recipe.steps).undo(seen)


def test_generator_overfits_16_rows(quick: Any) -> None:
    config = quick("model=stamp_vae")
    data = make_data(config)
    data.setup()
    torch.manual_seed(0)
    task = make_task(config, data.spec)
    batch = data.rows[data.parts["train"][:16]]
    optimizer = torch.optim.Adam(task.net.parameters(), 2e-3)

    def error() -> float:
        task.eval()
        with torch.no_grad():
            value = float(task.outputs(task.net(batch), batch)["reconstruction"].mean())
        task.train()
        return value

    before = error()
    for _ in range(150):
        loss = task.losses(task.net(batch), batch)["nll"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error() < 0.6 * before


def test_generated_hits_file_can_be_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(4, 21, 21, 4)).astype(np.float32)
    file = tmp_path / "hits.pkl"
    file.write_bytes(pickle.dumps(hits.to_raw(images, ["real", "artefact"] * 2, list("abcd"))))
    records = hits.read(file, extra_path=file, channels=("sci", "diff"))
    assert np.array_equal(np.stack(list(records.images[:4])), images[..., 1:3])
    assert records.labels.tolist() == [1, 0] * 4 and records.part.tolist() == [""] * 4 + ["extra"] * 4  # type: ignore[union-attr]


def test_extra_rows_are_not_validation_rows() -> None:
    part = np.array(["train"] * 60 + ["test"] * 20 + ["extra"] * 40)
    labels, ids = np.arange(120) % 2, np.arange(120).astype(str)
    parts = splits.apply_prescribed(part, labels, ids, ("a", "b"), validation=5)
    assert (parts[80:] == splits.TRAIN).all() and (parts[60:80] == splits.TEST).all()
    assert (parts[:60] == splits.VALIDATION).sum() == 10


@pytest.mark.parametrize("fold", (0, 1))
def test_extra_rows_of_held_out_objects_are_not_used(fold: int) -> None:
    """Objects are matched by name and, because `AlertData.objects` are split, by position."""
    ids = np.array([f"object{i % 40}" for i in range(120)])  # two rows in the file and one extra row per object
    part, labels = np.array([""] * 80 + ["extra"] * 40), np.arange(120) % 2
    parts = splits.apply_prescribed(part, labels, ids, ("a", "b"), validation=5, folds=2, fold=fold)
    trained = set(ids[parts == splits.TRAIN])
    assert trained and not trained & set(ids[(parts == splits.TEST) | (parts == splits.VALIDATION)])
    assert (parts[80:] == splits.TRAIN).sum() == len(trained)


@pytest.fixture(scope="module")
def trained(composed: Any, stamps_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run of a generator, trained for two short epochs."""
    outputs = tmp_path_factory.mktemp("generator")
    config = composed(
        *("data=alerce", f"data.path={stamps_file}", f"outputs={outputs}", "model=stamp_vae", "model.net.width=8"),
        *("trainer.max_epochs=2", "data.batches_per_epoch=10"),
    )
    return train(config, outputs / "run")


def test_generator_run_has_metrics_and_figures(trained: Run) -> None:
    judged = json.loads((trained.path / "metrics.json").read_text())["test"]
    assert set(judged["values"]) == {"reconstruction", "kl", "nll"} and set(judged["by_class"]) == set(
        stamps_file.CLASSES
    )
    for part in (judged, *judged["by_class"].values()):
        assert all(part["intervals"][name][0] <= v <= part["intervals"][name][1] for name, v in part["values"].items())
    assert list(trained.pictures.glob("*.svg"))
    page = trained.page.read_text()
    assert "Model outputs" in page and "Least likely stamps" in page


@pytest.fixture(scope="module")
def generated(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated") / "sn.pkl"
    files = generation.generate(trained, ["SN", "VS"], 12, seed=0, out=out)
    assert files == (out, out.with_suffix(".png")) and all(file.exists() for file in files)
    return out


def test_generated_raw_file_can_be_read(generated: Path, composed: Any, tmp_path: Path) -> None:
    records = stamps_file.read(generated)
    assert records.images.shape == (24, 63, 63, 3) and np.isfinite(records.images).all()
    assert records.labels.tolist() == [1] * 12 + [2] * 12 and len(set(records.ids)) == 24
    for recipe in ("minmax", "crop_minmax", "joint", "two_scales"):
        config = composed("data=alerce", f"data.path={generated}", f"recipe={recipe}", f"outputs={tmp_path}")
        store = make_data(config).store
        assert store.meta["kept_by_class"] == [0, 12, 12, 0, 0] and np.isfinite(store.images).all()


def test_generated_sky_matches_real_stamps(trained: Run) -> None:
    stamps = generation.load(trained).generate(np.ones(32, dtype=np.int64), size=63)
    raw = generation.load(trained).recipe.undo(stamps)
    assert raw.flatten(2).median(2).values.abs().max() < 0.5
    assert torch.equal(stamps, generation.load(trained).generate(np.ones(32, dtype=np.int64), size=63))
    assert not torch.equal(stamps, generation.load(trained).generate(np.ones(32, dtype=np.int64), size=63, seed=1))


def test_extra_rows_are_for_training_only(generated: Path, quick: Any) -> None:
    without, having = make_data(quick()), make_data(quick(f"data.extra={generated}"))
    ids = {part: set(having.store.ids[rows]) for part, rows in having.parts.items()}
    extra = {name for name in having.store.ids if name.startswith("generated-")}
    assert len(extra) == 24 and extra <= ids["train"]
    for part, rows in without.parts.items():  # the split of the real rows does not change
        assert set(without.store.ids[rows]) == ids[part] - extra
    assert "24 more from file sn.pkl" in having.spec.origin


def test_incompatible_extra_rows_are_rejected(generated: Path, quick: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="metadata"):
        _ = make_data(quick(f"data.extra={generated}", "features.names=[fwhm]")).spec
    small = tmp_path / "small.pkl"
    small.write_bytes(pickle.dumps(stamps_file.to_raw(np.zeros((3, 21, 21, 3)), ["SN"] * 3, list("abc"))))
    with pytest.raises(InputError, match=r"its images are \(21, 21, 3\)"):
        _ = make_data(quick(f"data.extra={small}")).store


def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command and return its error, a single line."""
    monkeypatch.setattr(sys, "argv", ["generate", *arguments])
    with pytest.raises(SystemExit) as ended:
        generate.main()
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_errors_are_one_line(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(trained.path), tmp_path / "some.pkl"

    def said(*arguments: str) -> str:
        return ask(monkeypatch, capsys, *arguments, "--out", str(out))

    assert str(tmp_path) in said(str(tmp_path))
    assert said(run, "--class", "planet").endswith("AGN, SN, VS, asteroid, bogus.")
    assert "--n 0" in said(run, "--n", "0")
    assert not out.exists()
    out.write_text("mine")
    assert str(out) in said(run) and out.read_text() == "mine"
    monkeypatch.setattr(sys, "argv", ["generate", run, "--n", "1", "--out", str(out), "--overwrite"])
    generate.main()
    assert len(stamps_file.read(out)) == 5 and not list(tmp_path.glob(".*partial"))


def test_classifier_cannot_generate(finished_run: Run) -> None:
    with pytest.raises(InputError, match=r"preliminary_cnn.*model=stamp_vae"):
        generation.load(finished_run)


def test_pixels_of_the_lowest_number_do_not_stop_training(
    survey: dict[str, Any], tmp_path: Path, composed: Any
) -> None:
    """Some templates of the real files have it where science and difference are NaN."""
    images = [image.copy() for image in survey["images"]]
    for image in images[::20]:
        image[:28, :, [0, 2]], image[:28, :, 1] = np.nan, np.finfo(np.float32).min
    file = tmp_path / "stamps.pkl"
    file.write_bytes(pickle.dumps({**survey, "images": images}))
    limits = ("trainer.max_epochs=1", "data.batches_per_epoch=20", "model.net.width=8")
    config = composed("data=alerce", f"data.path={file}", f"outputs={tmp_path}", "model=stamp_vae", *limits)
    judged = json.loads((train(config, tmp_path / "run").path / "metrics.json").read_text())
    assert judged["stopped"] is None and np.isfinite(list(judged["test"]["values"].values())).all()
