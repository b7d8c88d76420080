"""Procedural captures on which one would expect fixing to hurt, for `difix3d bench --recipe hard`.

    python benchmarks/hard_scenes.py OUTPUT [--seed N]

All but the last are the demo scene of 480 x 320 pixels, photographed in another way:

    steady      six photographs, as a control
    moving      a ball that is elsewhere in each photograph, and in no held-out view
    exposure    exposure changes by about a stop between views, white balance with it, held-out ones included
    white       what is farther than 1.1 m from the middle is white, as cut out on a turntable
    far         three photographs instead of six: references are far
    outside-*   held-out cameras half a camera spacing, one and two above the photographs' path
    poses-*     training cameras turned by 0.2, 0.5 and 1 pixel (standard deviation, about each axis)
    focal       a focal length stated one per cent too long
    street      a facade passed by three cameras; the middle one is trained on, the others are held out
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from scipy.spatial.transform import Rotation

from difix3d_ns.data.procedural import View, World, demo_world, photograph_world, training_world, write_views
from difix3d_ns.data.procedural.trajectories import look_at, views_along

MIDDLE = torch.tensor([2.3, 3.0, 0.5])
BALL = 0.22  # metres
_SIDE_ANGLE, _SIDE_DISTANCE = 0.6, 0.3  # radians and metres, of a rig's outer cameras
Pose = tuple[np.ndarray, bool]  # camera-to-world [4, 4], OpenCV axes; whether it is a training view


def with_ball(views: Sequence[View]) -> list[View]:
    """A checkered ball in every training view, held up at a different place each time."""
    count = sum(view.training for view in views)
    shown, number = [], 0
    for view in views:
        if view.training:
            along = number / max(count - 1, 1) - 0.5
            side = along if number % 2 else -along  # to and fro, so that neighbouring photographs do not agree
            view = replace(view, image=_ball(view, MIDDLE + torch.tensor([1.8 * side, -0.4, 0.4])))
            number += 1
        shown.append(view)
    return shown


def _ball(view: View, centre: torch.Tensor) -> torch.Tensor:  # [H, W, 3]
    origin, rays = _rays(view)
    offset = origin - centre
    b, c = (rays * offset).sum(-1), (offset * offset).sum() - BALL**2
    a = (rays * rays).sum(-1)
    root = b * b - a * c
    depth = (-b - root.clamp_min(0).sqrt()) / a  # rays have z = 1
    hit = (root > 0) & (depth > 0) & ((depth < view.depth[..., 0]) | (view.depth[..., 0] == 0))
    normal = (origin + depth[..., None] * rays - centre) / BALL
    checks = ((normal * 4).floor().sum(-1) % 2)[..., None]
    colour = torch.lerp(torch.tensor([0.85, 0.2, 0.1]), torch.tensor([0.95, 0.9, 0.8]), checks)
    shade = 0.45 + 0.55 * normal[..., 2:].clamp(0, 1)
    return torch.where(hit[..., None], colour * shade, view.image)


def on_white(views: Sequence[View]) -> list[View]:
    """Everything far from the middle is white."""
    shown = []
    for view in views:
        origin, rays = _rays(view)
        far = (origin + view.depth * rays - MIDDLE).norm(dim=-1, keepdim=True) > 1.1
        image = torch.where(far | (view.depth == 0), 1.0, view.image)
        shown.append(replace(view, image=image, depth=view.depth.where(~far, 0.0)))
    return shown


def _rays(view: View) -> tuple[torch.Tensor, torch.Tensor]:
    """Camera position [3] and directions [H, W, 3] in the world, one metre deep."""
    camera = view.camera
    y, x = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(camera.intrinsics.float()).T
    return camera.position.float(), rays @ camera.camera_to_world[:3, :3].float().T


def outside(spacings: float) -> Callable[[Sequence[Pose], np.random.Generator], list[Pose]]:
    """Held-out cameras so many camera spacings above the photographs' path."""

    def move(poses: Sequence[Pose], rng: np.random.Generator) -> list[Pose]:
        places = np.stack([pose[:3, 3] for pose, training in poses if training])
        spacing = float(np.linalg.norm(np.diff(places, axis=0), axis=1).mean())
        up = np.array([0, 0, spacings * spacing])
        return [(pose if training else _moved(pose, up), training) for pose, training in poses]

    return move


