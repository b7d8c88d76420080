"""Every upscaler keeps the contract of ``priors.base.Upscaler``; a new one is under test by being there."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from difix3d_ns.geometry.resampling import resample
from difix3d_ns.priors.base import State, Upscaler, picture_round
from difix3d_ns.priors.registry import available_priors, load_prior, load_upscaler
from tests.pretended_cuda import pretended_cuda
from tests.unit.known_scenes import picture
from tests.unit.official_upscalers import ldm, write
from tests.unit.tiny_esrgan import TinyNet
from tests.unit.tiny_residual import write_residual

STEP = 1 / 255
PLAIN = "bicubic"
"""the one that does not make its results agree with the photographs: it is what agreement is measured against"""
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Tiny random weights for those that have large ones or none of their own; one not named here has its own."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("residual", "latent", "realesrgan")}
    return {
        "residual": str(write_residual(folders["residual"])),
        "latent": str(write(ldm(), folders["latent"] / "ldm")),
        "realesrgan": str(TinyNet().write(folders["realesrgan"])),
    }


@pytest.fixture(scope="module", params=available_priors(Upscaler))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def upscaler(name: str, weights: Mapping[str, str]) -> Upscaler:
    return load_upscaler(name, weights.get(name), dtype=torch.float32)


def photographs(upscaler: Upscaler, height: int = 12, width: int = 17) -> list[Tensor]:
    """Two if they are upscaled together, else one."""
    return [picture(height, width, seed) for seed in range(2 if upscaler.joint else 1)]


def start(
    upscaler: Upscaler, lows: Sequence[Tensor], size: tuple[int, int], seed: int = 0, renders: bool = False
) -> State:
    shown = [picture(*size, 7 + number) for number in range(len(lows))] if renders else None
    return upscaler.start(lows, [size] * len(lows), [seed] * len(lows), shown)


def finished(upscaler: Upscaler, state: State) -> State:
    for _ in range(upscaler.steps_left(state)):
        before = {name: tensor.clone() for name, tensor in state.items()}
        left = upscaler.steps_left(state)
        following = upscaler.step(state)
        assert upscaler.steps_left(following) == left - 1
        assert all(torch.equal(state[name], tensor) for name, tensor in before.items())  # nothing is changed in place
        state = following
    return state


def results(upscaler: Upscaler, state: State, rounds: int) -> list[Tensor]:
    """Of all photographs in each round, whose render is a darker version of the result."""
    found = []
    for number in range(rounds):
        state = finished(upscaler, state)
        pictures = upscaler.result(state)
        found += pictures
        if number + 1 < rounds:
            state = upscaler.advance(state, [0.9 * one for one in pictures])
    return found


def assert_agree(
    pictures: Sequence[Tensor], lows: Sequence[Tensor], size: tuple[int, int], plain: bool = False
) -> None:
    for number, one in enumerate(pictures):
        low = lows[number % len(lows)]
        assert one.shape == (*size, 3) and one.dtype == torch.float32 and not one.requires_grad
        assert one.isfinite().all() and one.min() >= 0 and one.max() <= 1
        if plain:
            continue
        reduced = resample(one.permute(2, 0, 1)[None], *low.shape[:2])[0].permute(1, 2, 0)
        assert (reduced - low).square().mean().sqrt() <= STEP


@pytest.mark.parametrize(
    ("low", "size"),
    [((12, 17), (48, 68)), ((13, 11), (39, 33)), ((16, 10), (32, 20)), ((14, 18), (21, 27)), ((13, 17), (20, 26))],
    ids=["4", "3", "2", "1.5", "odd"],
)
def test_any_size_and_factor_agrees_with_the_photograph(
    name: str, upscaler: Upscaler, low: tuple[int, int], size: tuple[int, int]
) -> None:
    lows = photographs(upscaler, *low)
    assert_agree(results(upscaler, start(upscaler, lows, size), upscaler.rounds), lows, size, name == PLAIN)


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_pictures_without_content(upscaler: Upscaler, grey: float) -> None:
    lows = [torch.full((8, 9, 3), grey) for _ in photographs(upscaler)]
    for one in results(upscaler, start(upscaler, lows, (32, 36)), 1):
        assert (one - grey).abs().mean() < 0.1


def test_every_round_has_a_level(upscaler: Upscaler) -> None:
    assert upscaler.rounds >= 1
    assert all(isinstance(upscaler.level(round), str) for round in range(upscaler.rounds))


def test_a_start_from_renders_leaves_out_the_first_rounds(name: str, upscaler: Upscaler) -> None:
    lows, size = photographs(upscaler), (48, 68)
    state = start(upscaler, lows, size, renders=True)
    assert_agree(results(upscaler, state, upscaler.rounds - picture_round(upscaler.rounds)), lows, size, name == PLAIN)


def test_the_same_seed_gives_the_same_bits(upscaler: Upscaler) -> None:
    lows, size = photographs(upscaler), (48, 68)
    first = results(upscaler, start(upscaler, lows, size, 3), upscaler.rounds)
    torch.rand(5)
    results(upscaler, start(upscaler, lows, size, 4), 1)
    again = results(upscaler, start(upscaler, lows, size, 3), upscaler.rounds)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_saved_state_goes_on_to_the_same_bits(upscaler: Upscaler) -> None:
    lows, size = photographs(upscaler), (36, 51)
    state = start(upscaler, lows, size)
    for round in range(upscaler.rounds):
        whole = finished(upscaler, state)
        saved = load(save({name: tensor.contiguous() for name, tensor in state.items()}))
        resumed = finished(upscaler, saved)
        pictures = upscaler.result(whole)
        assert all(torch.equal(a, b) for a, b in zip(pictures, upscaler.result(resumed), strict=True))
        if round + 1 < upscaler.rounds:
            state = upscaler.advance(whole, pictures)


def test_global_generators_stay_as_they_are(upscaler: Upscaler) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    results(upscaler, start(upscaler, photographs(upscaler), (48, 68)), upscaler.rounds)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist() and before[2] == random.getstate()


def test_states_are_on_the_host(upscaler: Upscaler) -> None:
    """They may be many: one for each photograph."""
    state = finished(upscaler, start(upscaler, photographs(upscaler), (48, 68)))
    assert all(tensor.device.type == "cpu" and not tensor.requires_grad for tensor in state.values())


@pytest.mark.parametrize("device", ["pretended", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_device_gives_what_the_processor_gives(
    name: str, upscaler: Upscaler, weights: Mapping[str, str], device: str
) -> None:
    lows, size = photographs(upscaler), (48, 68)
    expected = results(upscaler, start(upscaler, lows, size), upscaler.rounds)
    with pretended_cuda() if device == "pretended" else contextlib.nullcontext():
        there = load_prior.__wrapped__(Upscaler, name, weights.get(name), "cuda", torch.float32)
        found = [one.cpu() for one in results(there, start(there, lows, size), there.rounds)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)
