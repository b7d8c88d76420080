"""Stand-ins for large parts of the program where a test is about others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors.base import Fixer, FixRequest, FixResult
from difix3d_ns.views.protocols import Render


class ModelOfScene:
    """The part of a model that a scene uses: a background, and poses that move if ``mode`` is not off."""

    def __init__(self, count: int, mode: str = "off") -> None:
        self.device = torch.device("cpu")
        self.background_color = torch.tensor([1.0, 0.0, 0.0])
        self.seed_points: tuple[torch.Tensor, torch.Tensor] | None = None
        config = CameraOptimizerConfig()
        config.mode = mode  # type: ignore[assignment]
        self.camera_optimizer: CameraOptimizer = config.setup(num_cameras=count, device="cpu")

    def composite_with_background(self, image: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
        alpha = image[..., 3:]
        return image if image.shape[-1] == 3 else alpha * image[..., :3] + (1 - alpha) * background


class FlatRenderer:
    """A splat that is grey and at the same depth everywhere, and counts how often it is rendered."""

    def __init__(self, fit_from: int = 0, depth: float = 2.0) -> None:
        self.step = 0
        self.device = torch.device("cpu")
        self.rendered: list[Pinhole] = []
        self.held = 0
        """how often it was had exclusively"""
        self._fit_from = fit_from
        self._depth = depth

    def fit_at(self, step: int) -> bool:
        return step >= self._fit_from

    def median_depth(self, camera: Pinhole) -> tuple[torch.Tensor, torch.Tensor]:
        self.rendered.append(camera)
        size = camera.height, camera.width, 1
        return torch.full(size, self._depth), torch.ones(size)

    def render(self, camera: Pinhole, depth: bool = False, photo: int | None = None) -> Render:
        median, alpha = self.median_depth(camera)
        return Render(torch.full((camera.height, camera.width, 3), 0.5), alpha, median if depth else None)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        self.held += 1
        yield


class NoReferences:
    """Photographs none of which shows anything."""

    def select(self, camera: Pinhole, render: Render, count: int, keep: Sequence[int] = ()) -> list[int]:
        return []

    def view(self, index: int) -> PosedImage:
        raise LookupError(index)

    def prepare(self, cameras: Sequence[Pinhole], budget: int) -> bool:
        return True

    def forget(self) -> None:
        pass


class DeepFixer(Fixer):
    """A fixer that finds the depth 2 everywhere, and is sure of that alone."""

    trained_references = 1
    generative = False

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        ones = [torch.ones_like(request.image[..., :1]) for request in requests]
        return [FixResult(r.image, o * 0, o * 2, o) for r, o in zip(requests, ones, strict=True)]
