"""Base of generators of orbits that make a closed shape of one silhouette and look at it from all around."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from difix3d_ns.geometry.object_frame import RADIUS, object_cameras
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.priors.base import ObjectFrame, State

_REACH, _SAMPLES = 1.0, 112
"""before and behind the object's middle, where a ray is followed, and how many places of it are looked at"""


class SilhouetteOrbit(ABC):
    """A generator behind the contract of ``OrbitGenerator``: a camera a step; seeds change nothing.

    Args:
        device: where it is computed; states stay on the CPU.
    """

    generative = False
    voxels, half = 96, 0.68
    """along each side of the volume, and half of that side; an object's longest side is 1"""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @abstractmethod
    def shape(self, photo: Tensor, elevation: float, camera: Pinhole) -> dict[str, Tensor]:
        """Make the shape, as tensors of the state: "volume", how far inside places are, and what ``coloured`` needs.

        Args:
            photo: [P, P, 4] in [0, 1], on the CPU.
            elevation: degrees.
            camera: of the photograph, at its size.
        """

    @abstractmethod
    def coloured(self, state: State, camera: Pinhole, places: Tensor) -> Tensor:
        """Colours [S, S, 3] of places [S, S, 3] of the surface.

        Args:
            state: with what ``shape`` made.
            camera: of the photograph.
            places: on the device.
        """

    def places(self) -> Tensor:
        """Places [N, N, N, 3] of the volume, in the order of ``grid_sample``."""
        axis = (2 * (torch.arange(self.voxels) + 0.5) / self.voxels - 1) * self.half
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        return torch.stack([x, y, z], -1)

    def surface(self, volume: Tensor, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Depth [S, S, 1] of the first surface along each ray, or where it is nearest to one, and silhouette.

        Args:
            volume: [N, N, N], how far inside of the object places are; 1 is the width of a soft outline.
            camera: whose rays.
        """
        camera, volume = camera.to(self._device), volume.to(self._device)
        depths = torch.linspace(RADIUS - _REACH, RADIUS + _REACH, _SAMPLES, device=self._device)
        ways = unproject(torch.ones(camera.height, camera.width, 1, device=self._device), camera) - camera.position
        found = []
        for row in ways.split(32):
            grid = ((camera.position + row * depths[:, None, None, None]) / self.half)[None]
            values = F.grid_sample(volume[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
            best, nearest = values.max(0)
            solid = values > 0
            first = torch.where(solid.any(0), solid.float().argmax(0), nearest)
            before = (first - 1).clamp_min(0)
            now, then = values.gather(0, first[None])[0], values.gather(0, before[None])[0]
            share = (now / (now - then).clamp_min(1e-6)).clamp(0, 1) * solid.any(0)
            depth = depths[first] - share * (depths[1] - depths[0])
            found.append(torch.stack([depth, (best + 0.5).clamp(0, 1)], -1))
        depth, alpha = torch.cat(found).split(1, -1)
        return depth, alpha

    def seen(self, state: State, taken: Pinhole, camera: Pinhole) -> ObjectFrame:
        """The shape from a camera.

        Args:
            state: with what ``shape`` made.
            taken: camera of the photograph.
            camera: of the frame.
        """
        depth, alpha = self.surface(state["volume"], camera)
        image = self.coloured(state, taken, unproject(depth, camera))
        return ObjectFrame(image.clamp(0, 1), alpha, depth * (alpha > 0.5))

    def start(self, photo: Tensor, elevation: float, count: int, seed: int = 0) -> State:
        """Create the state of the work (contract of ``OrbitGenerator``).

        Raises:
            ValueError: the picture is not square, or has no silhouette.
        """
        side = photo.shape[0]
        if photo.shape != (side, side, 4) or not bool((photo[..., 3] > 0.5).any()):
            raise ValueError("a square picture with a silhouette is needed")
        photo = photo.detach().cpu().float()
        return {
            "photo": photo,
            "elevation": torch.tensor(elevation, dtype=torch.float64),
            "count": torch.tensor(count),
            "done": torch.tensor(0),
            **self.shape(photo, elevation, _cameras(elevation, side, count)[0]),
        }

    def steps_left(self, state: State) -> int:
        """Number of frames that are not made yet."""
        return int(state["count"]) - int(state["done"])

    @torch.no_grad()
    def step(self, state: State) -> State:
        """Make the next frame."""
        number, photo = int(state["done"]), state["photo"]
        cameras = _cameras(float(state["elevation"]), photo.shape[0], int(state["count"]))
        frame = self.seen(state, cameras[0], cameras[number])
        assert frame.depth is not None
        found = {"image": frame.image.cpu(), "alpha": frame.alpha.cpu(), "depth": frame.depth.cpu()}
        if number == 0:  # shown as it is
            solid = photo[..., 3:] > 0.5
            found = {"image": photo[..., :3], "alpha": photo[..., 3:], "depth": found["depth"] * solid}
        return {
            **state,
            **{f"{name}/{number}": values for name, values in found.items()},
            "done": state["done"] + 1,
        }

    def result(self, state: State) -> list[ObjectFrame]:
        """The frames, from the photograph on."""
        return [
            ObjectFrame(state[f"image/{number}"], state[f"alpha/{number}"], state[f"depth/{number}"])
            for number in range(int(state["count"]))
        ]


def _cameras(elevation: float, side: int, count: int) -> list[Pinhole]:
    return object_cameras(elevation, side, count, dtype=torch.float32)


def spread(photo: Tensor) -> Tensor:
    """The colours [S, S, 3] of a cut-out picture, beyond its outline those of the nearest pixel."""
    solid = (photo[..., 3] > 0.9).numpy()
    if not solid.any():
        solid = (photo[..., 3] > 0.5).numpy()
    rows, columns = nearest_inside(solid)
    return photo[rows, columns, :3]


def nearest_inside(solid: np.ndarray) -> tuple[Tensor, Tensor]:
    """Rows and columns [S, S] of the nearest pixel of a silhouette [S, S], for each pixel."""
    rows, columns = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)
    return torch.from_numpy(rows), torch.from_numpy(columns)