def _moved(pose: np.ndarray, by: np.ndarray) -> np.ndarray:
    """A camera elsewhere that still looks at the middle of what it looked at."""
    target = pose[:3, 3] + pose[:3, 2] * np.linalg.norm(MIDDLE.numpy() - pose[:3, 3])
    return look_at(pose[:3, 3] + by, target)


def rig(poses: Sequence[Pose], rng: np.random.Generator) -> list[Pose]:
    """Three cameras on a car: the one in the middle is trained on, those at its sides are held out."""
    found: list[Pose] = []
    for pose, training in poses:
        if not training:
            continue
        found.append((pose, True))
        for side in (-1, 1):
            turn, turned = side * _SIDE_ANGLE, pose.copy()
            turned[:3, :3] = pose[:3, :3] @ Rotation.from_rotvec([0, turn, 0]).as_matrix()
            turned[:3, 3] += side * _SIDE_DISTANCE * pose[:3, 0]
            found.append((turned, False))
    return found


def misplaced(pixels: float) -> Callable[[Sequence[View], np.random.Generator], list[View]]:
    """Training cameras that are turned by so many pixels, as poses with an error are; held-out ones are exact."""

    def turn(views: Sequence[View], rng: np.random.Generator) -> list[View]:
        found = []
        for view in views:
            if view.training:
                angle = rng.normal(0, pixels / float(view.camera.intrinsics[0, 0]), 3)
                pose = view.camera.camera_to_world.clone()
                pose[:3, :3] = pose[:3, :3] @ torch.from_numpy(Rotation.from_rotvec(angle).as_matrix()).to(pose)
                view = replace(view, camera=replace(view.camera, camera_to_world=pose))
            found.append(view)
        return found

    return turn


def longer(views: Sequence[View], rng: np.random.Generator) -> list[View]:
    """Cameras whose focal length is stated one per cent too long."""
    found = []
    for view in views:
        intrinsics = view.camera.intrinsics.clone()
        intrinsics[:2, :2] *= 1.01
        found.append(replace(view, camera=replace(view.camera, intrinsics=intrinsics)))
    return found


@dataclass(frozen=True)
class Kind:
    """One way to photograph."""

    photographs: int = 6
    exposure_change: float = 0.0  # stops
    poses: Callable[[Sequence[Pose], np.random.Generator], list[Pose]] | None = None
    views: Callable[[Sequence[View], np.random.Generator], Sequence[View]] = lambda views, rng: views
    world: Callable[[int], World] = lambda seed: replace(demo_world(seed), spread=0.05)


KINDS: dict[str, Kind] = {
    "steady": Kind(),
    "moving": Kind(views=lambda views, rng: with_ball(views)),
    "exposure": Kind(exposure_change=1.0),
    "white": Kind(views=lambda views, rng: on_white(views)),
    "far": Kind(photographs=3),
    "outside-half": Kind(poses=outside(0.5)),
    "outside-one": Kind(poses=outside(1.0)),
    "outside-two": Kind(poses=outside(2.0)),
    "poses-0.2": Kind(views=misplaced(0.2)),
    "poses-0.5": Kind(views=misplaced(0.5)),
    "poses-1": Kind(views=misplaced(1.0)),
    "focal": Kind(views=longer),
    "street": Kind(photographs=10, poses=rig, world=lambda seed: replace(training_world(1001 + seed), spread=0.02)),
}


def write(output: Path, kind: str, seed: int = 0, width: int = 480, height: int = 320, test_views: int = 8) -> Path:
    """One of them as a nerfstudio dataset; a rig holds two views out for each photograph, whatever ``test_views``."""
    chosen = KINDS[kind]
    rng = np.random.default_rng([11, seed])
    world = chosen.world(seed)
    poses = None
    if chosen.poses is not None:
        along = views_along(world.path, chosen.photographs, test_views, rng, world.spread, 0.0)
        poses = chosen.poses(along, rng)
    views = photograph_world(
        world,
        rng,
        width=width,
        height=height,
        train_views=chosen.photographs,
        test_views=test_views,
        beyond=0.0,
        exposure_change=chosen.exposure_change,
        poses=poses,
        label=kind,
    )
    return write_views(chosen.views(views, rng), output, rng)


def main(output: Annotated[Path, tyro.conf.Positional], seed: int = 0) -> None:
    """Write all of them.

    Args:
        output: folder; a folder for each.
        seed: of cameras and noise.
    """
    for kind in KINDS:
        print(write(output / kind, kind, seed))


if __name__ == "__main__":
    tyro.cli(main)
