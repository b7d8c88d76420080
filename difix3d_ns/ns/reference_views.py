"""The training photographs as reference views: pictures, true cameras, and the splat seen from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.poses import camera_spacing, pose_distances, stack_poses
from difix3d_ns.views.protocols import Render, Renderer, Scene
from difix3d_ns.views.references import thinned
from difix3d_ns.views.reused_references import reuse_references

MAX_PLANE_BYTES = 2**28
"""of the whole planes that are kept: those of 37 photographs of 1600 x 1064, more than are considered for a view"""


@dataclass(frozen=True)
class _SplatView:
    """The splat seen from a photograph's pose, thinned: as much as choosing needs."""

    step: int
    camera: Pinhole
    depth: Tensor  # [h, w, 1] float16
    alpha: Tensor  # [h, w, 1] float16
    mask: Tensor | None  # [h, w, 1] float16


class _Planes(NamedTuple):
    """Depth and opacity at all pixels; half precision is 100 times finer than what a warp tolerates."""

    depth: Tensor  # [H, W, 1] float16
    alpha: Tensor  # [H, W, 1] float16

    @property
    def nbytes(self) -> int:
        """Return the bytes they take."""
        return self.depth.nbytes + self.alpha.nbytes


class ReferenceViews:
    """Training photographs as references; what the splat shows at their poses is rendered again when it has changed.

    Of each, thinned planes are kept (some 100 KiB, whatever its size), and the whole ones, four bytes a pixel, of those
    used last, at most ``MAX_PLANE_BYTES`` together; others are rendered again when they are used. See
    ``views.protocols.References``.

    Args:
        scene: whose photographs.
        renderer: of the splat.
        max_age: training steps after which the splat's depth at the photographs counts as outdated. Between rounds the
            geometry moves little, and rendering all photographs costs as much as that many training steps.
        nearest: how many photographs, the nearest by pose, are considered for a view. What a further one could add, one
            of 32 nearer ones shows as well, and large captures cost no more than small ones.
    """

    def __init__(self, scene: Scene, renderer: Renderer, max_age: int = 200, nearest: int = 32) -> None:
        self._scene = scene
        self._renderer = renderer
        self._max_age = max_age
        self._nearest = nearest
        self._seen: dict[int, _SplatView] = {}
        self._planes: dict[int, _Planes] = {}  # those used last at the end

    def select(self, camera: Pinhole, render: Render, count: int, keep: Sequence[int] = ()) -> list[int]:
        """Choose the photographs that together show most of a view, most useful first.

        Args:
            camera: of the view.
            render: of it, with depth.
            count: how many.
            keep: positions chosen for the previous frame, see ``reuse_references``.
        """
        if count < 1:
            return []
        candidates = self._candidates(camera)
        for index in candidates:
            if not self._is_fresh(index):
                self._render(index)
        seen = [self._seen[index] for index in candidates]
        kept = [candidates.index(index) for index in keep if index in candidates]
        assert render.depth is not None
        chosen = reuse_references(camera, render.depth, render.alpha, seen, count, kept)
        return [candidates[position] for position in chosen]

    def view(self, index: int) -> PosedImage:
        """A photograph with the splat's median depth and opacity at its pose, as they were last rendered."""
        if index not in self._planes:
            self._render(index)
        planes = self._planes[index] = self._planes.pop(index)
        photo = self._scene.photo(index)
        camera = self._seen[index].camera
        return replace(photo, camera=camera, depth=planes.depth.float(), alpha=planes.alpha.float())

    def prepare(self, cameras: Sequence[Pinhole], budget: int) -> bool:
        """Render some of what choosing references for ``cameras`` needs.

        Args:
            cameras: of the views that are going to need references.
            budget: how many photographs to render at; call again in the next training step for the others.

        Returns:
            True if nothing was left to render.
        """
        needed = dict.fromkeys(index for camera in cameras for index in self._candidates(camera))
        outdated = [index for index in needed if not self._is_fresh(index)]
        for index in outdated[:budget]:
            self._render(index)
        return not outdated

    def forget(self) -> None:
        """Render again at the next use."""
        self._seen.clear()
        self._planes.clear()

    def _candidates(self, camera: Pinhole) -> list[int]:
        """The nearest photographs by pose, in the order of the dataset."""
        cameras = self._scene.cameras()
        if len(cameras) <= self._nearest:
            return list(range(len(cameras)))
        poses = stack_poses(cameras)
        distances = pose_distances(stack_poses([camera]), poses, camera_spacing(poses))[0]
        return sorted(distances.topk(self._nearest, largest=False).indices.tolist())

    def _is_fresh(self, index: int) -> bool:
        return index in self._seen and 0 <= self._renderer.step - self._seen[index].step <= self._max_age

    def _render(self, index: int) -> None:
        camera, mask = self._scene.camera(index), self._scene.mask(index)
        depth, alpha = self._renderer.median_depth(camera)
        largest = torch.finfo(torch.float16).max
        planes = _Planes(depth.clamp(max=largest).half(), alpha.half())
        self._seen[index] = _SplatView(
            self._renderer.step,
            camera,
            thinned(planes.depth).clone(),  # a view of them would keep them
            thinned(planes.alpha).clone(),
            None if mask is None else thinned(mask).to(torch.float16, copy=True),
        )
        self._planes.pop(index, None)
        held = sum(others.nbytes for others in self._planes.values())
        while self._planes and held + planes.nbytes > MAX_PLANE_BYTES:
            held -= self._planes.pop(next(iter(self._planes))).nbytes
        self._planes[index] = planes
