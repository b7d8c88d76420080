"""Target poses: where the splat shall become good although nobody took a photograph there."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import (
    ANGLE_UNIT,
    aim,
    assemble,
    camera_spacing,
    pose_distances,
    rotation_angles,
    slerp,
    stack_poses,
    with_poses,
)
from difix3d_ns.geometry.spacing import evenly_spaced

_BEYOND_SHARE = 0.25  # of the targets; interpolated poses gained most in every scene measured, jittered ones less
_MAX_ANGLE = math.pi / 2  # neighbours turned further apart share no view worth interpolating
_MIN_DISTANCE = 0.1  # spacings between a target and a photograph, below which it repeats the photograph
_MAX_EDGE = 4.0  # times the median edge: one far camera must not draw all targets into its gap
_BULGE = 0.25  # of the edge: how far the way around the look-at point may leave the chord
_MAX_ROLL = math.pi / 4  # above, one camera was held upright and the other turned: never meet in between
_MAX_NEIGHBOURS = 16  # enough for every camera's relative neighbourhood, small enough for thousands of cameras
_MAX_POINTS = 4096  # scene points used


def auto_targets(
    cameras: Sequence[Pinhole],
    scene_points: Tensor | None,
    count: int,
    beyond: float = 0.25,
    seed: int = 0,
) -> list[Pinhole]:
    """Targets between neighbouring training cameras and moderately beyond them, looking where the scene is.

    Neighbours are the edges of the relative neighbourhood graph (Toussaint 1980: no third camera is closer to both),
    measured by position and rotation; wider gaps get more targets. A target between two cameras lies on the way
    around their look-at points (the points at the median depth each camera sees), turns with both, and keeps looking
    at the scene. A quarter of the targets lie beyond: shifted off the outermost cameras, away from their neighbours,
    at the same distance from the look-at point. Nothing is derived from evaluation poses.

    Args:
        cameras: training cameras.
        scene_points: [P, 3] world points of the scene (initial points or Gaussian means); None if unknown.
        count: how many targets; fewer come back only where more would repeat training poses.
        beyond: how far outside the outermost targets lie, in units of the training cameras' spacing; 0 for none.
            0.25 by default: far enough to show what the photographs hide, near enough for references to cover it.
        seed: of the directions beyond; the result is deterministic.

    Returns:
        Cameras with intrinsics, size, device and dtype of the nearer training camera.

    Raises:
        ValueError: fewer than two cameras, all at one pose, or a pose that is not finite.
    """
    poses = stack_poses(cameras)
    if count <= 0:
        return []
    if len(cameras) < 2:
        raise ValueError(
            f"targets between training cameras need at least two training images, got {len(cameras)}; add "
            "photos, or use a saved camera path"
        )
    baseline = camera_spacing(poses)
    if baseline == 0 and rotation_angles(poses[:, :3, :3], poses[:, :3, :3]).max() < math.radians(1):
        raise ValueError(
            f"all {len(cameras)} training cameras stand at one place and look the same way; check the transform_matrix "
            "entries in transforms.json"
        )
    depths = _viewing_depths(cameras, poses, scene_points, baseline)
    outside = 0 if beyond <= 0 else max(round(count * _BEYOND_SHARE), 1 if count > 1 else 0)
    between, nearer = _targets_between(poses, depths, baseline, count - outside, dense=beyond <= 0)
    targets = with_poses([cameras[i] for i in nearer.tolist()], between)
    if beyond > 0:
        # Where the gaps are full, the rest goes beyond.
        shifted, owners = _targets_beyond(poses, depths, baseline, count - len(targets), beyond, seed)
        targets += with_poses([cameras[i] for i in owners.tolist()], shifted)
    return targets


def camera_path_targets(path: Path, count: int | None = None) -> list[Pinhole]:
    """Targets along a camera path saved in the viewer's Render tab.

    Args:
        path: the JSON file; its poses are OpenGL camera-to-world in the coordinates training uses (those of the
            dataparser), its field of view is vertical, in degrees.
        count: at most so many, evenly spaced along the path; None takes every frame.

    Returns:
        Cameras with square pixels and the principal point in the middle, float32 on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a camera path, or not of perspective cameras; the message names the file and the entry.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such camera path; save one in the viewer's Render tab")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        frames = content["camera_path"]
        width, height = int(content["render_width"]), int(content["render_height"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a camera path of the viewer ({type(error).__name__}: {error}); it needs camera_path, "
            "render_width and render_height: save it again in the Render tab"
        ) from error
    if not isinstance(frames, list) or not frames:
        raise ValueError(f"{path}: camera_path is empty; add two keyframes or more in the Render tab and save again")
    if width < 1 or height < 1:
        raise ValueError(f"{path}: render_width and render_height must be positive, got {width} x {height}")
    if str(content.get("camera_type", "perspective")).lower() != "perspective":
        raise ValueError(
            f"{path}: camera_type is {content['camera_type']!r}; pseudo-views need a path of perspective cameras"
        )
    if count is not None and 0 < count < len(frames):
        frames = [frames[i] for i in evenly_spaced(len(frames), count)]
    return [_path_camera(path, i, frame, width, height) for i, frame in enumerate(frames)]


def _path_camera(path: Path, index: int, frame: Any, width: int, height: int) -> Pinhole:
    try:
        pose = torch.tensor(frame["camera_to_world"], dtype=torch.float64).reshape(4, 4)
        fov = float(frame["fov"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{path}: entry {index} of camera_path needs camera_to_world (16 numbers) and fov ({error})"
        ) from error
    rotation = pose[:3, :3]
    orthonormal = torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=rotation.dtype), atol=1e-3)
    if not pose.isfinite().all() or not orthonormal or torch.linalg.det(rotation) < 0:
        raise ValueError(f"{path}: camera_to_world of entry {index} of camera_path is not a rotation and a position")
    if not 0 < fov < 180:
        raise ValueError(f"{path}: fov of entry {index} of camera_path must lie between 0 and 180 degrees, got {fov}")
    # OpenGL looks along -z with y up; OpenCV along z with y down.
    pose = (pose * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=pose.dtype)).float()
    focal = 0.5 * height / math.tan(math.radians(fov) / 2)
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)
    return Pinhole(pose, intrinsics, width, height)


