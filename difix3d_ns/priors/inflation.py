"""An orbit from one photograph by inflating its silhouette: no network, and nothing is imagined.

Along each ray through the silhouette the object is taken to be as thick as the silhouette is wide there: half of the
thickness is the root of the height of a soap film over the silhouette (Poisson's equation), and a plane
through the object's middle mirrors it. What lies before that plane has the colours of the photograph; behind it they
repeat, blurred.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

from difix3d_ns.geometry.object_frame import FOCAL, RADIUS
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.warp import project
from difix3d_ns.priors.base import State
from difix3d_ns.priors.silhouette_orbit import SilhouetteOrbit, spread

_FILM = 96
"""pixels of the soap film's side"""
_THICKNESS = 1.3
"""times the film's; chosen by the silhouettes and colours of eight objects, where 1 is a ball of a disc"""
_UPRIGHT = 0.5
"""share of the plane that stands upright, against one that faces the camera"""
_SEAM = 0.2
"""across the plane, where the photograph's colours fade; an object's longest side is 1"""
_BLUR = 0.06  # of the picture's side, standard deviation of what is behind


class InflatingOrbitGenerator(SilhouetteOrbit):
    """Inflation behind the contract of ``OrbitGenerator``: a camera a step; seeds change nothing.

    Args:
        device: where it is computed.
        thickness: see ``_THICKNESS``.
        upright: see ``_UPRIGHT``.
        blur: see ``_BLUR``.
    """

    about = (
        "Of one photo, with no network that imagines the other sides: the silhouette is inflated to a closed shape, "
        "what the photo shows is carried over, and the back is a guess, the front's colours blurred."
    )

    def __init__(
        self, device: torch.device, thickness: float = _THICKNESS, upright: float = _UPRIGHT, blur: float = _BLUR
    ) -> None:
        super().__init__(device)
        self._thickness, self._upright, self._blur = thickness, upright, blur

    def shape(self, photo: Tensor, elevation: float, camera: Pinhole) -> dict[str, Tensor]:
        """The inflated silhouette (contract of ``SilhouetteOrbit``)."""
        return {"volume": self._inflated(self._thickness * film_over(photo[..., 3:]), camera)}

    def _inflated(self, film: Tensor, camera: Pinhole) -> Tensor:
        """Return how far inside of the object places are [N, N, N], in voxels.

        Args:
            film: half of the thickness [h, w, 1] at the pixels of the photograph.
            camera: its.
        """
        places = self.places()
        normal = self._normal(camera)
        mirrored = _mirrored(places, normal)
        pixels, depth = project(torch.stack([mirrored, places]), camera)
        grid = (pixels * (2 / camera.width) - 1).view(2, 1, -1, 2)
        halves = F.grid_sample(film.permute(2, 0, 1).expand(2, -1, -1, -1), grid, align_corners=False)
        half, outline = halves.view(2, *places.shape[:3])
        ways = (mirrored - camera.position) / depth[0, ..., None]  # along each ray, to a depth of 1
        before = (-(camera.position @ normal) / (ways @ normal) - depth[0]).clamp_min(0)  # the plane
        inside = torch.minimum(half - before, outline) / (2 * self.half / self.voxels)
        return inside.clamp(-4, 4)

    def _normal(self, camera: Pinhole) -> Tensor:
        """The direction [3] at right angles to the plane of symmetry, on the camera's side."""
        facing = -camera.forward
        level = F.normalize(facing * torch.tensor([1.0, 1, 0]), dim=0)
        return F.normalize(torch.lerp(facing, level, self._upright), dim=0)

    def coloured(self, state: State, camera: Pinhole, places: Tensor) -> Tensor:
        """The photograph's colours before the plane, blurred behind it (contract of ``SilhouetteOrbit``)."""
        photo, normal = state["photo"], self._normal(camera).to(places)
        front = (0.5 + (places @ normal)[..., None] / _SEAM).clamp(0, 1)
        pixels, _ = project(_mirrored(places, normal), camera)
        grid = (pixels * (2 / camera.width) - 1)[None]
        both = torch.cat([spread(photo), _blurred(photo, self._blur * photo.shape[0])], -1).to(places)
        found = F.grid_sample(both.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False)[0]
        shown, repeated = found.permute(1, 2, 0).split(3, -1)
        return torch.lerp(repeated, shown, front)


def _mirrored(places: Tensor, normal: Tensor) -> Tensor:
    """Places [..., 3], those behind the plane through the origin brought before it."""
    return places - 2 * (places @ normal).clamp_max(0)[..., None] * normal


def film_over(alpha: Tensor) -> Tensor:
    """Half of the thickness [h, h, 1] over a silhouette [S, S, 1], in the unit of the object frame.

    The root of the solution of Poisson's equation with -4 inside and 0 at the outline: exact for balls.
    """
    side = min(_FILM, alpha.shape[0])
    solid = resized(alpha, side, side)[..., 0].numpy() > 0.5
    solid[[0, -1]] = solid[:, [0, -1]] = False
    number = np.full(solid.shape, -1)
    number[solid] = np.arange(solid.sum())
    rows, columns = solid.nonzero()
    own = number[rows, columns]
    entries = [(own, own, np.full(len(own), 4.0))]
    for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        other = number[rows + down, columns + right]
        entries.append((own[other >= 0], other[other >= 0], np.full((other >= 0).sum(), -1.0)))
    at, beside, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = sparse.csr_matrix((values, (at, beside)), (len(own), len(own)))
    spacing = RADIUS / (FOCAL * side)
    height = np.zeros(solid.shape, np.float32)
    height[solid] = np.sqrt(np.maximum(spsolve(matrix, np.full(len(own), 4 * spacing**2)), 0))
    return torch.from_numpy(height)[..., None]


def _blurred(photo: Tensor, sigma: float) -> Tensor:
    """The colours [S, S, 3] of a cut-out picture, blurred within its outline; far from it, their mean."""
    alpha = photo[..., 3:].numpy()
    colours = photo[..., :3].numpy() * alpha
    weight = ndimage.gaussian_filter(alpha, (sigma, sigma, 0))
    soft = ndimage.gaussian_filter(colours, (sigma, sigma, 0)) / np.maximum(weight, 1e-6)
    mean = colours.sum((0, 1)) / max(float(alpha.sum()), 1e-6)
    return torch.from_numpy(np.where(weight > 1e-3, soft, mean).astype(np.float32))


def load(
    weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> InflatingOrbitGenerator:
    """Create it; there is nothing to load.

    Raises:
        ValueError: weights are given.
    """
    if weights is not None:
        raise ValueError("it has no weights; leave them out")
    return InflatingOrbitGenerator(torch.device(device))
