"""Initial points from the depth of photographs, and a check that depth which a capture brings fits the scene."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.warp import in_view, unproject
from difix3d_ns.views.protocols import PhotoDepth, PointCloud, Scene

_LOW = 0.25
"""confidence up to which depth is not used; ARKit's medium level is above"""
_SPARE = 2
"""points drawn per point needed: some are seen through"""
_IN_FRONT, _SAME = 0.1, 0.05
"""relative depth by which a point lies before a measured surface, and within which it is on it"""
_MAX_COMPARED = 100_000
_MIN_COMPARED = 50
"""points that photographs must show before their depth is judged by them"""
_MAX_RATIO = 1.5
_AGREEING, _MIN_AGREEING = 0.15, 0.3
"""relative depth within which points agree about a ratio, and the share that must"""
_UNIT_ERROR = 0.1
_CELLS = 64
"""of a depth map's longer side: the nearest point in each is seen, those behind it may be hidden"""


def depth_points(scene: Scene, count: int) -> PointCloud | None:
    """Back-project the depth of the training photographs where it is trusted most.

    The same number of pixels is drawn from each photograph, in proportion to their confidence. A point that other
    photographs see through is left out unless more confirm it.

    Args:
        scene: whose photographs.
        count: maximum number of points.

    Returns:
        The points, on the photographs' device; None if no depth is trusted.
    """
    depths = {index: depth for index in range(len(scene)) if (depth := scene.depth(index)) is not None}
    if not depths or count < 1:
        return None
    quota = -(-_SPARE * count // len(depths))
    generator = torch.Generator().manual_seed(0)
    positions, colours = [], []
    for index, depth in depths.items():
        trusted = ((depth.depth > 0) & (depth.confidence > _LOW)).flatten().cpu()
        if not (number := min(quota, int(trusted.sum()))):
            continue
        chances = depth.confidence.flatten().cpu().where(trusted, 0.0)
        pixels = torch.multinomial(chances, number, generator=generator).to(depth.depth.device)
        photo = scene.photo(index)
        positions.append(unproject(depth.depth, photo.pose).view(-1, 3)[pixels])
        colours.append(resized(photo.image, *depth.depth.shape[:2]).reshape(-1, 3)[pixels])
    if not positions:
        return None
    xyz, rgb = torch.cat(positions), torch.cat(colours)
    kept = ~seen_through(xyz, scene)
    xyz, rgb = xyz[kept], rgb[kept]
    order = torch.randperm(len(xyz), generator=generator)[:count].to(xyz.device)
    if not len(order):
        return None
    return PointCloud(xyz[order], (rgb[order] * 255).round().clamp(0, 255).to(torch.uint8))


def check_scale(scene: Scene, points: Tensor, unit: float, log: Callable[[str], None]) -> None:
    """Compare the depth that came with photographs with the points that came with the scene.

    Args:
        scene: whose photographs.
        points: [P, 3] world.
        unit: metres per unit of the depth files.
        log: prints the result.

    Raises:
        UserError: they differ by a factor, so that the unit or the scene's scale is another one.
    """
    ratios = depth_ratios(scene, points)
    if len(ratios) < _MIN_COMPARED:
        return
    logarithms = ratios.log()
    middle = float(logarithms.median())
    near_middle, near_one = (float(((logarithms - m).abs() < _AGREEING).float().mean()) for m in (middle, 0.0))
    ratio = math.exp(middle)
    if abs(middle) > math.log(_MAX_RATIO) and near_middle > max(_MIN_AGREEING, near_one):
        raise UserError(
            f"the depth that came with the photos is {ratio:.3g} times as far as the points of the scene "
            f"({len(ratios)} compared): another unit? End the command with `nerfstudio-data --depth-unit-scale-factor "
            f"{_plain(unit / ratio):.3g}` (or with your dataparser in its place), or train without it: "
            "--pipeline.initial-points.depth 0 --pipeline.depth.weight 0"
        )
    log(f"Depth of the photos against {len(ratios)} points of the scene: median ratio {ratio:.3f}")


def _plain(unit: float) -> float:
    """Nearest power of ten, if a measured unit is one within its error."""
    power = 10.0 ** round(math.log10(unit))
    return power if abs(unit / power - 1) < _UNIT_ERROR else unit


def depth_ratios(scene: Scene, points: Tensor) -> Tensor:
    """Ratios [M] of measured depth to that of points which photographs show.

    Args:
        scene: whose photographs.
        points: [P, 3] world; of those in the same part of a picture the nearest counts, as others may be hidden.
    """
    points = points[:: max(1, len(points) // _MAX_COMPARED)].float()
    found = [points.new_zeros(0)]
    for index in range(len(scene)):
        if (depth := scene.depth(index)) is None:
            continue
        points = points.to(depth.depth)
        place, z, seen = _places(points, scene, index, depth)
        place, z = place[seen], z[seen]
        height, width = depth.depth.shape[:2]
        cell = max(1, max(height, width) // _CELLS)
        number = place // width // cell * width + place % width // cell
        nearest = z.new_full((height * width,), math.inf).scatter_reduce(0, number, z, "amin")
        measured, confidence = depth.depth.flatten()[place], depth.confidence.flatten()[place]
        chosen = (z <= nearest[number]) & (measured > 0) & (confidence > _LOW)
        found.append((measured / z)[chosen].to(found[0].device))
    return torch.cat(found)


def _places(points: Tensor, scene: Scene, index: int, depth: PhotoDepth) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel [P] of each point in a depth map, its z [P], and whether it is in the picture [P]."""
    height, width = depth.depth.shape[:2]
    inside, pixels, z = in_view(points, scene.camera(index).resized(width, height))
    columns, rows = pixels.floor().unbind(-1)
    place = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return place.long(), z, inside


def seen_through(points: Tensor, scene: Scene) -> Tensor:
    """Find points [P, 3] that float: as many photographs have their surface behind them as have them on a surface.

    Returns:
        [P] bool; photographs without depth, or with one that is not trusted there, have no vote, nor have those that
        see something in front.
    """
    votes = torch.zeros(len(points), device=points.device)
    behind = torch.zeros_like(votes, dtype=torch.bool)
    for index in range(len(scene)):
        if (depth := scene.depth(index)) is None:
            continue
        place, z, seen = _places(points, scene, index, depth)
        measured = depth.depth.flatten()[place]
        seen &= (measured > 0) & (depth.confidence.flatten()[place] > _LOW)
        through = seen & (z < (1 - _IN_FRONT) * measured)
        behind |= through
        votes += through.float() - (seen & ((z / measured - 1).abs() < _SAME)).float()
    return behind & (votes >= 0)
