"""Exposures of photographs before a training: what several show has one colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.spacing import evenly_spaced
from difix3d_ns.geometry.stereo import matching_neighbours
from difix3d_ns.geometry.warp import reproject
from difix3d_ns.views.protocols import Scene

MIN_SPREAD = 0.02
"""change of medium grey from which on exposures differ; photographs of one exposure stay below half of it"""
_SIDE = 160
"""pixels of the longer side at which colours are compared: poses that are a pixel off do not show"""
_NEIGHBOURS = 8
_CONFIDENT, _SAME = 0.5, 0.03
"""confidence from which on depth is used, and relative depth within which two photographs show the same surface"""
_DARK, _BRIGHT = 0.02, 0.98
"""colours beyond are clipped, or drowned in noise"""
_SAMPLES = 1000
"""pairs of colours from two photographs, at most"""
_MIN_SAMPLES = 50
_RATIOS, _OFFSETS = (0.1, 5.0), (0.03, 200.0)
"""of logarithms of gains and of offsets: difference from which on a pair of colours counts less (Huber), and weight of
no change in pairs of colours; that of offsets is large, since few pixels confuse them with gains"""
_ROUNDS = 8


@dataclass(frozen=True)
class MatchedExposures:
    """Colour changes that photographs agree on."""

    affine: Tensor  # [N, 3, 4] from the colours that all share to those of a photograph, mean: no change
    spread: float  # root mean square over photographs of the change of medium grey, in [0, 1]


def match_exposures(scene: Scene, most: int = 1000) -> MatchedExposures | None:
    """Fit a gain and an offset per photograph and channel to surfaces that several photographs show.

    Differences of colours are minimised over all pairs at once, robustly, with some weight of no change.

    Args:
        scene: whose photographs have depth.
        most: photographs that are compared, evenly chosen, if there are more; the others have no change.

    Returns:
        The changes, on the CPU; None where nothing is shared.
    """
    chosen = evenly_spaced(len(scene), most)
    pairs = _shared_colours(scene, chosen)
    if not pairs:
        return None
    first, second = (torch.cat([torch.full((len(a),), pair[k]) for *pair, a, _ in pairs]) for k in (0, 1))
    ours, theirs = torch.cat([a for *_, a, _ in pairs]), torch.cat([b for *_, _, b in pairs])
    channels = [_fitted(len(chosen), first, second, ours[:, c], theirs[:, c]) for c in range(3)]
    gains, offsets = (torch.stack([channel[k] for channel in channels], 1) for k in (0, 1))  # to what all share
    slopes, levels = 1 / gains, -offsets / gains  # from what all share to each photograph
    middle, level = slopes.mean(0), levels.mean(0)
    slopes, levels = slopes / middle, levels - slopes * level / middle  # shared are the colours of the mean photograph
    grey = 0.5 * slopes + levels - 0.5
    affine = torch.cat([torch.diag_embed(slopes), levels[..., None]], 2)
    every = torch.eye(3, 4).repeat(len(scene), 1, 1)
    every[chosen] = affine.float()
    return MatchedExposures(every, float(grey.square().mean().sqrt()))


def _shared_colours(scene: Scene, chosen: Sequence[int]) -> list[tuple[int, int, Tensor, Tensor]]:
    """Numbers of two of the chosen photographs, and their colours [M, 3] each of surfaces that both show."""
    photos = [scene.photo(index).within(_SIDE) for index in chosen]
    depths = []
    for index, photo in zip(chosen, photos, strict=True):
        found, (height, width) = scene.depth(index), photo.image.shape[:2]
        if found is None:
            depths.append(photo.image.new_zeros(height, width))
            continue
        depth, confidence = (resized(maps, height, width, "nearest-exact") for maps in (found.depth, found.confidence))
        used = confidence > _CONFIDENT
        if photo.mask is not None:
            used &= photo.mask > 0.5
        depths.append(depth.where(used, 0.0)[..., 0])
    generator, pairs = torch.Generator().manual_seed(0), []
    for index, photo in enumerate(photos):
        for other in matching_neighbours(index, photos, None, None, _NEIGHBOURS):
            there = photos[other]
            here, seen = _both(photo.image, depths[index], photo.pose, there.image, depths[other], there.pose)
            order = torch.randperm(len(here), generator=generator)[:_SAMPLES].to(here.device)
            if len(order) >= _MIN_SAMPLES:
                pairs.append((index, other, here[order].double().cpu(), seen[order].double().cpu()))
    return pairs


def _both(
    image: Tensor, depth: Tensor, camera: Pinhole, there: Tensor, other_depth: Tensor, other: Pinhole
) -> tuple[Tensor, Tensor]:
    """Colours [M, 3] of surfaces in a picture [H, W, 3] with depth [H, W] (0: unknown), and in another one."""
    grid, z = reproject(depth.clamp_min(1e-9), camera, other)
    planes = torch.cat([there, other_depth[..., None]], 2).permute(2, 0, 1)[None]
    grid = grid[None].to(planes)
    colours = F.grid_sample(planes[:, :3], grid, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    found = F.grid_sample(planes[:, 3:], grid, mode="nearest", align_corners=False)[0, 0]
    same = (found.clamp_min(1e-9) / z.clamp_min(1e-9)).log().abs() < _SAME
    shared = (depth > 0) & (found > 0) & (z > 0) & (grid[0].abs() < 1).all(-1) & same
    for picture in (image, colours):
        shared &= (picture > _DARK).all(-1) & (picture < _BRIGHT).all(-1)
    return image[shared], colours[shared]


def _fitted(count: int, first: Tensor, second: Tensor, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Gains and offsets [N] by which values [M] of two photographs become equal.

    First gains alone, by ratios: of values with noise a regression would find too small ones.
    """
    ratio, bright = (ours / theirs).log(), ours * theirs  # noise matters less where it is bright
    gains = _levels(count, first, second, ratio, bright, *_RATIOS).exp()
    difference = gains[first] * ours - gains[second] * theirs
    return gains, _levels(count, first, second, difference, torch.ones_like(ours), *_OFFSETS)


def _levels(
    count: int, first: Tensor, second: Tensor, difference: Tensor, weight: Tensor, outlier: float, damping: float
) -> Tensor:
    """Levels [N] that are added to both sides of differences [M] so that these vanish, least squares with Huber."""
    levels = torch.zeros(count, dtype=torch.float64)
    for _ in range(_ROUNDS):
        residual = difference + levels[first] - levels[second]
        each = weight * (outlier / residual.abs().clamp_min(1e-9)).clamp(max=1)
        joined = torch.zeros(count * count, dtype=torch.float64)
        joined = joined.index_add(0, first * count + second, each).view(count, count)
        joined = joined + joined.T
        pull = torch.zeros(count, dtype=torch.float64)
        pull = pull.index_add(0, first, -each * difference).index_add(0, second, each * difference)
        normal = torch.diag(joined.sum(1) + damping) - joined
        levels = torch.linalg.solve(normal, pull)
    return levels
