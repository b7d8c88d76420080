"""Temporal filter: the previous frame steadies the next one, so that an enhanced video does not flicker."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
class EnhancedFrame:
    """An enhanced frame."""

    camera: Pinhole
    depth: Tensor  # [H, W, 1] median depth of the splat
    alpha: Tensor  # [H, W, 1] opacity of the splat
    version: Any  # of splat and settings; frames of another one are not neighbours
    references: tuple[int, ...]  # photographs shown to the fixer
    change: Tensor  # [H, W, 3] fixed picture less render


class TemporalFilter:
    """Memory of the last frame of each sequence, as long as its caller lives.

    Two viewers or threads have a sequence each. It is not safe to call from two threads at once.

    Args:
        blend: see ``BLEND``; 0 reuses references alone.
    """

    def __init__(self, blend: float = BLEND) -> None:
        self.blend = blend
        self._last: WeakKeyDictionary[Any, EnhancedFrame] = WeakKeyDictionary()

    def previous(
        self, caller: Any, camera: Pinhole, depth: Tensor, alpha: Tensor, version: Any
    ) -> EnhancedFrame | None:
        """Return the caller's last frame if the camera moved little since then and nothing else changed.

        Args:
            caller: whose sequence it is, any object that can be referred to weakly; None for a picture of its own.
            camera: of the new frame.
            depth: [H, W, 1] of the new frame.
            alpha: [H, W, 1] of the new frame.
            version: of the new frame.
        """
        last = None if caller is None else self._last.get(caller)
        if last is None or last.version != version or last.depth.shape != depth.shape:
            return None
        return None if motion(camera, depth, alpha, last.camera) > MAX_MOTION else last

    def blend_with_previous(self, caller: Any, frame: EnhancedFrame, previous: EnhancedFrame | None) -> Tensor:
        """Blend a frame's change with the previous one's, by the splat's depth, and remember the frame.

        The render is not touched: what the splat shows moves as before, and only what the fixer adds is steadied.

        Args:
            caller: as given to ``previous``.
            frame: the new one.
            previous: the one before; None: the first of a sequence.

        Returns:
            The steadied change [H, W, 3].
        """
        if previous is not None and self.blend > 0:
            image = PosedImage(previous.change, previous.camera, previous.depth, previous.alpha)
            warps = warp_references(frame.camera, frame.depth, frame.alpha, [image], _SAME_SURFACE)
            share = self.blend * warps.visibility[0].to(frame.change)
            frame = replace(frame, change=torch.lerp(frame.change, warps.images[0].to(frame.change), share))
        if caller is not None:
            self._last[caller] = frame
        return frame.change

    def forget(self) -> None:
        """Start over: the next frame of every caller is the first."""
        self._last.clear()


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
