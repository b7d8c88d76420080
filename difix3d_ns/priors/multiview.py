"""Depth of photographs from each other, completed where nothing can be matched; trained on procedural scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.point_depth import point_depth, reduced_depth
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import pad_to_multiple, resized
from difix3d_ns.geometry.stereo import matching_neighbours, search_range
from difix3d_ns.geometry.warp import in_view, projection_table, reproject, unproject
from difix3d_ns.priors.base import Depth, DepthMap, State
from difix3d_ns.priors.networks.depth_net import SIDE, DepthNet, Views
from difix3d_ns.priors.networks.weight_files import find_weights, loaded, read_weights

WEIGHTS = Path(__file__).parent / "weights" / "depth.safetensors"
LONG_SIDE = 480
"""pixels a photograph is matched at"""
NEIGHBOURS = 4
"""photographs that each is matched with, at most"""
HELPERS = 8
"""photographs that may help one with what they are certain of, at most"""
WITHIN, _CERTAIN = 0.02, 0.8
"""relative error, and the chance to be within it from which on a depth is of help to others"""
_SAME = 0.03
"""relative depth within which two photographs found the same surface"""
_DOUBT = (3.0, 2.5, 2.0, 1.75, 1.5)
"""factor of the uncertainty where none, one, two, three, more of the others found the same surface: near these the
truth is likeliest on scenes of training"""
_EVERY = 2
"""rows and columns of a half-sized depth map of which one is handed on: a sixteenth of a photograph's pixels"""
_TYPICAL = 0.5
"""of Laplace's scale, which a few wild errors double: so the chances to be right within 1, 2 and 5 % err by 2 to 4 % on
scenes of training, instead of by 7 to 17 %"""
_MAX_POINTS = 4096  # of the scene, to choose neighbours by


