"""What the frame before says about the next one, so that an enhanced video does not flicker."""

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

CARRIED = 0.5
"""share of the former frame's change that is carried over where it shows the same surface; see docs/flicker.md"""
NEIGHBOURING = 0.05
"""mean motion between two frames, as a share of the longer side, up to which they belong to one sequence"""
_SAME_SURFACE = 0.01  # relative depth error: neighbours differ by less, and what is carried must not smear over edges
_STRIDE = 8  # pixels: motion is smooth


@dataclass(frozen=True)
class _Shown:
    """A frame that was enhanced."""

    camera: Pinhole
    depth: Tensor  # [H, W, 1]
    alpha: Tensor  # [H, W, 1]
    stamp: Any
    references: tuple[int, ...]
    change: Tensor  # [H, W, 3] fixed picture less render


class Continuity:
    """Remembers the last frame of each sequence, as long as who asks for it lives.

    Two viewers or threads have a sequence each. It is not safe to call from two threads at once.

    Args:
        carried: see ``CARRIED``; 0 shares references alone.
    """

    def __init__(self, carried: float = CARRIED) -> None:
        self.carried = carried
        self._last: WeakKeyDictionary[Any, _Shown] = WeakKeyDictionary()

    def frame(self, caller: Any, camera: Pinhole, depth: Tensor, alpha: Tensor, stamp: Any) -> Frame:
        """A new frame, after the caller's last one if the camera moved little and nothing else changed.

        Args:
            caller: whose sequence it is, any object that can be referred to weakly; None for a picture of its own.
            camera: of the frame.
            depth: [H, W, 1] median depth of the splat.
            alpha: [H, W, 1] opacity of the splat.
            stamp: of splat and settings; frames of another one are not neighbours.
        """
        last = None if caller is None else self._last.get(caller)
        if last is not None and (
            last.stamp != stamp
            or last.depth.shape != depth.shape
            or motion(camera, depth, alpha, last.camera) > NEIGHBOURING
        ):
            last = None
        return Frame(self, caller, camera, depth, alpha, stamp, last)

    def forget(self) -> None:
        """The next frame of every caller is the first."""
        self._last.clear()

    def _remember(self, caller: Any, shown: _Shown) -> None:
        if caller is not None:
            self._last[caller] = shown


@dataclass(frozen=True)
class Frame:
    """A frame and the one before, if it has one."""

    continuity: Continuity
    caller: Any
    camera: Pinhole
    depth: Tensor  # [H, W, 1]
    alpha: Tensor  # [H, W, 1]
    stamp: Any
    last: _Shown | None

    @property
    def former_references(self) -> tuple[int, ...]:
        """Of the frame before; empty for a first one."""
        return () if self.last is None else self.last.references

    def settle(self, render: Tensor, fixed: Tensor, references: Sequence[int]) -> Tensor:
        """The fixed picture with a part of its change taken from the frame before, by the splat's depth.

        The render is not touched: what the splat shows moves as before, and only what the fixer adds is steadied.

        Args:
            render: [H, W, 3].
            fixed: [H, W, 3] what the fixer made of it.
            references: what it was shown.

        Returns:
            [H, W, 3], also remembered for the frame after.
        """
        change = fixed - render
        if self.last is not None and self.continuity.carried > 0:
            former = PosedImage(self.last.change, self.last.camera, self.last.depth, self.last.alpha)
            warps = warp_references(self.camera, self.depth, self.alpha, [former], _SAME_SURFACE)
            share = self.continuity.carried * warps.visibility[0].to(change)
            change = torch.lerp(change, warps.images[0].to(change), share)
        shown = _Shown(self.camera, self.depth, self.alpha, self.stamp, tuple(references), change)
        self.continuity._remember(self.caller, shown)
        return render + change


def motion(camera: Pinhole, depth: Tensor, alpha: Tensor, other: Pinhole) -> float:
    """How far what a camera sees lies from its place in another camera's picture.

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
