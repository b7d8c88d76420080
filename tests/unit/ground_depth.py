"""A prior of depth for scenes above a plane, which knows where it lies."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors.base import Depth, DepthMap, State

HEIGHT = -0.5  # of the plane
BLUR = 0.01  # standard deviation of log depth that it states; twice as much in the left half of each picture

shown: list[PosedImage] = []  # photographs of the last call


class GroundDepth:
    def start(self, photographs: Sequence[PosedImage], seed: int = 0) -> State:
        shown[:] = photographs
        return {"done": torch.tensor(0)}

    def steps_left(self, state: State) -> int:
        return len(shown) - int(state["done"])

    def step(self, state: State) -> State:
        return {"done": state["done"] + 1}

    def result(self, state: State) -> list[DepthMap]:
        return [_plane(photograph) for photograph in shown]


def _plane(photograph: PosedImage) -> DepthMap:
    camera = photograph.pose
    pixels = torch.stack(
        torch.meshgrid(torch.arange(camera.width) + 0.5, torch.arange(camera.height) + 0.5, indexing="xy"), -1
    )
    rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ camera.intrinsics.float().inverse().T
    falling = rays @ camera.camera_to_world[2, :3].float()
    depth = ((HEIGHT - float(camera.position[2])) / falling)[..., None]
    uncertainty = torch.full_like(depth, BLUR)
    uncertainty[:, : camera.width // 2] *= 2
    below = depth > 0
    return DepthMap(depth.where(below, 0.0), uncertainty.where(below, torch.inf))


def load(weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Depth:
    return GroundDepth()