class MultiviewDepth(Depth):
    """``DepthNet`` behind the contract of ``Depth``: first all photographs at half of the size, then at the full one.

    The first pass sees more of a photograph at once, and what it is certain of helps the others of the second. Of both
    estimates of a pixel the one that states less uncertainty counts.

    Args:
        net: the network.
        device: where it lives.
    """

    def __init__(self, net: DepthNet, device: torch.device) -> None:
        self._net, self._device = net.eval().requires_grad_(False), device

    def start(self, photographs: Sequence[PosedImage], seed: int = 0) -> State:
        small = [photograph.within(LONG_SIDE) for photograph in photographs]
        points = hinted_points(photographs)
        seen = None if points is None else [in_view(points, one.pose)[0] for one in small]
        neighbours = torch.full((len(small), HELPERS), -1)
        ranges = torch.zeros(len(small), 2)
        state: dict[str, Tensor] = {}
        for index, one in enumerate(small):
            chosen = matching_neighbours(index, small, points, seen, HELPERS)
            chosen = chosen or matching_neighbours(index, small, None, None, HELPERS)
            neighbours[index, : len(chosen)] = torch.tensor(chosen, dtype=torch.long)
            ranges[index] = torch.tensor(search_range(index, small, points, seen))
            state[f"picture/{index}"] = one.image.detach().cpu().to(torch.float16)
            if one.mask is not None:
                state[f"mask/{index}"] = one.mask.detach().cpu() > 0.5
            hints = torch.zeros(one.pose.height, one.pose.width, 1)
            if (depth := photographs[index].depth) is not None:
                hints = reduced_depth(depth.detach().cpu(), (one.pose.height, one.pose.width))
            state[f"hints/{index}"] = hints
        poses = [one.pose for one in small]
        return {
            **state,
            "neighbours": neighbours,
            "ranges": ranges,
            "camera_to_world": torch.stack([pose.camera_to_world.cpu().double() for pose in poses]),
            "intrinsics": torch.stack([pose.intrinsics.cpu().double() for pose in poses]),
            "sizes": torch.tensor([[one.pose.height, one.pose.width] for one in photographs]),
            "done": torch.tensor(0),
        }

    def steps_left(self, state: State) -> int:
        return 2 * len(state["sizes"]) - int(state["done"])

    @torch.no_grad()
    def step(self, state: State) -> State:
        again, index = divmod(int(state["done"]), len(state["sizes"]))
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # which has ten bits: depth needs more
            depth, spread = self._estimated(state, index, not again)
        if not again:
            found = {f"first/{index}": depth, f"first_uncertainty/{index}": spread}
        else:
            height, width = depth.shape[:2]
            first, first_spread = (
                resized(state[name], height, width, "nearest-exact")
                for name in (f"first/{index}", f"first_uncertainty/{index}")
            )
            better = (first_spread < spread) & state.get(f"mask/{index}", torch.ones_like(depth, dtype=torch.bool))
            found = {
                f"depth/{index}": first.where(better, depth),
                f"uncertainty/{index}": first_spread.where(better, spread),
            }
        return {**state, **found, "done": state["done"] + 1}

    def _estimated(self, state: State, index: int, halved: bool) -> tuple[Tensor, Tensor]:
        """Depth and its uncertainty, [h, w, 1] on the CPU, of a photograph at its size or half of it."""
        shown = [index, *_others(state, index)[:NEIGHBOURS]]
        near, far = state["ranges"][index].tolist()
        cameras = [_camera(state, number, halved) for number in shown]
        pictures = [self._padded(state, number, camera) for number, camera in zip(shown, cameras, strict=True)]
        height, width = cameras[0].height, cameras[0].width
        sizes = [(picture.shape[-2], picture.shape[-1]) for picture in pictures]
        views = views_of(cameras, sizes, near, far).to(self._device)
        described = [self._net.describe(picture) for picture in pictures]
        known = reduced_depth(state[f"hints/{index}"], (height, width)) if halved else _helped(state, index)
        hints = hint_maps(known, near, far, described[0].quarter.shape[-2:]).to(self._device)
        _, _, found = self._net(pictures[0], described[0], described[1:], views, hints)
        depth = views.depth(found.place)[0, 0, :height, :width, None]
        scale = _TYPICAL * found.log_scale[0, 0, :height, :width, None].exp()
        spread = 2**0.5 * scale  # standard deviation of Laplace's distribution
        surface = found.surface[0, 0, :height, :width, None] > 0
        if (mask := state.get(f"mask/{index}")) is not None:
            surface = surface & resized(mask.to(surface.device, torch.uint8), height, width, "nearest-exact").bool()
        return depth.where(surface, 0.0).float().cpu(), spread.where(surface, torch.inf).float().cpu()

    def result(self, state: State) -> list[DepthMap]:
        maps = []
        for index, (height, width) in enumerate(state["sizes"].tolist()):
            doubt = torch.tensor(_DOUBT)[_confirming(state, index).long().clamp(max=len(_DOUBT) - 1)]
            depth, uncertainty = (
                resized(values, height, width, "nearest-exact")
                for values in (state[f"depth/{index}"], doubt * state[f"uncertainty/{index}"])
            )
            maps.append(DepthMap(depth, uncertainty))
        return maps

    def _padded(self, state: State, index: int, camera: Pinhole) -> Tensor:
        """Picture [1, 3, H, W] at a camera's size, its sides enlarged to multiples of what the network needs."""
        picture = resized(state[f"picture/{index}"].to(self._device).float(), camera.height, camera.width)
        return pad_to_multiple(picture.permute(2, 0, 1)[None], SIDE)


