"""Training on a handful of tiny pairs whose geometry is exact and whose renders are blurred."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from difix3d_ns.errors import UserError
from difix3d_ns.fixers.embedded import load as load_embedded
from difix3d_ns.training.pairs import PairSet, find_pairs, read_pair
from difix3d_ns.training.recipe import Phase, Recipe, load_recipe
from difix3d_ns.training.train_fixer import picture_loss, train_fixer
from tests.unit.test_fixer_networks import CHAIN
from tests.unit.test_geometry_warp import camera_at, photograph

RECIPE = Recipe(
    chain=CHAIN,
    phases=(Phase(("blend",), steps=30, learning_rate=3e-3), Phase(("difix", "gate"), steps=12, learning_rate=3e-3)),
    crop=48,
    batch=2,
    reference_dropout=0.1,
    ema=0.9,
)


def to_bytes(values: torch.Tensor) -> np.ndarray:
    return (values * 255).round().byte().numpy()


def write_pair(path: Path, x: float, y: float, stripes: float) -> None:
    """Striped scene; the render lacks the stripes that the references show."""

    def textured(x: float, y: float):
        reference, points = photograph(camera_at(x, y, width=64, height=56))
        return (reference.image + 0.2 * torch.sin(stripes * points[..., :1])).clamp(0, 1), reference

    truth, target = textured(x, y)
    render = F.avg_pool2d(truth.permute(2, 0, 1), 5, 1, 2, count_include_pad=False).permute(1, 2, 0)
    references = [textured(x + dx, y + dy) for dx, dy in ((0.2, 0.0), (-0.2, 0.1), (0.0, 0.2), (0.1, -0.1))]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        image=(render * 65535).round().numpy().astype(np.uint16),
        truth=to_bytes(truth),
        depth=target.depth[..., 0].numpy().astype(np.float16),
        alpha=to_bytes(target.alpha[..., 0]),
        camera_to_world=target.camera.camera_to_world.numpy(),
        intrinsics=target.camera.intrinsics.numpy(),
        ref_image=np.stack([to_bytes(image) for image, _ in references]),
        ref_depth=np.stack([r.depth[..., 0].numpy().astype(np.float16) for _, r in references]),
        ref_alpha=np.stack([to_bytes(r.alpha[..., 0]) for _, r in references]),
        ref_camera_to_world=np.stack([r.camera.camera_to_world.numpy() for _, r in references]),
        ref_intrinsics=np.stack([r.camera.intrinsics.numpy() for _, r in references]),
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small lose more to waiting for threads than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    for i in range(4):
        write_pair(root / "scene" / "full" / f"{i:04d}.npz", 0.1 * i, 0.0, 12.0)
    for i in range(2):
        write_pair(root / "val_scene" / "full" / f"{i:04d}.npz", 0.1 * i, 0.1, 15.0)
    return root


@pytest.fixture(scope="module")
def trained(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    train_fixer(RECIPE, output, pairs)
    return output


def test_pairs_are_read_as_written(pairs: Path):
    training, validation = find_pairs(pairs)
    assert (len(training), len(validation)) == (4, 2)
    request, truth = read_pair(training[0])
    assert request.image.shape == truth.shape == (56, 64, 3)
    assert len(request.references) == 4
    assert 1 < request.depth.min() < request.depth.max() < 10


def test_crops_are_aligned(pairs: Path):
    """Visible warps resemble the truth far more than another crop would."""
    batch = PairSet(find_pairs(pairs)[0]).draw(8, 32, 0.0, torch.Generator().manual_seed(0))
    sure = (batch.visibility[:, 0] > 0.9).expand_as(batch.truth)
    error = (batch.warps[:, 0] - batch.truth).abs()[sure].mean()
    assert error < 0.04
    assert error < 0.5 * (batch.image - batch.truth).abs()[sure].mean()


def test_training_lowers_the_loss_and_beats_identity_on_unseen_scenes(trained: Path):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics) == {"identity", "blend", "fixed", "fixed_without_diffusion"}
    assert metrics["fixed_without_diffusion"]["psnr"] > metrics["identity"]["psnr"] + 1
    assert metrics["fixed"]["psnr"] > metrics["identity"]["psnr"] + 1
    assert metrics["fixed"]["flip"] < metrics["identity"]["flip"]


def test_both_phases_learn(pairs: Path, tmp_path: Path):
    recipe = replace(RECIPE, phases=tuple(replace(phase, steps=100) for phase in RECIPE.phases), crop=32)
    train_fixer(recipe, tmp_path, pairs)
    losses = json.loads((tmp_path / "losses.json").read_text())
    for phase in (0, 1):
        mine = [row["loss"] for row in losses if row["phase"] == phase]
        assert len(mine) == 2
        assert mine[-1] < 0.97 * mine[0]


def test_weights_load_as_a_fixer(trained: Path, pairs: Path):
    request, truth = read_pair(find_pairs(pairs)[1][0])
    (result,) = load_embedded(str(trained)).fix([request])
    before, after = (
        picture_loss(p.permute(2, 0, 1)[None], truth.permute(2, 0, 1)[None]) for p in (request.image, result.image)
    )
    assert after < before


@pytest.mark.parametrize("interruption", [10, 30, 35])
def test_resume_equals_uninterrupted(trained: Path, pairs: Path, tmp_path: Path, interruption: int):
    assert train_fixer(RECIPE, tmp_path, pairs, stop_after=interruption) == {}
    assert not (tmp_path / "weights.safetensors").exists()
    torch.rand(3)  # the global generator plays no part
    train_fixer(RECIPE, tmp_path, pairs)
    whole, resumed = (load_file(folder / "weights.safetensors") for folder in (trained, tmp_path))
    for key in whole:
        assert torch.equal(whole[key], resumed[key]), key


def test_time_limit_ends_training(pairs: Path, tmp_path: Path):
    recipe = replace(RECIPE, phases=tuple(replace(phase, steps=10**6) for phase in RECIPE.phases), max_minutes=0.02)
    assert train_fixer(recipe, tmp_path, pairs)["fixed"]["psnr"] > 10


def test_mistakes_are_named(pairs: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"no recipe nonsense.*embedded"):
        load_recipe("nonsense")
    (tmp_path / "bad.yaml").write_text("chain: {}\nphases: []\nstepps: 3\n")
    with pytest.raises(UserError, match=r"bad\.yaml.*stepps"):
        load_recipe(tmp_path / "bad.yaml")
    with pytest.raises(UserError, match="no pairs in"):
        train_fixer(RECIPE, tmp_path / "out", tmp_path)
    broken = tmp_path / "pairs" / "scene" / "full" / "0000.npz"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"PK half a file")
    with pytest.raises(UserError, match=r"0000\.npz"):
        train_fixer(RECIPE, tmp_path / "out", tmp_path / "pairs")
    other = tmp_path / "other"
    train_fixer(RECIPE, other, pairs, stop_after=1)
    with pytest.raises(UserError, match="another recipe"):
        train_fixer(replace(RECIPE, seed=5), other, pairs)


def test_shipped_recipes_are_valid():
    for name in ("embedded", "smoke"):
        assert load_recipe(name).phases
