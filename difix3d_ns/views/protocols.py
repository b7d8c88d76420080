"""Protocols of a scene and its splat for guidance and the enhancer; ``ns`` implements them over nerfstudio."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage


@dataclass(frozen=True)
class Render:
    """A render of the splat."""

    image: Tensor  # [H, W, 3] in [0, 1]
    alpha: Tensor  # [H, W, 1] accumulated opacity in [0, 1]
    depth: Tensor | None = None  # [H, W, 1] median depth along z, scene units, 0 where nothing is


@dataclass(frozen=True)
class PointCloud:
    """Points a training starts from."""

    positions: Tensor  # [N, 3] world
    colours: Tensor  # [N, 3] uint8


@dataclass(frozen=True)
class PhotoDepth:
    """Depth of a photograph, measured or estimated, over its field of view, at any size."""

    depth: Tensor  # [h, w, 1] along z, scene units, 0 where it is not known
    confidence: Tensor  # [h, w, 1] in [0, 1]; 0 where depth is not known or not to be used


class Scene(Protocol):
    """The training photographs; nothing is rendered."""

    def __len__(self) -> int:
        """Return the number of photographs."""
        ...

    def points(self) -> Tensor | None:
        """Points [P, 3] on surfaces that training starts from, world; None if it has none."""
        ...

    def given_points(self) -> Tensor | None:
        """Points [P, 3] on surfaces that came with the scene, world; None if it has none."""
        ...

    def names(self) -> list[str]:
        """File names of all photographs, with folders as far as they differ."""
        ...

    def generated(self, index: int) -> bool:
        """Return whether a generator made this frame."""
        ...

    def cameras(self) -> list[Pinhole]:
        """Cameras of all photographs, undistorted, at their optimised poses."""
        ...

    def photo(self, index: int) -> PosedImage:
        """A photograph, undistorted, with camera and mask."""
        ...

    def camera(self, index: int) -> Pinhole:
        """Camera of a photograph, undistorted, at its optimised pose."""
        ...

    def mask(self, index: int) -> Tensor | None:
        """Return what a photograph shows [H, W, 1] in [0, 1], by its mask and its silhouette; None: all of it."""
        ...

    def used(self, index: int) -> Tensor | None:
        """Return which pixels of a photograph are used [H, W, 1] in [0, 1], transparent ones among them; None: all."""
        ...

    def alpha(self, index: int) -> Tensor | None:
        """Return the silhouette of a cut-out photograph [H, W, 1] in [0, 1]; None if it is not cut out."""
        ...

    @property
    def background(self) -> Tensor:
        """Colour [3] that cut-out photographs stand before."""
        ...

    def depth(self, index: int) -> PhotoDepth | None:
        """Return the depth of a photograph, undistorted, measured or estimated; None if it has none."""
        ...

    def unoptimized_camera(self, index: int) -> Pinhole:
        """Camera of a photograph, undistorted, without its pose correction: for a view that stands for it."""
        ...

    def evaluation_cameras(self) -> list[Pinhole]:
        """Cameras of evaluation; only for a kind of target that says so."""
        ...


class Renderer(Protocol):
    """The splat as it is now; what it renders is not seen by densification."""

    @property
    def step(self) -> int:
        """Step of training the splat is at."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the splat and its renders."""
        ...

    def fit_at(self, step: int) -> bool:
        """Return whether the splat is worth rendering: densified once, at full resolution, recovered from a reset."""
        ...

    def render(self, camera: Pinhole, depth: bool = False, photo: int | None = None) -> Render:
        """Render what is seen from a camera.

        Args:
            camera: of any size.
            depth: whether the median depth is rendered too.
            photo: the photograph that the render is compared with, whose exposure it gets; None: none.
        """
        ...

    def median_depth(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Render (depth [H, W, 1] along z, 0 where nothing is; accumulated opacity [H, W, 1]) from a camera."""
        ...

    def exclusive(self) -> AbstractContextManager[object]:
        """Keep other threads from training meanwhile: for what touches the generators or the splat."""
        ...


class References(Protocol):
    """The photographs as references of a view, with what the splat shows at their poses."""

    def select(self, camera: Pinhole, render: Render, count: int, keep: Sequence[int] = ()) -> list[int]:
        """Choose the photographs that together show most of a view, most useful first.

        Args:
            camera: of the view.
            render: of it, with depth.
            count: how many.
            keep: those of the previous frame; they stay while they serve.
        """
        ...

    def view(self, index: int) -> PosedImage:
        """A photograph with the splat's median depth and opacity at its pose."""
        ...

    def prepare(self, cameras: Sequence[Pinhole], budget: int) -> bool:
        """Render at most ``budget`` of the photographs that views at ``cameras`` may need; True: nothing is left."""
        ...

    def forget(self) -> None:
        """Render again at the next use."""
        ...
