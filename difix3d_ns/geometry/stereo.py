"""Depth of photographs from each other, before any splat exists.

A plane sweep (Collins, "A space-sweep approach to true multi-image matching", CVPR 1996) with normalised
cross-correlation, coarse to fine in inverse depth, and the usual check that two photographs agree about a surface
(Goesele et al., "Multi-View Stereo for Community Photo Collections", ICCV 2007).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.spacing import evenly_spaced
from difix3d_ns.geometry.warp import in_view, project, reproject, unproject

LONG_SIDE = 480
"""pixels a photograph is matched at; more are not used"""

_COARSE = 240  # pixels, long side: all depths are swept there, then those around the best at the full size
_PLANES, _FINE_PLANES = 128, 9
_WINDOW = 7  # pixels
_NEIGHBOURS = 4  # photographs compared with; more cost time and are seen from too far aside
_BEST = 2  # of these count: the others may be hidden
_ANGLE, _NARROW, _WIDE = 12.0, 7.0, 20.0  # degrees: best angle between rays, and how fast others get worse
_MIN_SCORE = 0.6  # correlation
_MIN_CONTRAST = 0.01  # standard deviation in the window: nothing can be matched below
_DEPTH_TOLERANCE, _PIXEL_TOLERANCE = 0.01, 2.0  # between two photographs: relative depth, reprojection at the fine size
_MIN_SOLID, _SOLID_WINDOW = 0.7, 11  # share of the pixels around that must be kept as well: at edges many are false
_MAX_SPARSE = 6  # photographs, up to which one that agrees is enough; two otherwise
_NOISE = 1e-4  # variance of it, so that flat windows do not correlate
_MAX_POINTS = 4096  # scene points used
_MIN_ANGLE = 1.0  # degrees between rays: below, any depth fits
_PLANES_AT_ONCE, _PIXELS_ON_A_CPU = 4, 2**17  # warped, on a CPU: as many planes, or pixels of small pictures
_PIXELS_AT_ONCE = 2**22  # of warped planes, elsewhere than on a CPU: some 0.5 GiB
_MAX_VIEWS = 64  # photographs that get a depth: time grows with them, and their surfaces overlap


@dataclass(frozen=True)
class StereoDepth:
    """Depth of a photograph, at half a thousand pixels at most."""

    depth: Tensor  # [h, w, 1] along z, scene units
    kept: Tensor  # [h, w, 1] bool: matched well, and another photograph agrees
    camera: Pinhole  # at that size


def stereo_depths(
    photographs: Sequence[PosedImage],
    points: Tensor | None = None,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[int, StereoDepth]:
    """Depth of photographs, where their neighbours show the same surface.

    Args:
        photographs: with cameras in one world.
        points: [P, 3] world points of the scene, for the range of depths; None: from the cameras' distances.
        track: wraps the loop over photographs, for a progress bar.

    Returns:
        {index of the photograph: its depth}; empty with fewer than two photographs. Of more than 64, 64 evenly chosen.
    """
    if len(photographs) < 2:
        return {}
    chosen = evenly_spaced(len(photographs), _MAX_VIEWS)
    if points is not None:
        points = points[:: max(1, len(points) // _MAX_POINTS)]
    fine = [_grey(photograph, LONG_SIDE) for photograph in photographs]
    coarse = [_grey(photograph, _COARSE) for photograph in photographs]
    seen = None if points is None else [in_view(points, photograph.pose)[0] for photograph in photographs]
    raw: dict[int, _Match] = {}
    for index in track(chosen):
        others = matching_neighbours(index, photographs, points, seen) or matching_neighbours(
            index, photographs, None, None
        )
        if others:
            near, far = search_range(index, photographs, points, seen)
            raw[index] = _sweep(index, others, coarse, fine, near, far)
    surfaces = {index: unproject(swept.depth[..., None], swept.camera) for index, swept in raw.items()}
    return {index: _check(index, raw, surfaces) for index in raw}


def stereo_points(
    photographs: Sequence[PosedImage],
    depths: dict[int, StereoDepth],
    count: int,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """World points on the surfaces that ``stereo_depths`` found, as dense as the pictures show them.

    Args:
        photographs: as given there.
        depths: its result.
        count: maximum number of points.
        seed: of the random choice.

    Returns:
        (positions [N, 3] float32, colours [N, 3] uint8) on the photographs' device.
    """
    device = photographs[0].image.device if photographs else torch.device("cpu")
    positions, colours = [torch.zeros(0, 3, device=device)], [torch.zeros(0, 3, device=device)]
    for index, stereo in depths.items():
        kept = stereo.kept[..., 0]
        positions.append(unproject(stereo.depth, stereo.camera)[kept])
        colours.append(photographs[index].within(LONG_SIDE).image[kept])
    xyz, rgb = torch.cat(positions), torch.cat(colours)
    order = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(seed))[:count].to(device)
    return xyz[order], (rgb[order] * 255).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class _Grey:
    """A photograph for matching."""

    image: Tensor  # [1, 1, h, w]
    usable: Tensor  # [1, 1, h, w] 1 where it may be used
    camera: Pinhole


@dataclass(frozen=True)
class _Match:
    depth: Tensor  # [h, w]
    matched: Tensor  # [h, w] bool
    camera: Pinhole


def _grey(photograph: PosedImage, long_side: int) -> _Grey:
    photograph = photograph.within(long_side)
    image = photograph.image
    usable = torch.ones_like(image[..., :1]) if photograph.mask is None else (photograph.mask > 0.99).to(image)
    return _Grey(image.mean(-1)[None, None], usable.permute(2, 0, 1)[None], photograph.pose)


def matching_neighbours(
    index: int,
    photographs: Sequence[PosedImage],
    points: Tensor | None,
    seen: list[Tensor] | None,
    count: int = _NEIGHBOURS,
) -> list[int]:
    """Choose photographs to match one with, best first: they show the same, from a good angle.

    Args:
        index: of the photograph.
        photographs: with cameras.
        points: [P, 3] world points of the scene; None: chosen by cameras alone.
        seen: which of the points each photograph sees, [P] bool.
        count: at most so many.
    """
    here = photographs[index].pose
    scores = []
    for other, photograph in enumerate(photographs):
        if other == index:
            continue
        there = photograph.pose
        if points is not None and seen is not None:
            both = seen[index] & seen[other]
            shared = points[both]
            if len(shared) < 20:
                continue
            a, b = (F.normalize(c.position.to(shared) - shared, dim=1) for c in (here, there))
            angle = torch.rad2deg((a * b).sum(1).clamp(-1, 1).arccos()).median().item()
            weight = float(both.sum())
            if angle < _MIN_ANGLE:
                continue
        else:
            facing = torch.dot(here.camera_to_world[:3, 2], there.camera_to_world[:3, 2]).clamp(-1, 1)
            angle, weight = float(torch.rad2deg(facing.arccos())), 1.0
            distance = float((here.position - there.position).norm())
            if angle > 60 or distance == 0:
                continue
            weight /= distance
        width = _NARROW if angle < _ANGLE else _WIDE
        scores.append((weight * math.exp(-(((angle - _ANGLE) / width) ** 2)), other))
    return [other for score, other in sorted(scores, reverse=True)[:count] if score > 0]


def search_range(
    index: int, photographs: Sequence[PosedImage], points: Tensor | None, seen: list[Tensor] | None
) -> tuple[float, float]:
    """Nearest and farthest depth at which surfaces of a photograph are searched; arguments as of the neighbours'."""
    camera = photographs[index].pose
    if points is not None and seen is not None and seen[index].any():
        z = project(points[seen[index]], camera)[1]
        return 0.7 * float(z.quantile(0.01)), 1.5 * float(z.quantile(0.99))
    positions = torch.stack([p.pose.position for p in photographs])
    distances = (positions - camera.position).norm(dim=1)
    nearest = float(distances[distances > 0].min()) if (distances > 0).any() else 1.0
    return nearest, 100 * nearest