def _viewing_depths(cameras: Sequence[Pinhole], poses: Tensor, scene_points: Tensor | None, baseline: float) -> Tensor:
    """Distance [N] along the viewing direction to what each camera looks at."""
    depths = torch.full((len(cameras),), torch.nan, dtype=poses.dtype)
    if scene_points is not None and len(scene_points):
        points = scene_points.detach().to("cpu", poses.dtype)
        points = points[:: -(-len(points) // _MAX_POINTS)]
        points = points[points.isfinite().all(1)]
        intrinsics = torch.stack([c.intrinsics.detach().to("cpu", poses.dtype) for c in cameras])
        size = torch.tensor([[c.width, c.height] for c in cameras], dtype=poses.dtype)
        local = torch.einsum("nji,npj->npi", poses[:, :3, :3], points[None] - poses[:, None, :3, 3])  # [N, P, 3]
        z = local[..., 2]
        pixels = torch.einsum("nij,npj->npi", intrinsics, local)[..., :2] / z.clamp_min(1e-9)[..., None]
        seen = (z > 0) & (pixels > 0).all(-1) & (pixels < size[:, None]).all(-1)
        enough = seen.sum(1) >= 3
        depths[enough] = z.where(seen, torch.nan)[enough].nanmedian(1).values
    known = depths.isfinite()
    if not known.any():
        return _converging_depths(poses, baseline)
    return depths.where(known, depths[known].median())


def _converging_depths(poses: Tensor, baseline: float) -> Tensor:
    """Distance [N] without scene points: to where the viewing directions meet, else a few spacings."""
    positions, forward = poses[:, :3, 3], poses[:, :3, 2]
    across = torch.eye(3, dtype=poses.dtype) - forward[:, :, None] * forward[:, None]  # [N, 3, 3]
    system = across.sum(0)
    far = torch.full((len(poses),), 4 * baseline or 1.0, dtype=poses.dtype)
    # Nearly parallel directions meet anywhere.
    if torch.linalg.eigvalsh(system / len(poses))[0] < 1e-2:
        return far
    meeting = torch.linalg.solve(system, (across @ positions[:, :, None]).sum(0))[:, 0]
    depths = ((meeting - positions) * forward).sum(1)
    return depths if (depths > 0.5 * baseline).all() else far


def _neighbourhood_edges(poses: Tensor, baseline: float) -> tuple[Tensor, Tensor]:
    """Relative neighbourhood graph: camera pairs [E, 2] and their pose distances [E]."""
    distances = pose_distances(poses, poses, baseline)
    near = distances.topk(min(_MAX_NEIGHBOURS + 1, len(poses)), largest=False).indices  # [N, k], itself included
    length = distances.gather(1, near)
    # Whatever is closer to both ends is among the nearest of either.
    blocked = torch.maximum(length[:, None], distances[near[:, :, None], near[:, None]]) < length[:, :, None] - 1e-5
    keep = ~blocked.any(2)
    first = torch.arange(len(poses))[:, None].expand_as(near)[keep]
    pairs = torch.stack([first, near[keep]], 1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]].sort(1).values.unique(dim=0)
    length = distances[pairs[:, 0], pairs[:, 1]]
    usable = (_angles_between_views(poses, pairs) < _MAX_ANGLE) & (length > 2 * _MIN_DISTANCE)
    return pairs[usable], length[usable]


def _angles_between_views(poses: Tensor, pairs: Tensor) -> Tensor:
    """Angle [E] between the viewing directions; a portrait beside a landscape looks the same way."""
    forward = poses[:, :3, 2]
    return (forward[pairs[:, 0]] * forward[pairs[:, 1]]).sum(1).clamp(-1, 1).arccos()


def _targets_between(poses: Tensor, depths: Tensor, baseline: float, count: int, dense: bool) -> tuple[Tensor, Tensor]:
    """Poses [<= count, 4, 4] on the edges and the nearer camera of each; ``dense`` ignores how close they come."""
    pairs, length = _neighbourhood_edges(poses, baseline)
    if count <= 0 or not len(pairs):
        return poses[:0], torch.zeros(0, dtype=torch.long)
    # D'Hondt: the next target goes to the edge whose pieces are the longest.
    weight = length.clamp(max=_MAX_EDGE * float(length.median()))
    pieces = weight[:, None] / torch.arange(2, count + 2)
    if not dense:
        pieces = pieces.masked_fill(length[:, None] / torch.arange(2, count + 2) < _MIN_DISTANCE, -1)
    # Rounded, so that the last digits do not decide among equal gaps.
    chosen = pieces.round(decimals=5).flatten().argsort(descending=True, stable=True)[:count]
    chosen = chosen[pieces.flatten()[chosen] > 0] // count
    targets_of = torch.bincount(chosen, minlength=len(pairs))
    edge = torch.arange(len(pairs)).repeat_interleave(targets_of)
    rank = torch.arange(len(edge)) - (targets_of.cumsum(0) - targets_of)[edge]
    along = (rank + 1) / (targets_of[edge] + 1).to(poses.dtype)

    first, second = pairs[edge].unbind(1)
    nearer = first.where(along <= 0.5, second)
    rotations, positions, forward = poses[:, :3, :3], poses[:, :3, 3], poses[:, :3, 2]
    look = positions + depths[:, None] * forward
    fraction = along[:, None]
    look_at = torch.lerp(look[first], look[second], fraction)
    chord = torch.lerp(positions[first], positions[second], fraction)
    direction = torch.nn.functional.normalize(torch.lerp(forward[first], forward[second], fraction), dim=1)
    bulge = look_at - torch.lerp(depths[first], depths[second], along)[:, None] * direction - chord
    limit = 4 * _BULGE * fraction * (1 - fraction) * (positions[first] - positions[second]).norm(dim=1, keepdim=True)
    bulge = bulge * (limit / bulge.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1)
    position = chord + bulge

    levelled = aim(rotations[first], forward[second])
    roll = rotation_angles(levelled, rotations[second]).diagonal()
    turned = slerp(rotations[first], rotations[second], along)
    base = turned.where((roll < _MAX_ROLL)[:, None, None], rotations[nearer])
    return assemble(aim(base, look_at - position), position), nearer


def _targets_beyond(
    poses: Tensor, depths: Tensor, baseline: float, count: int, beyond: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Poses [<= count, 4, 4] off the outermost cameras, and those cameras."""
    generator = torch.Generator().manual_seed(seed)
    positions, rotations = poses[:, :3, 3], poses[:, :3, :3]
    # Away from the neighbours, in the picture's plane: the outermost cameras have the longest such vector.
    near = pose_distances(poses, poses, baseline).topk(min(5, len(poses)), largest=False).indices
    ways = positions[near] - positions[:, None]
    lengths = ways.norm(dim=2, keepdim=True)
    ways = torch.einsum("nji,nkj->nki", rotations, ways / lengths.clamp_min(1e-12) * (lengths > 0))[..., :2]
    outward = -ways.sum(1) / max(near.shape[1] - 1, 1)  # [N, 2] right, down
    along = torch.einsum("nki,nkj->nij", ways, ways) / max(near.shape[1] - 1, 1)  # [N, 2, 2] where neighbours are
    order = outward.norm(dim=1).round(decimals=4).argsort(descending=True, stable=True)

    tries = 2 * count  # some are rejected below
    owner = order.repeat(-(-tries // len(order)))[:tries]
    turn = torch.rand(tries, generator=generator, dtype=poses.dtype) * 2 * math.pi
    random = torch.stack([turn.cos(), turn.sin()], 1)
    # Between two neighbours is not beyond: leave out the directions in which they stand.
    random = torch.nn.functional.normalize(random - torch.einsum("nij,nj->ni", along[owner], random), dim=1)
    strength = outward[owner].norm(dim=1, keepdim=True)
    way = torch.nn.functional.normalize(outward[owner] + random * (1 - strength).clamp_min(0.5), dim=1)
    far = beyond * (0.6 + 0.4 * torch.rand(tries, 1, generator=generator, dtype=poses.dtype))
    world = torch.einsum("nij,nj->ni", rotations[owner][:, :, :2], way)
    depth = depths[owner][:, None]
    look_at = positions[owner] + depth * rotations[owner][:, :, 2]
    if baseline > 0:
        # Not so far that the scene is seen from quite another side.
        shifted = positions[owner] + world * (far * baseline).minimum(0.5 * depth)
        position = look_at + torch.nn.functional.normalize(shifted - look_at, dim=1) * depth
    else:
        position = positions[owner]
        look_at = look_at + world * depth * (far * ANGLE_UNIT).tan()
    candidates = assemble(aim(rotations[owner], look_at - position), position)
    closest = pose_distances(candidates, poses, baseline).amin(1)
    kept = (closest >= min(0.5 * _MIN_DISTANCE, 0.25 * beyond)).nonzero().flatten()[:count]
    return candidates[kept], owner[kept]
