"""Neighbouring frames: what the fixer adds is carried along with the surfaces, and nothing else is."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from difix3d_ns.enhance.temporal import MAX_MOTION, TemporalFilter, motion
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


def test_what_sticks_to_the_surface_is_left_as_it_is() -> None:
    temporal_filter, caller = TemporalFilter(0.5), _Caller()
    for x in (0.0, 0.1, 0.2):
        frame = temporal_filter.frame(caller, *_planes(x), version=0)
        settled = frame.blend_with_previous(RENDER, RENDER + _pattern(x), [0])
        assert (settled - RENDER - _pattern(x)).abs().max() < 0.01


def test_what_flickers_is_carried_with_the_surface() -> None:
    """Noise of each frame's own is damped, by the share that is carried."""
    torch.manual_seed(0)
    flicker = {}
    for carried in (0.0, 0.5):
        temporal_filter, caller = TemporalFilter(carried), _Caller()
        settled = []
        for i in range(6):  # standing still, so that only noise differs
            frame = temporal_filter.frame(caller, *_planes(0.0), version=0)
            noise = torch.randn(64, 96, 3, generator=torch.Generator().manual_seed(i)) * 0.1
            settled.append(frame.blend_with_previous(RENDER, RENDER + noise, [0]))
        inner = torch.stack(settled[3:])[:, 8:-8, 8:-8]
        flicker[carried] = float((inner[1:] - inner[:-1]).abs().mean())
    assert flicker[0.5] < 0.5 * flicker[0.0]


def test_the_render_itself_is_not_carried() -> None:
    temporal_filter, caller = TemporalFilter(0.5), _Caller()
    for value in (0.2, 0.8):
        render = torch.full((64, 96, 3), value)
        frame = temporal_filter.frame(caller, *_planes(0.0), version=0)
        torch.testing.assert_close(frame.blend_with_previous(render, render, [1]), render)


def test_nothing_is_carried_where_the_frame_before_showed_another_surface() -> None:
    temporal_filter, caller = TemporalFilter(0.5), _Caller()
    camera, depth, alpha = _planes(0.0)
    temporal_filter.frame(caller, camera, depth, alpha, 0).blend_with_previous(RENDER, RENDER + 0.4, [2])
    nearer = depth.clone()
    nearer[:, 48:] *= 0.9
    frame = temporal_filter.frame(caller, camera, nearer, alpha, 0)
    assert frame.previous_references == (2,)
    settled = frame.blend_with_previous(RENDER, RENDER, [2])
    assert (settled[8:-8, 8:44] > RENDER[0, 0, 0] + 0.1).all()
    assert torch.equal(settled[:, 50:], RENDER[:, 50:])


@pytest.mark.parametrize("reason", ["moved", "splat", "size", "caller", "forgotten", "none"])
def test_frames_that_are_no_neighbours_stand_alone(reason: str) -> None:
    temporal_filter, caller = TemporalFilter(), _Caller()
    temporal_filter.frame(caller, *_planes(0.0), version=0).blend_with_previous(RENDER, RENDER + 0.4, [5])
    assert temporal_filter.frame(caller, *_planes(0.0), version=0).previous_references == (5,)
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
    frame = temporal_filter.frame(asks, camera, depth, alpha, version)
    assert frame.previous_references == ()
    render = RENDER[: depth.shape[0], : depth.shape[1]]
    assert torch.equal(frame.blend_with_previous(render, render + 0.1, [1]), render + (render + 0.1 - render))


def test_each_thread_has_a_sequence_of_its_own_that_ends_with_it() -> None:
    temporal_filter = TemporalFilter()
    seen: list[tuple[int, ...]] = []

    def render(number: int) -> None:
        caller = threading.current_thread()
        for _ in range(2):
            frame = temporal_filter.frame(caller, *_planes(0.0), version=0)
            seen.append(frame.previous_references)
            frame.blend_with_previous(RENDER, RENDER, [number])

    for number in (1, 2):
        thread = threading.Thread(target=render, args=(number,))
        thread.start()
        thread.join()
    assert seen == [(), (1,), (), (2,)]
    del thread
    gc.collect()
    assert len(temporal_filter._previous) == 0


def test_half_precision_and_float64_depth() -> None:
    temporal_filter, caller = TemporalFilter(), _Caller()
    camera, depth, alpha = _planes(0.0)
    for dtype in (torch.float16, torch.float64):
        for _ in range(2):
            frame = temporal_filter.frame(caller, camera, depth.to(dtype), alpha.to(dtype), dtype)
            settled = frame.blend_with_previous(RENDER, RENDER + 0.1, [0])
        assert settled.dtype == torch.float32
        assert (settled - 0.6).abs().max() < 1e-5
