"""Every refiner of orbits keeps the contract of ``OrbitRefiner``; a new one is under test by being there."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from difix3d_ns.priors.base import OrbitFrame, OrbitRefiner, State
from difix3d_ns.priors.registry import available_priors, load_orbit_refiner, load_prior
from tests.pretended_cuda import pretended_cuda
from tests.unit.known_scenes import camera_at, photograph, picture
from tests.unit.tiny_residual import write_hi3d
from tests.unit.tiny_video import write_video

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return {
        "hi3d": str(write_hi3d(tmp_path_factory.mktemp("hi3d"))),
        "hi3d-video": str(write_video(tmp_path_factory.mktemp("video"), "hi3d-stage2")),
    }


@pytest.fixture(scope="module", params=available_priors(OrbitRefiner))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def refiner(name: str, weights: Mapping[str, str]) -> OrbitRefiner:
    return load_orbit_refiner(name, weights.get(name))


def frames(count: int = 4, width: int = 24, height: int = 18) -> list[OrbitFrame]:
    found = []
    for number in range(count):
        shown, _ = photograph(camera_at(0.1 * number, width=width, height=height))
        found.append(OrbitFrame(shown.image, shown.pose, shown.depth))
    return found


def finished(refiner: OrbitRefiner, state: State) -> State:
    while left := refiner.steps_left(state):
        before = {name: values.clone() for name, values in state.items()}
        following = refiner.step(state)
        assert refiner.steps_left(following) == left - 1
        assert all(torch.equal(state[name], values) for name, values in before.items())  # nothing changed in place
        state = following
    return state


def made(refiner: OrbitRefiner, given: Sequence[OrbitFrame], seed: int = 0) -> list[Tensor]:
    return refiner.result(finished(refiner, refiner.start(given, seed)))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [(24, 18), (21, 17)])
def test_pictures_of_all_frames(refiner: OrbitRefiner, count: int, size: tuple[int, int]) -> None:
    found = made(refiner, frames(count, *size))
    assert len(found) == count
    for picture_ in found:
        assert picture_.shape == (refiner.factor * size[1], refiner.factor * size[0], 3)
        assert picture_.dtype == torch.float32
        assert picture_.isfinite().all() and picture_.min() >= 0 and picture_.max() <= 1


def test_without_depth_or_with_depth_of_another_size(refiner: OrbitRefiner) -> None:
    given = frames()
    assert len(made(refiner, [replace(frame, depth=None) for frame in given])) == 4
    larger = [replace(f, depth=None if f.depth is None else f.depth.repeat_interleave(2, 0)) for f in given]
    assert len(made(refiner, larger)) == 4


def test_what_it_cannot_take_is_refused(refiner: OrbitRefiner) -> None:
    with pytest.raises(ValueError, match="at least one"):
        refiner.start([])
    with pytest.raises(ValueError, match="one size"):
        refiner.start([*frames(1), *frames(1, 20, 18)])
    with pytest.raises(ValueError, match="of all frames, or of none"):
        refiner.start([*frames(1), replace(frames(1)[0], depth=None)])


def test_a_frame_with_a_photograph_shows_it(refiner: OrbitRefiner) -> None:
    given = frames()
    photo = picture(refiner.factor * 18, refiner.factor * 24, 3)
    found = made(refiner, [*given[:2], replace(given[2], photo=photo), given[3]])
    assert (found[2] - photo).abs().max() < 4e-3 < (found[1] - photo).abs().mean()


def test_the_world_may_have_any_unit(name: str, weights: Mapping[str, str]) -> None:
    refiner = load_orbit_refiner(name, weights.get(name), dtype=torch.float32)  # depth is rounded otherwise

    def larger(frame: OrbitFrame) -> OrbitFrame:
        pose = frame.camera.camera_to_world.clone()
        pose[:3, 3] *= 7
        assert frame.depth is not None
        return replace(frame, camera=replace(frame.camera, camera_to_world=pose), depth=7 * frame.depth)

    for one, other in zip(made(refiner, frames()), made(refiner, list(map(larger, frames()))), strict=True):
        torch.testing.assert_close(one, other, atol=5e-3, rtol=0)


def test_seeds(refiner: OrbitRefiner) -> None:
    one, again, other = (made(refiner, frames(), seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_saved_state_goes_on_to_the_same_bits(refiner: OrbitRefiner) -> None:
    whole = made(refiner, frames())
    state = refiner.start(frames())
    for _ in range(refiner.steps_left(state) // 2):
        state = refiner.step(state)
    state = load(save({name: values.contiguous() for name, values in state.items()}))
    made(refiner, frames(2), 9)  # another's work in between
    assert all(torch.equal(a, b) for a, b in zip(refiner.result(finished(refiner, state)), whole, strict=True))


def test_global_generators_are_left_alone(refiner: OrbitRefiner) -> None:
    before = torch.get_rng_state()
    made(refiner, frames(2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("device", ["pretended", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_device_gives_what_the_processor_gives(name: str, weights: Mapping[str, str], device: str) -> None:
    """In float32: a chain of many steps makes more of rounding."""
    expected = made(load_orbit_refiner(name, weights.get(name), "cpu", torch.float32), frames())
    with pretended_cuda() if device == "pretended" else contextlib.nullcontext():
        there = load_prior.__wrapped__(OrbitRefiner, name, weights.get(name), "cuda", torch.float32)
        given = [
            replace(f, image=f.image.to("cuda"), depth=None if f.depth is None else f.depth.to("cuda"))
            for f in frames()
        ]
        found = [one.cpu() for one in there.result(finished(there, there.start(given)))]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=0)
