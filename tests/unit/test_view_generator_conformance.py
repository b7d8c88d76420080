"""Every generator of views keeps the contract of ``ViewGenerator``; a new one is under test by being there."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors.base import GeneratedView, State, ViewGenerator
from difix3d_ns.priors.registry import available_priors, load_prior, load_view_generator
from tests.pretended_cuda import pretended_cuda
from tests.unit.known_scenes import camera_at, photographs_with_points, picture
from tests.unit.tiny_views import write_eft, write_sparsefusion

pytestmark = pytest.mark.usefixtures("one_thread")
CAMERAS = [camera_at(0.2, width=64, height=48), camera_at(0.6, width=41, height=37)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return {
        "epipolar-views": str(write_eft(tmp_path_factory.mktemp("eft"))),
        "sparsefusion": str(write_sparsefusion(tmp_path_factory.mktemp("sparsefusion"))),
    }


@pytest.fixture(scope="module", params=available_priors(ViewGenerator))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def generator(name: str, weights: Mapping[str, str]) -> ViewGenerator:
    return load_view_generator(name, weights.get(name))


def renders(cameras: Sequence[Pinhole]) -> list[Tensor]:
    return [picture(camera.height, camera.width, number) for number, camera in enumerate(cameras)]


def finished(generator: ViewGenerator, state: State) -> State:
    while left := generator.steps_left(state):
        before = {name: values.clone() for name, values in state.items()}
        following = generator.step(state)
        assert generator.steps_left(following) == left - 1
        assert all(torch.equal(state[name], values) for name, values in before.items())  # nothing changed in place
        state = following
    return state


def made(generator: ViewGenerator, views: Sequence[PosedImage], **options: object) -> list[GeneratedView]:
    return generator.result(finished(generator, generator.start(views, CAMERAS, **options)))  # type: ignore[arg-type]


def assert_views(found: Sequence[GeneratedView]) -> None:
    assert len(found) == len(CAMERAS)
    for view, camera in zip(found, CAMERAS, strict=True):
        size = camera.height, camera.width
        assert view.image.shape == (*size, 3) and view.image.dtype == torch.float32
        for maps in (view.image, view.confidence, view.visible):
            assert maps is not None and maps.isfinite().all() and maps.min() >= 0 and maps.max() <= 1
        assert view.depth is not None and view.depth.shape == view.confidence.shape == (*size, 1)
        assert (view.depth > 0).all() and 0 <= view.weight <= 1


def assert_same(found: Sequence[GeneratedView], expected: Sequence[GeneratedView]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.image, other.image) and torch.equal(one.confidence, other.confidence)
        assert one.weight == other.weight


@pytest.mark.parametrize("noise", [0.0, 0.37, 1.0])
def test_pictures_of_all_cameras(generator: ViewGenerator, noise: float) -> None:
    assert_views(made(generator, photographs_with_points(), noise=noise))
    assert_views(made(generator, photographs_with_points(), renders=renders(CAMERAS), noise=noise))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_photographs(generator: ViewGenerator, count: int) -> None:
    assert_views(made(generator, photographs_with_points(count)))


def test_none_is_refused(generator: ViewGenerator) -> None:
    with pytest.raises(ValueError, match="at least one"):
        generator.start([], CAMERAS)


def test_sizes_may_differ_and_be_odd(generator: ViewGenerator) -> None:
    assert_views(made(generator, [*photographs_with_points(2), *photographs_with_points(1, 51, 37)]))


def test_without_points(generator: ViewGenerator) -> None:
    assert_views(made(generator, [replace(view, depth=None) for view in photographs_with_points()]))


def test_the_order_of_photographs_matters_little(generator: ViewGenerator) -> None:
    views = photographs_with_points()
    for one, other in zip(made(generator, views), made(generator, views[::-1]), strict=True):
        torch.testing.assert_close(one.image, other.image, atol=2e-3, rtol=0)


def test_what_is_masked_is_not_looked_at(generator: ViewGenerator) -> None:
    """Whatever lies there, where all of a photograph is masked."""
    views, mask = photographs_with_points(), torch.zeros(48, 64, 1)
    masked = [replace(views[0], mask=mask), *views[1:]]
    other = [replace(views[0], mask=mask, image=1 - views[0].image), *views[1:]]
    assert_same(made(generator, masked), made(generator, other))


def test_the_world_may_lie_anywhere(generator: ViewGenerator) -> None:
    """Turned, moved and enlarged it gives the same pictures."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turn = turn * turn.det().sign()

    def placed(camera: Pinhole) -> Pinhole:
        pose = camera.camera_to_world.clone()
        pose[:3, :3] = turn @ pose[:3, :3]
        pose[:3, 3] = 7 * (turn @ pose[:3, 3]) + torch.tensor([100.0, -3, 5])
        return replace(camera, camera_to_world=pose)

    views = photographs_with_points()
    expected = made(generator, views)
    there = [replace(view, camera=placed(view.pose), depth=7 * view.depth) for view in views]
    state = generator.start(there, [placed(camera) for camera in CAMERAS])
    for one, other in zip(generator.result(finished(generator, state)), expected, strict=True):
        assert (one.image - other.image).abs().mean() < 2e-3
        assert one.depth is not None and other.depth is not None
        assert float((one.depth / (7 * other.depth)).log().abs().median()) < 1e-3


