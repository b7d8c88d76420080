"""What stands in for large parts of the program where a test is about others."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig


class FlatSplat:
    """A splat that shows the same depth everywhere, and counts how often it is rendered."""

    def __init__(self, count: int, mode: str = "off") -> None:
        self.step = 0
        self.device = torch.device("cpu")
        self.background_color = torch.tensor([1.0, 0.0, 0.0])
        self.camera_optimizer = CameraOptimizerConfig(mode=mode).setup(num_cameras=count, device="cpu")  # type: ignore[arg-type]
        self.rendered: list[tuple[torch.Tensor, torch.Tensor, int, int]] = []

    def median_depth(
        self, pose: torch.Tensor, intrinsics: torch.Tensor, width: int, height: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.rendered.append((pose, intrinsics, width, height))
        return torch.full((height, width, 1), 2.0), torch.ones(height, width, 1)

    def composite_with_background(self, image: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
        return image[..., 3:] * image[..., :3] + (1 - image[..., 3:]) * background


class GreySplat(FlatSplat):
    """The same, with colours: grey everywhere."""

    training = True

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def eval(self) -> None:
        self.training = False

    def get_outputs_for_camera(self, camera: Any) -> dict[str, torch.Tensor]:
        assert not self.training
        return {"rgb": torch.full((int(camera.height), int(camera.width), 3), 0.5)}
