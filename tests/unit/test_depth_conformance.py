"""Every prior of depth keeps the contract of ``priors.base.Depth``; a new one is under test by being there."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors.base import Depth, State
from difix3d_ns.priors.registry import available_priors, load_depth, load_prior
from tests.pretended_cuda import pretended_cuda
from tests.unit.known_scenes import photographs_with_points
from tests.unit.tiny_depth import write_depth, write_single_view

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return {
        "multiview": str(write_depth(tmp_path_factory.mktemp("multiview"))),
        "single-view": str(write_single_view(tmp_path_factory.mktemp("single-view"))),
    }


@pytest.fixture(scope="module", params=available_priors(Depth))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def prior(name: str, weights: Mapping[str, str]) -> Depth:
    return load_depth(name, weights.get(name))


def finished(prior: Depth, state: State) -> State:
    while left := prior.steps_left(state):
        before = {name: values.clone() for name, values in state.items()}
        following = prior.step(state)
        assert prior.steps_left(following) == left - 1
        assert all(torch.equal(state[name], values) for name, values in before.items())  # nothing changed in place
        state = following
    return state


def assert_maps(prior: Depth, views: list[PosedImage]) -> None:
    maps = prior.result(finished(prior, prior.start(views)))
    assert len(maps) == len(views)
    for found, view in zip(maps, views, strict=True):
        size = (*view.image.shape[:2], 1)
        assert found.depth.shape == found.uncertainty.shape == size
        assert found.depth.dtype == found.uncertainty.dtype == torch.float32
        unknown = found.depth == 0
        assert found.depth.isfinite().all() and (found.depth >= 0).all()
        assert torch.equal(unknown, found.uncertainty.isinf()) and (found.uncertainty > 0).all()


def test_maps_of_all_photographs(prior: Depth) -> None:
    assert_maps(prior, photographs_with_points())


def test_sizes_may_differ_and_be_odd(prior: Depth) -> None:
    assert_maps(prior, [*photographs_with_points(2), *photographs_with_points(1, 51, 37)])


def test_one_photograph_alone(prior: Depth) -> None:
    assert_maps(prior, photographs_with_points(1))


def test_large_photographs_are_worked_on_at_a_smaller_size(prior: Depth) -> None:
    assert_maps(prior, photographs_with_points(2, 500, 40))


def test_without_points(prior: Depth) -> None:
    assert_maps(prior, [replace(view, depth=None, alpha=None) for view in photographs_with_points()])


def test_what_is_masked_stays_unknown(prior: Depth) -> None:
    mask = torch.ones(48, 64, 1)
    mask[:, :33] = 0
    views = [replace(view, mask=mask) for view in photographs_with_points()]
    for found in prior.result(finished(prior, prior.start(views))):
        assert (found.depth[:, :33] == 0).all()


def test_a_saved_state_goes_on_to_the_same_bits(prior: Depth) -> None:
    views = photographs_with_points()
    whole = prior.result(finished(prior, prior.start(views)))
    state = load(save({name: values.contiguous() for name, values in prior.step(prior.start(views)).items()}))
    prior.result(finished(prior, prior.start(photographs_with_points(2))))  # another's work in between
    for found, expected in zip(prior.result(finished(prior, state)), whole, strict=True):
        assert torch.equal(found.depth, expected.depth) and torch.equal(found.uncertainty, expected.uncertainty)


def test_global_generators_are_left_alone(prior: Depth) -> None:
    before = torch.get_rng_state()
    prior.result(finished(prior, prior.start(photographs_with_points(2))))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("device", ["pretended", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_device_gives_what_the_processor_gives(
    name: str, prior: Depth, weights: Mapping[str, str], device: str
) -> None:
    views = photographs_with_points()
    expected = prior.result(finished(prior, prior.start(views)))
    with pretended_cuda() if device == "pretended" else contextlib.nullcontext():
        there = load_prior.__wrapped__(Depth, name, weights.get(name), "cuda")
        found = there.result(finished(there, there.start([view.to("cuda") for view in views])))
        maps = [(one.depth.cpu(), one.uncertainty.cpu()) for one in found]
    for (depth, uncertainty), one in zip(maps, expected, strict=True):
        torch.testing.assert_close(depth, one.depth, atol=0, rtol=2e-3)
        torch.testing.assert_close(uncertainty, one.uncertainty, atol=0, rtol=2e-2)
