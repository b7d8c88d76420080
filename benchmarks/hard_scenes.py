"""Procedural captures on which one would expect fixing to hurt, for `difix3d bench --recipe hard`.

    python benchmarks/hard_scenes.py OUTPUT [--seed N]

All are the demo scene of 480 x 320 pixels, photographed in another way:

    steady      six photographs, as a control
    moving      a ball that is elsewhere in each photograph, and in no held-out view
    exposure    exposure changes by about a stop between views, white balance with it, held-out ones included
    white       what is farther than 1.1 m from the middle is white, as cut out on a turntable
    far         three photographs instead of six: references are far
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from difix3d_ns.data.procedural import View, demo_world, photograph_world, write_views

MIDDLE = torch.tensor([2.3, 3.0, 0.5])
BALL = 0.22  # metres


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


KINDS: dict[str, tuple[int, float, Callable[[Sequence[View]], Sequence[View]]]] = {
    "steady": (6, 0.0, list),
    "moving": (6, 0.0, with_ball),
    "exposure": (6, 1.0, list),
    "white": (6, 0.0, on_white),
    "far": (3, 0.0, list),
}
"""name -> photographs, change of exposure in stops, what is done to the views"""


def write(output: Path, kind: str, seed: int = 0, width: int = 480, height: int = 320, test_views: int = 8) -> Path:
    """One of them as a nerfstudio dataset."""
    photographs, exposure_change, change = KINDS[kind]
    rng = np.random.default_rng([11, seed])
    views = photograph_world(
        replace(demo_world(seed), spread=0.05),
        rng,
        width=width,
        height=height,
        train_views=photographs,
        test_views=test_views,
        beyond=0.0,
        exposure_change=exposure_change,
        label=kind,
    )
    return write_views(change(views), output, rng)


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
