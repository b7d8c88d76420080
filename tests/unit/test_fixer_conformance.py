"""Every fixer keeps the contract (docs/fixers.md), those of other packages too; a new one is under test by being there.

What one fixer alone promises is tested beside its kind: test_fixers, test_difix_fixer, test_difix_published.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from difix3d_ns.priors.base import Fixer, FixRequest, FixResult, PosedImage
from difix3d_ns.priors.registry import available_fixers, load_fixer, load_prior
from tests.unit.known_scenes import camera_at, photograph, picture
from tests.unit.official_difix import Official
from tests.unit.tiny_fixers import write_detail, write_embedded

FOREIGN = "tests.unit.foreign_fixer"
TRUSTS_ALL = "none"
"""the one fixer whose confidence does not depend on references: it changes nothing"""
ALIKE = 2e-3
"""Pictures that differ in the order of sums alone: a batch, or more threads. Sums differ in the last digit, and that
can tip an aligner's choice between two depths for a pixel; bits are equal only in the same batch."""

pytestmark = pytest.mark.usefixtures("one_thread")
Load = Callable[..., Fixer]


class _Loaded(NamedTuple):
    name: str
    fixer: Fixer
    load: Load  # anew, with other arguments


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny random weights for those that have large ones or none of their own; a fixer not named here has its own."""
    difix = str(Official().write(tmp_path_factory.mktemp("difix_ref")))
    embedded = str(write_embedded(tmp_path_factory.mktemp("embedded")))
    detail = str(write_detail(tmp_path_factory.mktemp("detail")))
    return {"difix": difix, "cascade": difix, "embedded": embedded, "aligned-blend": embedded, "detail": detail}


@pytest.fixture(scope="module", params=[*available_fixers(), FOREIGN])
def loaded(request: pytest.FixtureRequest, weights: dict[str, str]) -> _Loaded:
    def load(**options: Any) -> Fixer:
        load_prior.cache_clear()
        return load_fixer(request.param, weights.get(request.param), **{"dtype": torch.float32, **options})

    return _Loaded(request.param, load(), load)


@pytest.fixture
def fixer(loaded: _Loaded) -> Fixer:
    return loaded.fixer


def make_request(count: int, height: int = 49, width: int = 67, seed: int = 0) -> FixRequest:
    """A noisy render of a wall with a card before it, and ``count`` photographs of both, of another size."""
    target, _ = photograph(camera_at(0.0, width=width, height=height))
    positions = [(0.4, 0.0), (-0.3, 0.1), (0.1, -0.2), (0.2, 0.2), (-0.1, -0.1)][:count]
    references = [photograph(camera_at(x, y, width=75, height=55))[0] for x, y in positions]
    noise = torch.randn(target.image.shape, generator=torch.Generator().manual_seed(1)) * 0.05
    return FixRequest((target.image + noise).clamp(0, 1), references, target.camera, target.depth, target.alpha, seed)


def fix(fixer: Fixer, request: FixRequest) -> FixResult:
    """The result of one request, which keeps to shapes, ranges, precision and device."""
    (result,) = fixer.fix([request])
    height, width = request.image.shape[:2]
    assert result.image.shape == (height, width, 3) and result.confidence.shape == (height, width, 1)
    for values in (result.image, result.confidence, result.depth_confidence):
        if values is not None:
            assert values.dtype == torch.float32 and values.device == request.image.device
            assert values.isfinite().all() and values.min() >= 0 and values.max() <= 1
            assert not values.requires_grad
    for depth in (result.depth, result.depth_confidence):
        assert depth is None or depth.shape == (height, width, 1)
    if result.depth is not None:
        assert result.depth.isfinite().all() and result.depth.min() >= 0
    return result


def parts(result: FixResult) -> dict[str, Tensor]:
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    return {name: value for name, value in values.items() if value is not None}


def assert_same_bits(one: FixResult, other: FixResult) -> None:
    assert parts(one).keys() == parts(other).keys()
    assert all(torch.equal(value, parts(other)[name]) for name, value in parts(one).items())


def assert_alike(one: FixResult, other: FixResult) -> None:
    torch.testing.assert_close(one.image, other.image, atol=ALIKE, rtol=0)
    torch.testing.assert_close(one.confidence, other.confidence, atol=ALIKE, rtol=0)


# What it is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(97, 131), (131, 21), (1, 1), (1, 40), (40, 1), (5, 3)])
@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_any_size_and_any_number_of_references(fixer: Fixer, size: tuple[int, int], count: int) -> None:
    fix(fixer, make_request(count, *size))


@pytest.mark.parametrize("shape", [(10, 200), (200, 10), (1, 1)])
def test_references_of_any_shape(fixer: Fixer, shape: tuple[int, int]) -> None:
    full = make_request(1)
    (posed,) = full.references
    small, _ = photograph(camera_at(0.3, width=shape[1], height=shape[0]))
    fix(fixer, replace(full, references=[small, posed, PosedImage(picture(*shape, 1))]))


def test_references_without_cameras(fixer: Fixer) -> None:
    full = make_request(2)
    bare = [PosedImage(reference.image) for reference in full.references]
    fix(fixer, replace(full, references=[*bare, *full.references]))
    alone = fix(fixer, replace(full, references=bare))
    fix(fixer, FixRequest(full.image, full.references))
    if not fixer.generative and fixer.aligns:
        torch.testing.assert_close(alone.image, full.image)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_pictures_of_any_precision(fixer: Fixer, dtype: torch.dtype) -> None:
    full = make_request(1)
    result = fix(fixer, replace(full, image=full.image.to(dtype)))
    torch.testing.assert_close(result.image, fix(fixer, full).image, atol=0.03, rtol=0)


def test_pictures_that_do_not_lie_in_order(fixer: Fixer) -> None:
    """A channel too many cut off, rows and columns exchanged: views, as callers make them."""
    full = make_request(1)
    rgba = torch.cat([full.image, full.image[..., :1]], -1).transpose(0, 1).contiguous().transpose(0, 1)
    assert not rgba[..., :3].is_contiguous()
    assert_alike(fix(fixer, replace(full, image=rgba[..., :3])), fix(fixer, full))


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_pictures_without_content(fixer: Fixer, grey: float) -> None:
    flat = torch.full((24, 32, 3), grey)
    for references in ((), [PosedImage(picture(24, 32, 1))], [PosedImage(flat)]):
        result = fix(fixer, FixRequest(flat, references))
        if not fixer.generative and fixer.aligns:  # what matches by random weights finds something
            torch.testing.assert_close(result.image, flat)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", [(slice(3, 5), slice(6, 9)), (slice(None), slice(None))], ids=["some", "all"])
def test_what_is_not_finite_is_black_and_not_trusted(fixer: Fixer, bad: float, where: tuple[slice, slice]) -> None:
    for full in (make_request(1, 24, 32), FixRequest(picture(24, 32, 0), [PosedImage(picture(24, 32, 1))])):
        spoilt, black = full.image.clone(), full.image.clone()
        spoilt[where], black[where] = bad, 0.0
        result = fix(fixer, replace(full, image=spoilt))
        assert result.confidence[where].max() == 0
        if full.camera is None:  # elsewhere nothing is spoilt
            torch.testing.assert_close(result.image, fix(fixer, replace(full, image=black)).image)


def test_references_that_are_not_finite_show_nothing(fixer: Fixer) -> None:
    full = make_request(2)
    blank = [replace(reference, image=torch.full_like(reference.image, torch.nan)) for reference in full.references]
    fix(fixer, replace(full, references=[full.references[0], blank[1]]))
    fix(fixer, FixRequest(full.image, [PosedImage(torch.full((40, 8, 3), torch.nan))]))
    result = fix(fixer, replace(full, references=blank))
    if not fixer.generative:
        torch.testing.assert_close(result.image, full.image)


# What it answers -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_batch_is_as_one_by_one(fixer: Fixer) -> None:
    """Of several sizes and numbers of references, mixed; in their order."""
    requests = [make_request(3), make_request(0, width=40), make_request(3, seed=5), make_request(1), make_request(3)]
    requests[4] = replace(requests[4], image=1 - requests[4].image)
    together = fixer.fix(requests)
    assert len(together) == len(requests)
    for result, request in zip(together, requests, strict=True):
        assert_alike(result, fix(fixer, request))


def test_an_empty_batch(fixer: Fixer) -> None:
    assert list(fixer.fix([])) == []


def test_the_same_request_has_the_same_answer(loaded: _Loaded) -> None:
    """Bit by bit: whatever was asked in between, whatever the global generators are at, loaded anew."""
    request, other = make_request(3), make_request(3, seed=7)
    first = fix(loaded.fixer, request)
    torch.manual_seed(123)
    fix(loaded.fixer, other)  # another seed may have another answer
    assert_same_bits(fix(loaded.fixer, request), first)
    assert_same_bits(fix(loaded.load(), request), first)


def test_the_foreign_fixers_seed_matters() -> None:
    """Else the test above would not notice a seed that is left out."""
    fixer = load_fixer(FOREIGN)
    one, other = (fix(fixer, make_request(3, seed=seed)) for seed in (0, 7))
    assert not torch.equal(one.image, other.image)


def test_nothing_is_trusted_or_carried_over_where_no_reference_shows_it(loaded: _Loaded) -> None:
    request = make_request(3, 97, 131)
    masked = [replace(r, mask=torch.ones_like(r.image[..., :1])) for r in request.references]
    for reference in masked:
        assert reference.mask is not None
        reference.mask[:, : reference.mask.shape[1] // 2] = 0  # the left half of the world
    result = fix(loaded.fixer, replace(request, references=masked))
    unseen = fix(loaded.fixer, replace(request, references=()))
    if not loaded.fixer.generative:
        torch.testing.assert_close(result.image[:, :16], request.image[:, :16])
        torch.testing.assert_close(unseen.image, request.image)
    if loaded.name == TRUSTS_ALL:
        assert result.confidence.min() == unseen.confidence.min() == 1
        assert torch.equal(result.image, request.image)
        return
    assert result.confidence[:, :16].max() == 0 and unseen.confidence.max() == 0
    seen = slice(20, -20), slice(90, -20)
    assert result.confidence[seen].mean() > 0.05
    assert (result.image[seen] - request.image[seen]).abs().max() > 1e-3


def test_what_is_masked_in_a_photo_does_not_matter(fixer: Fixer) -> None:
    request = make_request(2)
    mask = torch.ones_like(request.references[0].image[..., :1])
    mask[10:40, 20:50] = 0
    masked = [replace(reference, mask=mask) for reference in request.references]
    noise = torch.rand(mask.shape[0], mask.shape[1], 3, generator=torch.Generator().manual_seed(2))
    painted = [replace(reference, image=torch.where(mask > 0, reference.image, noise)) for reference in masked]
    one, other = (fix(fixer, replace(request, references=references)) for references in (masked, painted))
    assert_same_bits(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_either_precision_of_its_networks(loaded: _Loaded, dtype: torch.dtype) -> None:
    request = make_request(2)
    result = fix(loaded.load(dtype=dtype), request)
    assert (result.image - fix(loaded.fixer, request).image).abs().mean() < 0.01


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_results_are_where_the_request_is(loaded: _Loaded, device: str) -> None:
    """Wherever the networks are; ``fix`` checks it."""
    request = make_request(2)
    there = replace(
        request,
        image=request.image.to(device),
        depth=None if request.depth is None else request.depth.to(device),
        alpha=None if request.alpha is None else request.alpha.to(device),
        camera=None if request.camera is None else request.camera.to(device),
        references=[_to(reference, device) for reference in request.references],
    )
    for networks in {"cpu", device}:
        fix(loaded.load(device=networks), there)


def _to(reference: PosedImage, device: str) -> PosedImage:
    values = {field.name: getattr(reference, field.name) for field in fields(reference)}
    return replace(reference, **{k: v.to(device) for k, v in values.items() if hasattr(v, "to")})


def test_it_says_what_it_was_trained_with(fixer: Fixer) -> None:
    assert fixer.trained_references is None or fixer.trained_references in range(100)
    assert fixer.generative in (True, False)


def test_what_the_fixers_of_the_package_say(weights: dict[str, str]) -> None:
    expected = {
        "none": (0, False),
        "blend": (None, False),
        "embedded": (4, False),
        "aligned-blend": (4, False),
        "detail": (3, False),
        "difix": (1, True),
        "cascade": (4, True),
        FOREIGN: (None, False),  # it did not say
    }
    for name, said in expected.items():
        fixer = load_fixer(name, weights.get(name))
        assert (fixer.trained_references, fixer.generative) == said, name
    careful = load_fixer("cascade", "blend")
    assert (careful.trained_references, careful.generative) == (4, False)


# What it leaves alone ------------------------------------------------------------------------------------------------


def _surroundings() -> dict[str, object]:
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "Python's generator": random.getstate(),
        "numpy's generator": str(np.random.get_state()),
        "gradients": torch.is_grad_enabled(),
        "precision": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
    }


def test_nothing_global_changes_and_nobody_is_called(loaded: _Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by loading nor by fixing; no hub id was named, so there is no network."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a fixer opened a connection")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(AssertionError, match="opened a connection"):
        socket.create_connection(("localhost", 9))
    before = _surroundings()
    fix(loaded.load(), make_request(2))
    assert _surroundings() == before


@pytest.mark.parametrize("spoilt", [False, True])
def test_the_request_stays_as_it_was(fixer: Fixer, spoilt: bool) -> None:
    request, untouched = make_request(2), make_request(2)
    if spoilt:
        request.references[0].image[3:5, 3:5] = untouched.references[0].image[3:5, 3:5] = torch.nan
        request.image[7, 7] = untouched.image[7, 7] = torch.nan
    references = request.references
    fix(fixer, request)
    assert request.references is references and len(references) == 2
    for ours, theirs in zip((request, *references), (untouched, *untouched.references), strict=True):
        for name in ("image", "depth", "alpha", "mask"):
            one, other = getattr(ours, name, None), getattr(theirs, name, None)
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, atol=0, rtol=0, equal_nan=True)
        assert ours.camera is not None and theirs.camera is not None
        assert torch.equal(ours.camera.camera_to_world, theirs.camera.camera_to_world)


def test_several_threads_may_ask(fixer: Fixer) -> None:
    """Training and viewer share a fixer: everybody gets the answer to their own request."""
    requests = [make_request(count, width=width) for count, width in ((3, 67), (0, 67), (3, 40), (1, 67))]
    expected = [fix(fixer, request) for request in requests]
    found: dict[int, FixResult] = {}

    def ask(number: int) -> None:
        found[number] = fixer.fix([requests[number]])[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, result in enumerate(expected):
        assert_alike(found[number], result)
