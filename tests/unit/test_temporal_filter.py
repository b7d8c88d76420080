"""Neighbouring frames: what the fixer adds moves along with the surfaces, and nothing else does."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
import torch

from difix3d_ns.enhance.temporal import MAX_MOTION, EnhancedFrame, TemporalFilter, motion
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import unproject
from tests.unit.known_scenes import look_at, straight, wall_reference

RENDER = torch.full((64, 96, 3), 0.5)


class _Caller:
    pass


def _planes(x: float) -> tuple[Pinhole, torch.Tensor, torch.Tensor]:
    view = wall_reference(straight(x))
    assert view.camera is not None and view.depth is not None and view.alpha is not None
    return view.camera, view.depth, view.alpha


def _pattern(x: float) -> torch.Tensor:
    """A smooth pattern painted on the wall, seen from ``x``."""
    camera, depth, _ = _planes(x)
    points = unproject(depth, camera)
    return 0.2 * torch.stack([(2 * points[..., 0]).sin(), (3 * points[..., 2]).cos(), points[..., 0].cos()], -1)


def test_motion_is_the_shift_in_the_picture() -> None:
    camera, depth, alpha = _planes(0.0)
    assert motion(camera, depth, alpha, camera) == pytest.approx(0, abs=1e-6)
    shift = float(camera.intrinsics[0, 0]) * 0.2 / 4 / 96  # the wall is 4 away
    assert motion(camera, depth, alpha, straight(0.2)) == pytest.approx(shift, rel=1e-3)
    behind = look_at((0.0, 8.0, 0.0), (0.0, 12.0, 0.0))
    assert motion(camera, depth, alpha, behind) == 1
    assert motion(camera, depth, torch.zeros_like(alpha), camera) == 1
    broken = depth.clone()
    broken[::3] = torch.nan
    assert motion(camera, broken, alpha, straight(0.2)) == pytest.approx(shift, rel=0.05)


def _enhance(
    temporal_filter: TemporalFilter,
    caller: Any,
    planes: tuple[Pinhole, torch.Tensor, torch.Tensor],
    fixed: torch.Tensor,
    references: tuple[int, ...] = (0,),
    version: Any = 0,
    render: torch.Tensor = RENDER,
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """The steadied picture, and the references of the previous frame."""
    previous = temporal_filter.previous(caller, *planes, version)
    frame = EnhancedFrame(*planes, version, references, fixed - render)
    change = temporal_filter.blend_with_previous(caller, frame, previous)
    return render + change, previous.references if previous else ()


def test_what_sticks_to_the_surface_is_left_as_it_is() -> None:
    temporal_filter, caller = TemporalFilter(0.5), _Caller()
    for x in (0.0, 0.1, 0.2):
        steadied, _ = _enhance(temporal_filter, caller, _planes(x), RENDER + _pattern(x))
        assert (steadied - RENDER - _pattern(x)).abs().max() < 0.01


def test_flicker_is_damped() -> None:
    """Noise of each frame's own, by the share of the previous frame."""
    torch.manual_seed(0)
    flicker = {}
    for blend in (0.0, 0.5):
        temporal_filter, caller = TemporalFilter(blend), _Caller()
        steadied = []
        for i in range(6):  # standing still, so that only noise differs
            noise = torch.randn(64, 96, 3, generator=torch.Generator().manual_seed(i)) * 0.1
            steadied.append(_enhance(temporal_filter, caller, _planes(0.0), RENDER + noise)[0])
        inner = torch.stack(steadied[3:])[:, 8:-8, 8:-8]
        flicker[blend] = float((inner[1:] - inner[:-1]).abs().mean())
    assert flicker[0.5] < 0.5 * flicker[0.0]


def test_the_render_itself_is_not_blended() -> None:
    temporal_filter, caller = TemporalFilter(0.5), _Caller()
    for value in (0.2, 0.8):
        render = torch.full((64, 96, 3), value)
        torch.testing.assert_close(_enhance(temporal_filter, caller, _planes(0.0), render, render=render)[0], render)


def test_nothing_is_blended_where_the_previous_frame_showed_another_surface() -> None:
    temporal_filter, caller = TemporalFilter(0.5), _Caller()
    camera, depth, alpha = _planes(0.0)
    _enhance(temporal_filter, caller, (camera, depth, alpha), RENDER + 0.4, (2,))
    nearer = depth.clone()
    nearer[:, 48:] *= 0.9
    steadied, references = _enhance(temporal_filter, caller, (camera, nearer, alpha), RENDER)
    assert references == (2,)
    assert (steadied[8:-8, 8:44] > RENDER[0, 0, 0] + 0.1).all()
    assert torch.equal(steadied[:, 50:], RENDER[:, 50:])


@pytest.mark.parametrize("reason", ["moved", "splat", "size", "caller", "forgotten", "none"])
def test_frames_that_are_no_neighbours_stand_alone(reason: str) -> None:
    temporal_filter, caller = TemporalFilter(), _Caller()
    _enhance(temporal_filter, caller, _planes(0.0), RENDER + 0.4, (5,))
    previous = temporal_filter.previous(caller, *_planes(0.0), 0)
    assert previous is not None and previous.references == (5,)
    camera, depth, alpha = _planes(0.0)
    version, asks = 0, caller
    if reason == "moved":
        camera, depth, alpha = _planes(1.0)
        assert motion(camera, depth, alpha, straight(0.0)) > MAX_MOTION
    elif reason == "splat":
        version = 1
    elif reason == "size":
        camera, depth, alpha = camera.resized(48, 32), depth[::2, ::2], alpha[::2, ::2]
    elif reason == "caller":
        asks = _Caller()
    elif reason == "forgotten":
        temporal_filter.forget()
    else:
        asks = None
    render = RENDER[: depth.shape[0], : depth.shape[1]]
    planes = (camera, depth, alpha)
    steadied, references = _enhance(temporal_filter, asks, planes, render + 0.1, version=version, render=render)
    assert references == () and torch.equal(steadied, render + (render + 0.1 - render))


def test_each_thread_has_a_sequence_of_its_own_that_ends_with_it() -> None:
    temporal_filter = TemporalFilter()
    seen: list[tuple[int, ...]] = []

    def render(number: int) -> None:
        caller = threading.current_thread()
        for _ in range(2):
            seen.append(_enhance(temporal_filter, caller, _planes(0.0), RENDER, (number,))[1])

    for number in (1, 2):
        thread = threading.Thread(target=render, args=(number,))
        thread.start()
        thread.join()
    assert seen == [(), (1,), (), (2,)]
    del thread
    gc.collect()
    assert len(temporal_filter._last) == 0


def test_half_precision_and_float64_depth() -> None:
    temporal_filter, caller = TemporalFilter(), _Caller()
    camera, depth, alpha = _planes(0.0)
    for dtype in (torch.float16, torch.float64):
        for _ in range(2):
            planes = (camera, depth.to(dtype), alpha.to(dtype))
            steadied, _ = _enhance(temporal_filter, caller, planes, RENDER + 0.1, version=dtype)
        assert steadied.dtype == torch.float32
        assert (steadied - 0.6).abs().max() < 1e-5