def test_the_same_views_again(generator: ViewGenerator) -> None:
    """From other renders and noise; as if begun with these."""
    views, shown = photographs_with_points(), renders(CAMERAS)
    first = finished(generator, generator.start(views, CAMERAS, noise=0.0))
    again = generator.again(first, shown, 0.6, 5)
    assert generator.steps_left(again) <= generator.steps_left(generator.start(views, CAMERAS, shown, 0.6, 5))
    assert_same(generator.result(finished(generator, again)), made(generator, views, renders=shown, noise=0.6, seed=5))


def test_seeds(generator: ViewGenerator) -> None:
    views = photographs_with_points()
    one, again, other = (made(generator, views, noise=0.8, seed=seed) for seed in (1, 1, 2))
    assert_same(one, again)
    if generator.generative:
        assert any(not torch.equal(a.image, b.image) for a, b in zip(one, other, strict=True))
        assert one[0].weight < 1 or one[0].confidence.max() > 0


def test_a_saved_state_goes_on_to_the_same_bits(generator: ViewGenerator) -> None:
    views, shown = photographs_with_points(), renders(CAMERAS)
    whole = made(generator, views, renders=shown, noise=0.5)
    state = generator.start(views, CAMERAS, shown, 0.5)
    for _ in range(3 if generator.steps_left(state) > 3 else 1):
        state = generator.step(state)
    state = load(save({name: values.contiguous() for name, values in state.items()}))
    made(generator, photographs_with_points(2), seed=9)  # another's work in between
    assert_same(generator.result(finished(generator, state)), whole)


def test_global_generators_are_left_alone(generator: ViewGenerator) -> None:
    before = torch.get_rng_state()
    made(generator, photographs_with_points(2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("device", ["pretended", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_device_gives_what_the_processor_gives(
    name: str, generator: ViewGenerator, weights: Mapping[str, str], device: str
) -> None:
    views, shown = photographs_with_points(), renders(CAMERAS)
    expected = made(generator, views, renders=shown, noise=0.5)
    with pretended_cuda() if device == "pretended" else contextlib.nullcontext():
        there = load_prior.__wrapped__(ViewGenerator, name, weights.get(name), "cuda")
        state = there.start([view.to("cuda") for view in views], CAMERAS, [one.to("cuda") for one in shown], 0.5)
        found = [(one.image.cpu(), one.confidence.cpu()) for one in there.result(finished(there, state))]
    for (image, confidence), one in zip(found, expected, strict=True):
        torch.testing.assert_close(image, one.image, atol=5e-3, rtol=0)
        torch.testing.assert_close(confidence, one.confidence, atol=5e-3, rtol=0)
