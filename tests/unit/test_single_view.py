"""Published depth of single photographs, fitted to what is known of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.data.procedural import demo_world, photograph_world
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.initialization.estimated_depths import PhotoDepthConfig, estimate_depths
from difix3d_ns.priors.base import Depth, DepthMap, State
from difix3d_ns.priors.single_view import MIN_POINTS, SingleViewDepth, fitted, load
from tests.unit.tiny_depth import write_single_view

pytestmark = pytest.mark.usefixtures("one_thread")


def known_of(depth: Tensor, every: int = 5, error: float = 0.0, wrong: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sparse = torch.zeros_like(depth)
    sparse[::every, ::every] = depth[::every, ::every]
    sparse = sparse * (error * torch.randn(depth.shape, generator=generator)).exp()
    return torch.where(torch.rand(depth.shape, generator=generator) < wrong, 3 * sparse, sparse)


def scene_depth() -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    return (2 + rows / 24 + (columns > 30) * 1.5)[..., None]


def test_scale_and_shift_are_found_in_inverse_depth() -> None:
    depth = scene_depth()
    found, spread = fitted(7 / depth + 3, known_of(depth))
    assert torch.allclose(found, depth, rtol=1e-3) and spread == pytest.approx(0.01)


def test_a_tenth_of_wrong_places_hardly_matters_and_errors_are_stated() -> None:
    depth = scene_depth()
    found, _ = fitted(7 / depth + 3, known_of(depth, wrong=0.1))
    assert float((found / depth).log().abs().median()) < 0.02
    noisy = depth * (0.05 * torch.randn(depth.shape, generator=torch.Generator().manual_seed(1))).exp()
    found, spread = fitted(7 / noisy + 3, known_of(depth, 3))
    assert 0.03 < spread < 0.09
    chance = DepthMap(found, torch.full_like(found, spread)).chance(0.05)
    right = ((found / depth).log().abs() < 0.05).float()
    assert float(chance.mean()) == pytest.approx(float(right.mean()), abs=0.15)


def test_nothing_is_stated_without_enough_or_against_the_network() -> None:
    depth = scene_depth()
    few = torch.zeros_like(depth)
    few[0, : MIN_POINTS - 1] = depth[0, : MIN_POINTS - 1]
    for inverse, known in ((1 / depth, few), (-1 / depth, known_of(depth))):
        found, spread = fitted(inverse, known)
        assert not found.any() and spread == float("inf")


def test_what_is_far_beyond_the_known_is_not_stated() -> None:
    depth = scene_depth()
    depth[:10] = 1000.0
    known = known_of(depth)
    known[:10] = 0
    found, _ = fitted(1 / depth, known)
    assert not found[:10].any() and (found[10:] > 0).all()


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_the_network_sees_what_its_files_say(kind: str, tmp_path: Path) -> None:
    """Beside a forward of ``transformers`` alone."""
    from transformers import AutoModelForDepthEstimation

    prior = load(str(write_single_view(tmp_path, kind)))
    assert isinstance(prior, SingleViewDepth)
    picture = torch.rand(48, 64, 3, generator=torch.Generator().manual_seed(2)).half().float()
    pixels = F.interpolate(picture.permute(2, 0, 1)[None], (56, 70), mode="bicubic", antialias=True).clamp(0, 1)
    mean, deviation = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.229, 0.224, 0.225])
    net = AutoModelForDepthEstimation.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = net(pixel_values=(pixels - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)).predicted_depth
    expected = F.interpolate(expected[None], (48, 64), mode="bilinear")[0, 0]
    found = prior._inverse(picture)[..., 0].detach()
    torch.testing.assert_close(1 / found if kind == "metric" else found, expected, atol=1e-5, rtol=1e-4)
    assert float(expected.std()) > 0


class _Recorded(Depth):
    """A prior that keeps what it is shown."""

    wants_matched_depth = True
    shown: list[PosedImage]

    def start(self, photographs: list[PosedImage], seed: int = 0) -> State:
        self.shown = list(photographs)
        return {"left": torch.tensor(0)}

    def steps_left(self, state: State) -> int:
        return 0

    def step(self, state: State) -> State:
        return state

    def result(self, state: State) -> list[DepthMap]:
        return [DepthMap(one.image[..., :1] * 0 + 7, one.image[..., :1] * 0 + 0.5) for one in self.shown]


def test_matched_depth_is_shown_and_kept() -> None:
    views = photograph_world(
        demo_world(0),
        np.random.default_rng(0),
        width=240,
        height=160,
        train_views=3,
        test_views=0,
        beyond=0.0,
        label=None,
    )
    prior = _Recorded()
    maps = estimate_depths([PosedImage(view.image, view.camera) for view in views], None, prior)
    for view, shown, found in zip(views, prior.shown, maps, strict=True):
        assert shown.depth is not None
        matched = shown.depth > 0
        assert float(matched.float().mean()) > 0.03
        assert float((shown.depth / view.depth)[matched].log().abs().median()) < 0.02
        assert torch.equal(found.depth[matched], shown.depth[matched]) and (found.depth[~matched] == 7).all()
        assert (found.uncertainty[matched] < 0.02).all() and (found.uncertainty[~matched] == 0.5).all()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Depth-Anything-V2-Small-hf"):
        load()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "dpt"}')
    with pytest.raises(RuntimeError, match=r"cannot be read as Depth Anything.*model_type is 'dpt'.*Small-hf"):
        load(str(tmp_path))
    damaged = write_single_view(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(RuntimeError, match="cannot be read as Depth Anything"):
        load(str(damaged))
    with pytest.raises(Exception, match=r"--pipeline\.depth\.weights"):
        PhotoDepthConfig(name="single-view").load(torch.device("cpu"))