@lru_cache
def _window_sizes(height: int, width: int, rows: int, columns: int) -> Tensor:
    """Pixels [h, w] of a picture in the window around each of its pixels."""
    return F.avg_pool2d(
        torch.ones(1, 1, height, width), (rows, columns), 1, (rows // 2, columns // 2), divisor_override=1
    )[0, 0]


def _mean_around(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Mean over the window around each pixel, [N, C, h, w]; at the borders over what there is of it."""
    top, left = rows // 2, columns // 2
    if maps.device.type != "cpu":
        return F.avg_pool2d(maps, (rows, columns), 1, (top, left), count_include_pad=False)
    # torch adds pixel by pixel there; whole planes, added in the same order, have the same bits in a fifth of the time
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (left, left, top, top))
    total = torch.zeros_like(maps)
    for row in range(rows):
        for column in range(columns):
            total += padded[..., row : row + height, column : column + width]
    return total.div_(_window_sizes(height, width, rows, columns))


def _box(maps: Tensor) -> Tensor:
    """Mean over the window, [N, C, h, w]; in two passes, since one of all its pixels takes three times as long."""
    return _mean_around(_mean_around(maps, _WINDOW, 1), 1, _WINDOW)


def _scores(view: _Grey, others: Sequence[_Grey], inverse: Tensor) -> Tensor:
    """Correlation [D, h, w] with the best neighbours at inverse depths ``inverse`` ([D, 1, 1] or [D, h, w]).

    Half of it is the mean over neighbouring pixels.
    """
    grey = view.image
    mean = _box(grey)
    variance = _box(grey * grey) - mean * mean
    planes = [torch.cat([other.image, other.usable], 1) for other in others]
    # on a CPU planes that fit the cache, a thread each; elsewhere launching a kernel takes longer than it does
    fewest, pixels = (_PLANES_AT_ONCE, _PIXELS_ON_A_CPU) if grey.device.type == "cpu" else (1, _PIXELS_AT_ONCE)
    at_once = max(fewest, pixels // grey.numel())
    levels = []
    for some in inverse.split(at_once):
        best: list[Tensor] = []  # the best correlations so far, each [d, h, w], best first
        for other, sampled in zip(others, planes, strict=True):
            grid, z = reproject((1 / some).expand(-1, *grey.shape[-2:]), view.camera, other.camera)
            warped = F.grid_sample(
                sampled.expand(len(grid), -1, -1, -1), grid, padding_mode="border", align_corners=False
            )
            w = warped[:, :1]
            means = _box(torch.cat([w, w * w, grey * w], 1))
            variance_w = means[:, 1:2] - means[:, :1].square()
            correlation = (means[:, 2:] - mean * means[:, :1]) / ((variance + _NOISE) * (variance_w + _NOISE)).sqrt()
            valid = (grid.abs() < 1).all(-1) & (z > 0) & (warped[:, 1] > 0.99)
            rest = correlation[:, 0].where(valid, -1.0)
            for place, better in enumerate(best):
                best[place], rest = torch.maximum(better, rest), torch.minimum(better, rest)
            if len(best) < _BEST:
                best.append(rest)
        score = torch.stack(best).mean(0)
        levels.append(0.5 * (_mean_around(score[None], 5, 5)[0] + score))
    return torch.cat(levels)


def _peak(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Best level with its fraction, and its score, each [h, w]."""
    best, level = scores.max(0)
    below = scores.gather(0, (level - 1).clamp_min(0)[None])[0]
    above = scores.gather(0, (level + 1).clamp_max(len(scores) - 1)[None])[0]
    curvature = below - 2 * best + above
    offset = (0.5 * (below - above) / curvature).where(curvature < -1e-6, 0.0).clamp(-0.5, 0.5)
    return level + offset, best


def _sweep(index: int, others: list[int], coarse: list[_Grey], fine: list[_Grey], near: float, far: float) -> _Match:
    view = coarse[index]
    start, step = 1 / far, (1 / near - 1 / far) / (_PLANES - 1)
    planes = start + step * torch.arange(_PLANES, device=view.image.device)
    level, _ = _peak(_scores(view, [coarse[other] for other in others], planes[:, None, None]))
    view = fine[index]
    size = (view.camera.height, view.camera.width)
    # the best of all depths at the end of their range may lie beyond it
    within = F.interpolate(((level >= 1) & (level <= _PLANES - 2)).float()[None, None], size, mode="nearest")[0, 0] > 0
    around = F.interpolate((start + step * level)[None, None], size, mode="nearest")[0]  # [1, h, w]
    offsets = torch.linspace(-1.5, 1.5, _FINE_PLANES, device=view.image.device)
    sweep = (around + step * offsets[:, None, None]).clamp_min(0.25 * start)
    level, score = _peak(_scores(view, [fine[other] for other in others], sweep))
    inverse = around[0] + step * (level * (3.0 / (_FINE_PLANES - 1)) - 1.5)
    grey = view.image
    contrast = (_box(grey * grey) - _box(grey).square()).clamp_min(0).sqrt()[0, 0]
    matched = within & (score > _MIN_SCORE) & (contrast > _MIN_CONTRAST) & (view.usable[0, 0] > 0)
    return _Match(1 / inverse.clamp_min(0.25 * start), matched, view.camera)


def _check(index: int, swept: dict[int, _Match], surfaces: dict[int, Tensor]) -> StereoDepth:
    """Keep depths that enough other photographs confirm; ``surfaces``: world points [h, w, 3] of each."""
    view = swept[index]
    height, width = view.depth.shape
    points = surfaces[index]
    agreeing = torch.zeros(height, width, device=view.depth.device)
    rows, columns = (torch.arange(side, device=view.depth.device) + 0.5 for side in (height, width))
    centres = torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], -1)  # [h, w, 2]
    for number, other in swept.items():
        if number == index:
            continue
        inside, pixels, z = in_view(points, other.camera)
        x, y = pixels.floor().unbind(-1)
        place = (y.clamp(0, other.camera.height - 1) * other.camera.width + x.clamp(0, other.camera.width - 1)).long()
        depth = other.depth.flatten()[place]
        back, _ = project(surfaces[number].view(-1, 3)[place], view.camera)
        apart = (back - centres).norm(dim=-1)
        agreeing += inside & ((z / depth - 1).abs() < _DEPTH_TOLERANCE) & (apart < _PIXEL_TOLERANCE)
    needed = 1 if len(swept) <= _MAX_SPARSE else 2
    kept = view.matched & (agreeing >= needed)
    around = F.avg_pool2d(kept.float()[None, None], _SOLID_WINDOW, 1, _SOLID_WINDOW // 2, count_include_pad=False)[0, 0]
    kept = kept & (around > _MIN_SOLID)
    return StereoDepth(view.depth[..., None], kept[..., None], view.camera)
