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

from difix3d_ns.geometry.object_frame import FOCAL, RADIUS, object_cameras
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.warp import project, unproject
from difix3d_ns.priors.base import ObjectFrame, State

_FILM = 96
"""pixels of the soap film's side"""
_VOXELS, _HALF = 96, 0.68
"""along each side of the volume, and half of that side; an object's longest side is 1"""
_REACH, _SAMPLES = 1.0, 112
"""before and behind the object's middle, where a ray is followed, and how many places of it are looked at"""
_THICKNESS = 1.3
"""times the film's; chosen by the silhouettes and colours of eight objects, where 1 is a ball of a disc"""
_UPRIGHT = 0.5
"""share of the plane that stands upright, against one that faces the camera"""
_SEAM = 0.2
"""across the plane, where the photograph's colours fade; an object's longest side is 1"""
_BLUR = 0.06  # of the picture's side, standard deviation of what is behind


class InflatingOrbitGenerator:
    """Inflation behind the contract of ``OrbitGenerator``: a camera a step; seeds change nothing.

    Args:
        device: where it is computed.
        thickness: see ``_THICKNESS``.
        upright: see ``_UPRIGHT``.
        blur: see ``_BLUR``.
    """

    generative = False
    about = (
        "Of one photo, with no network that imagines the other sides: the silhouette is inflated to a closed shape, "
        "what the photo shows is carried over, and the back is a guess, the front's colours blurred."
    )

    def __init__(
        self, device: torch.device, thickness: float = _THICKNESS, upright: float = _UPRIGHT, blur: float = _BLUR
    ) -> None:
        self._device, self._thickness, self._upright, self._blur = device, thickness, upright, blur

    def start(self, photo: Tensor, elevation: float, count: int, seed: int = 0) -> State:
        side = photo.shape[0]
        if photo.shape != (side, side, 4) or not bool((photo[..., 3] > 0.5).any()):
            raise ValueError("a square picture with a silhouette is needed")
        photo = photo.detach().cpu().float()
        film = _film(photo[..., 3:])
        return {
            "photo": photo,
            "elevation": torch.tensor(elevation, dtype=torch.float64),
            "count": torch.tensor(count),
            "done": torch.tensor(0),
            "volume": self._inflated(self._thickness * film, _cameras(elevation, side, count)[0]),
        }

    def steps_left(self, state: State) -> int:
        return int(state["count"]) - int(state["done"])

    def step(self, state: State) -> State:
        number, photo = int(state["done"]), state["photo"]
        cameras = _cameras(float(state["elevation"]), photo.shape[0], int(state["count"]))
        frame = self._seen(photo, state["volume"].to(self._device), cameras[0], cameras[number])
        if number == 0:  # shown as it is
            assert frame.depth is not None
            frame = ObjectFrame(photo[..., :3], photo[..., 3:], frame.depth.cpu() * (photo[..., 3:] > 0.5))
        return {**state, **_kept(number, frame), "done": state["done"] + 1}

    def result(self, state: State) -> list[ObjectFrame]:
        frames = []
        for number in range(int(state["count"])):
            depth = state.get(f"depth/{number}")
            frames.append(ObjectFrame(state[f"image/{number}"], state[f"alpha/{number}"], depth))
        return frames

    def _inflated(self, film: Tensor, camera: Pinhole) -> Tensor:
        """Return how far inside of the object places are [N, N, N], in voxels.

        Args:
            film: half of the thickness [h, w, 1] at the pixels of the photograph.
            camera: its.
        """
        axis = (2 * (torch.arange(_VOXELS) + 0.5) / _VOXELS - 1) * _HALF
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        places = torch.stack([x, y, z], -1)
        normal = self._normal(camera)
        mirrored = _mirrored(places, normal)
        pixels, depth = project(torch.stack([mirrored, places]), camera)
        grid = (pixels * (2 / camera.width) - 1).view(2, 1, -1, 2)
        halves = F.grid_sample(film.permute(2, 0, 1).expand(2, -1, -1, -1), grid, align_corners=False)
        half, outline = halves.view(2, *x.shape)
        ways = (mirrored - camera.position) / depth[0, ..., None]  # along each ray, to a depth of 1
        before = (-(camera.position @ normal) / (ways @ normal) - depth[0]).clamp_min(0)  # the plane
        inside = torch.minimum(half - before, outline) / (2 * _HALF / _VOXELS)
        return inside.clamp(-4, 4)

    def _normal(self, camera: Pinhole) -> Tensor:
        """The direction [3] at right angles to the plane of symmetry, on the camera's side."""
        facing = -camera.forward
        level = F.normalize(facing * torch.tensor([1.0, 1, 0]), dim=0)
        return F.normalize(torch.lerp(facing, level, self._upright), dim=0)

    def _seen(self, photo: Tensor, volume: Tensor, taken: Pinhole, camera: Pinhole) -> ObjectFrame:
        """The inflated object from a camera."""
        depth, alpha = _surface(volume, camera)
        places, normal = unproject(depth, camera), self._normal(taken).to(depth)
        front = (0.5 + (places @ normal)[..., None] / _SEAM).clamp(0, 1)
        pixels, _ = project(_mirrored(places, normal), taken)
        grid = (pixels * (2 / taken.width) - 1)[None]
        both = torch.cat([_spread(photo), _blurred(photo, self._blur * photo.shape[0])], -1).to(depth)
        found = F.grid_sample(both.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False)[0]
        shown, repeated = found.permute(1, 2, 0).split(3, -1)
        return ObjectFrame(torch.lerp(repeated, shown, front).clamp(0, 1), alpha, depth * (alpha > 0.5))


def _mirrored(places: Tensor, normal: Tensor) -> Tensor:
    """Places [..., 3], those behind the plane through the origin brought before it."""
    return places - 2 * (places @ normal).clamp_max(0)[..., None] * normal


def _cameras(elevation: float, side: int, count: int) -> list[Pinhole]:
    return object_cameras(elevation, side, count, dtype=torch.float32)


def _kept(number: int, frame: ObjectFrame) -> dict[str, Tensor]:
    found = {f"image/{number}": frame.image.cpu(), f"alpha/{number}": frame.alpha.cpu()}
    return found if frame.depth is None else {**found, f"depth/{number}": frame.depth.cpu()}


def _film(alpha: Tensor) -> Tensor:
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


def _surface(inside: Tensor, camera: Pinhole) -> tuple[Tensor, Tensor]:
    """Depth [S, S, 1] of the first surface along each ray, or where it is nearest to one, and silhouette."""
    camera = camera.to(inside.device)
    depths = torch.linspace(RADIUS - _REACH, RADIUS + _REACH, _SAMPLES, device=inside.device)
    ways = unproject(torch.ones(camera.height, camera.width, 1, device=inside.device), camera) - camera.position
    found = []
    for row in ways.split(32):
        places = (camera.position + row * depths[:, None, None, None]) / _HALF
        values = F.grid_sample(inside[None, None], places[None], padding_mode="border", align_corners=False)[0, 0]
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


def _spread(photo: Tensor) -> Tensor:
    """The colours [S, S, 3] of a cut-out picture, beyond its outline those of the nearest pixel."""
    solid = (photo[..., 3] > 0.9).numpy()
    if not solid.any():
        solid = (photo[..., 3] > 0.5).numpy()
    rows, columns = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)
    return photo[torch.from_numpy(rows), torch.from_numpy(columns), :3]


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
