"""Temporal filter: the previous frame steadies the next one, so that an enhanced video does not flicker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import opaque, project, unproject, warp_references

BLEND = 0.5
"""share of the previous frame's change that is blended in where it shows the same surface; see docs/flicker.md"""
MAX_MOTION = 0.05
"""mean motion between two frames, as a share of the longer side, up to which they belong to one sequence"""
_SAME_SURFACE = (
    0.01  # relative depth error: neighbours differ by less, and what is blended in must not smear over edges
)
_STRIDE = 8  # pixels: motion is smooth


@dataclass(frozen=True)
class _EnhancedFrame:
    """An enhanced frame."""

    camera: Pinhole
    depth: Tensor  # [H, W, 1]
    alpha: Tensor  # [H, W, 1]
    version: Any
    references: tuple[int, ...]
    change: Tensor  # [H, W, 3] fixed picture less render


class TemporalFilter:
    """Memory of the last frame of each sequence, as long as its caller lives.

    Two viewers or threads have a sequence each. It is not safe to call from two threads at once.

    Args:
        blend: see ``BLEND``; 0 reuses references alone.
    """

    def __init__(self, blend: float = BLEND) -> None:
        self.blend = blend
        self._previous: WeakKeyDictionary[Any, _EnhancedFrame] = WeakKeyDictionary()

    def frame(self, caller: Any, camera: Pinhole, depth: Tensor, alpha: Tensor, version: Any) -> Frame:
        """Make a new frame, after the caller's previous one if the camera moved little and nothing else changed.

        Args:
            caller: whose sequence it is, any object that can be referred to weakly; None for a picture of its own.
            camera: of the frame.
            depth: [H, W, 1] median depth of the splat.
            alpha: [H, W, 1] opacity of the splat.
            version: of splat and settings; frames of another one are not neighbours.
        """
        previous = None if caller is None else self._previous.get(caller)
        if previous is not None and (
            previous.version != version
            or previous.depth.shape != depth.shape
            or motion(camera, depth, alpha, previous.camera) > MAX_MOTION
        ):
            previous = None
        return Frame(self, caller, camera, depth, alpha, version, previous)

    def forget(self) -> None:
        """Start over: the next frame of every caller is the first."""
        self._previous.clear()

    def _remember(self, caller: Any, frame: _EnhancedFrame) -> None:
        if caller is not None:
            self._previous[caller] = frame


@dataclass(frozen=True)
class Frame:
    """A frame and the previous one, if it has one."""

    temporal_filter: TemporalFilter
    caller: Any
    camera: Pinhole
    depth: Tensor  # [H, W, 1]
    alpha: Tensor  # [H, W, 1]
    version: Any
    previous: _EnhancedFrame | None

    @property
    def previous_references(self) -> tuple[int, ...]:
        """Return the references of the previous frame; none for a first one."""
        return () if self.previous is None else self.previous.references

    def blend_with_previous(self, render: Tensor, fixed: Tensor, references: Sequence[int]) -> Tensor:
        """Take a part of the fixed picture's change from the previous frame, by the splat's depth.

        The render is not touched: what the splat shows moves as before, and only what the fixer adds is steadied.

        Args:
            render: [H, W, 3].
            fixed: [H, W, 3] the fixer's picture of it.
            references: photographs it was shown.

        Returns:
            [H, W, 3], also remembered for the frame after.
        """
        change = fixed - render
        previous = self.previous
        if previous is not None and self.temporal_filter.blend > 0:
            image = PosedImage(previous.change, previous.camera, previous.depth, previous.alpha)
            warps = warp_references(self.camera, self.depth, self.alpha, [image], _SAME_SURFACE)
            share = self.temporal_filter.blend * warps.visibility[0].to(change)
            change = torch.lerp(change, warps.images[0].to(change), share)
        enhanced = _EnhancedFrame(self.camera, self.depth, self.alpha, self.version, tuple(references), change)
        self.temporal_filter._remember(self.caller, enhanced)
        return render + change


def motion(camera: Pinhole, depth: Tensor, alpha: Tensor, other: Pinhole) -> float:
    """Measure how far what a camera sees lies from its place in another camera's picture.

    Args:
        camera: of the view.
        depth: [H, W, 1] its depth, scene units.
        alpha: [H, W, 1] its opacity; what is not opaque does not count.
        other: the other camera.

    Returns:
        Mean over the pixels, as a share of the longer side, each at most 1; 1 where nothing is to be seen.
    """
    step = slice(_STRIDE // 2, None, _STRIDE)
    height, width = depth.shape[:2]
    camera, other = camera.resized(width, height).to(depth.device), other.resized(width, height).to(depth.device)
    weight = opaque(alpha[step, step, 0].float()) * (depth[step, step, 0] > 0)
    if not weight.any():
        return 1.0
    points = unproject(depth.float().nan_to_num(0.0, 0.0, 0.0), camera)[step, step]
    here, _ = project(points, camera)
    there, z = project(points, other)
    moved = ((there - here).norm(dim=-1) / max(width, height)).clamp(max=1).where(z > 0, 1.0)
    return float((moved * weight).sum() / weight.sum())
