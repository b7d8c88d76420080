"""Doubt and elevation that the network of one photo finds: `python -m benchmarks.photo_doubt --seeds 8100 8101 ...`.

Photos of procedural objects from elevations of -10 to 40 degrees, and of things it never met: furniture and plants of
the procedural rooms. Doubt is the mean entropy of what is inside; if it told what is unlike the training objects, most
of the second would have more of it than most of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from difix3d_ns.data.object_orbits import object_orbit, photograph
from difix3d_ns.data.procedural import World, furniture, photograph_world
from difix3d_ns.data.procedural.ray_scene import SceneBuilder
from difix3d_ns.data.procedural.trajectories import arc
from difix3d_ns.geometry.object_frame import FOCAL, object_cameras
from difix3d_ns.io.cut_objects import FILLED, centred
from difix3d_ns.priors.photo_volume import load

UNLIKE: dict[str, Callable[[SceneBuilder], None]] = {
    "table": lambda b: furniture.table(b, (0, 0, 0)),
    "chair": lambda b: furniture.chair(b, (0, 0, 0)),
    "shelf": lambda b: furniture.shelf(b, (0, 0, 0)),
    "vase": lambda b: furniture.vase(b, (0, 0, 0)),
    "mug": lambda b: furniture.mug(b, (0, 0, 0)),
    "plant": lambda b: furniture.plant(b, (0, 0, 0)),
    "tree": lambda b: furniture.tree(b, (0, 0, 0)),
    "bench": lambda b: furniture.bench(b, (0, 0, 0)),
    "sofa": lambda b: furniture.sofa(b, (0, 0, 0)),
    "lamp": lambda b: furniture.floor_lamp(b, (0, 0, 0)),
}
_SIZES = {"vase": 0.3, "mug": 0.12, "tree": 4.0, "lamp": 1.7}  # metres; of the others about 1.2


def photo_of(name: str, elevation: float, side: int, seed: int) -> Tensor:
    """Photograph a thing of ``UNLIKE``, cut out, [S, S, 4]."""
    rng = np.random.default_rng([61, seed])
    builder = SceneBuilder(rng, "train", 16)
    UNLIKE[name](builder)
    size = _SIZES.get(name, 1.5)
    scene = builder.finish(
        light=(0.5, -0.6, 0.7),
        light_colour=np.array([1.0, 0.93, 0.82], np.float32),
        lamp=False,
        light_size=0.02,
        ambient=np.array([[0.48, 0.55, 0.65], [0.3, 0.27, 0.24]], np.float32),
    )
    path = arc((0, 0, size / 2), 1.5 * size, 0, 2 * np.pi, size)
    world = World("object", scene, path, 0.0, 2 * np.arctan(0.35 / FOCAL))
    pose = object_cameras(elevation, side, 1, float(rng.uniform(0, 360)))[0].camera_to_world.numpy().copy()
    pose[:3, 3] = [0, 0, size / 2] + 3 * size * pose[:3, 3] / 1.5
    (view,) = photograph_world(world, rng, width=2 * side, height=2 * side, poses=[(pose, True)], label=None)
    return centred(torch.cat([view.image, (view.depth > 0).float()], -1), side)


def main(
    seeds: list[int], elevations: tuple[float, ...] = (-10, 0, 10, 20, 30, 40), weights: str | None = None
) -> None:
    """Print two tables.

    Args:
        seeds: of objects, which the network was not trained on.
        elevations: degrees, of the photos of each.
        weights: None for the package's.
    """
    torch.set_num_threads(1)
    generator, console = load(weights), Console(width=120)
    known, errors = [], []
    table = Table("degrees", "mean error", "within 10 degrees", "said to be", "doubt")
    for elevation in elevations:
        photos = [photograph(object_orbit(seed, 96, elevation, 1, FILLED)) for seed in seeds]
        found = np.array([generator.estimated_elevation(photo) for photo in photos])
        apart = np.abs(found[:, 0] - elevation)
        doubts = [generator.doubt(photo, elevation) for photo in photos]
        known += doubts
        errors += apart.tolist()
        table.add_row(f"{elevation:g}", *_row(apart, found[:, 1], doubts))
    table.add_row("all", *_row(errors, [np.nan], known))
    console.print(table)
    limit = float(np.quantile(known, 0.95))
    other = Table("unlike", "doubt", f"above {limit:.3f}, as 5 % of the objects")
    all_of_them = []
    for name in UNLIKE:
        doubts = [generator.doubt(photo_of(name, 20.0, 96, seed), 20.0) for seed in range(3)]
        all_of_them += doubts
        other.add_row(name, f"{np.mean(doubts):.3f}", f"{np.mean(np.array(doubts) > limit):.0%}")
    pairs = np.array(all_of_them)[:, None] > np.array(known)
    other.add_row("all", f"{np.mean(all_of_them):.3f}", f"{np.mean(np.array(all_of_them) > limit):.0%}")
    console.print(other)
    console.print(f"a thing unlike has more doubt than an object in {pairs.mean():.0%} of pairs", highlight=False)


def _row(apart: Sequence[float] | np.ndarray, said: Sequence[float] | np.ndarray, doubts: Sequence[float]) -> list[str]:
    share = float(np.mean(np.asarray(apart) <= 10))
    return [f"{np.mean(apart):.1f}", f"{share:.0%}", f"{np.mean(said):.1f}", f"{np.mean(doubts):.3f}"]


if __name__ == "__main__":
    tyro.cli(main)