def _camera(state: State, index: int, halved: bool) -> Pinhole:
    height, width = state[f"picture/{index}"].shape[:2]
    camera = Pinhole(state["camera_to_world"][index], state["intrinsics"][index], width, height)
    return camera.resized(max(1, width // 2), max(1, height // 2)) if halved else camera


def _others(state: State, index: int) -> list[int]:
    """Photographs that may help one, best first."""
    return [other for other in state["neighbours"][index].tolist() if other >= 0]


def _confirming(state: State, index: int) -> Tensor:
    """Number of others [H, W, 1] that found the surface a pixel shows where this photograph did."""
    depth, camera = state[f"depth/{index}"], _camera(state, index, False)
    count = torch.zeros_like(depth)
    for other in _others(state, index):
        grid, z = reproject(depth[..., 0].clamp_min(1e-9), camera, _camera(state, other, False))
        found = state[f"depth/{other}"].permute(2, 0, 1)[None]
        there = F.grid_sample(found, grid[None].float(), mode="nearest", align_corners=False)[0, 0]
        same = (there.clamp_min(1e-9) / z.clamp_min(1e-9)).log().abs() < _SAME
        count += ((grid.abs() < 1).all(-1) & (z > 0) & (there > 0) & same)[..., None]
    return count


def _helped(state: State, index: int) -> Tensor:
    """Sparse depth [H, W, 1] of a photograph: its own, and where it has none, what others are certain of."""
    own, camera = state[f"hints/{index}"], _camera(state, index, False)
    points = []
    for other in _others(state, index):
        found = DepthMap(state[f"first/{other}"], state[f"first_uncertainty/{other}"])
        places = unproject(found.depth, _camera(state, other, True))[::_EVERY, ::_EVERY]
        points.append(places[found.chance(WITHIN)[::_EVERY, ::_EVERY, 0] > _CERTAIN])
    return own.where(own > 0, point_depth(torch.cat(points), camera)) if points else own


def views_of(cameras: Sequence[Pinhole], sizes: Sequence[tuple[int, int]], near: float, far: float) -> Views:
    """Cameras for the network.

    Args:
        cameras: of a photograph and its neighbours.
        sizes: height and width of their pictures, enlarged at the right and the bottom.
        near, far: range of depths that is searched.
    """
    enlarged = [replace(camera, width=size[1], height=size[0]) for camera, size in zip(cameras, sizes, strict=True)]
    square = enlarged[0].resized(2, 2)  # then a table is for any size
    tables = [projection_table(square, other).float() for other in enlarged[1:]]
    extents = [
        (-1.0, -1.0, 2 * camera.width / size[1] - 1, 2 * camera.height / size[0] - 1)
        for camera, size in zip(cameras[1:], sizes[1:], strict=True)
    ]
    return Views(
        torch.stack(tables)[None] if tables else torch.zeros(1, 0, 3, 4),
        torch.tensor(extents).view(1, -1, 4),
        torch.tensor([1 / far]),
        torch.tensor([1 / near]),
    )


def hint_maps(depth: Tensor, near: float, far: float, size: Sequence[int]) -> Tensor:
    """Inverse depth in the range's units, and where it is known, [1, 2, h, w], of sparse depth [H, W, 1] (0: unknown).

    Of several in a place the nearest counts: what is behind may be hidden.
    """
    known = depth[..., 0] > 0
    place = ((1 / depth[..., 0].clamp_min(1e-9) - 1 / far) / (1 / near - 1 / far)).where(known, -torch.inf)
    height, width = (4 * side for side in size)
    place = F.pad(place, (0, width - place.shape[1], 0, height - place.shape[0]), value=-torch.inf)
    place = F.max_pool2d(place[None, None], 4)
    known = place.isfinite() & (place > -0.2) & (place < 1.2)
    return torch.cat([place.where(known, 0.0), known.float()], 1)


def hinted_points(photographs: Sequence[PosedImage], most: int = _MAX_POINTS) -> Tensor | None:
    """World points [P, 3] of the photographs' sparse depth, evenly thinned beyond ``most``; None if there is none."""
    found = []
    for photograph in photographs:
        if photograph.depth is not None and bool((known := photograph.depth[..., 0] > 0).any()):
            points = unproject(photograph.depth, photograph.pose)[known]
            found.append(points[:: max(1, len(points) * len(photographs) // most)])
    return torch.cat(found) if found else None


def load(weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Depth:
    """Read it from a .safetensors file with its .json beside it.

    Args:
        weights: such a file, a folder with one ("weights.safetensors", as ``difix3d train-prior depth`` writes), or
            None for the package's own.
        device: where the network lives.
        dtype: ignored: it computes in float32, whose digits depth needs.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: it cannot be read or does not fit.
    """
    return MultiviewDepth(read_net(weights).to(device), torch.device(device))


def read_net(weights: str | None) -> DepthNet:
    """Read the network (float32, on the CPU); errors and argument as of ``load``."""
    path = find_weights(WEIGHTS if weights is None else weights, "depth", "depth", "depth")
    remedy = "a folder written by `difix3d train-prior depth`"
    return read_weights(path, lambda config, tensors: loaded(DepthNet(**config["net"]), tensors), "depth", remedy)
