"""Scenes of objects photographed small from all around, for `difix3d bench --recipe hi3d`.

    python -m benchmarks.orbit_scenes 7000 7001 --output DIR

Photos are taken from places on a ring, at half of the size; held out are the 16 views of an orbit, at the full size. No
prior is trained on objects from seed 7000 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from difix3d_ns.data.enlarged import reduced
from difix3d_ns.data.orbit_samples import orbit_capture
from difix3d_ns.data.procedural import write_views
from difix3d_ns.data.procedural.dataset import View
from difix3d_ns.io.point_files import write_points


def write_orbit(seed: int, folder: Path, photos: int, long_side: int) -> Path:
    """Write an object's photos and its orbit; returns ``folder``."""
    whole = orbit_capture(seed, long_side, photos=photos, grounded=False)
    small = reduced(whole, 2)
    assert whole.depths is not None
    views = []
    for number, depth in enumerate(whole.depths):
        training = number in whole.train
        shown = small if training else whole
        depth = depth[::2, ::2] if training else depth
        views.append(View(shown.cameras[number], shown.images[number], depth, training))
    write_views(views, folder, np.random.default_rng(seed), image_format="png")
    colours = (whole.colours.numpy() * 255).round().astype(np.uint8)
    write_points(whole.points.numpy(), colours, folder / "sparse_pc.ply")
    return folder


def main(
    seeds: Annotated[Sequence[int], tyro.conf.Positional], output: Path, photos: int = 6, long_side: int = 320
) -> None:
    """Write scenes.

    Args:
        seeds: of objects.
        output: folder; a folder for each.
        photos: for training.
        long_side: of the held-out views, in pixels; photos have half of it.
    """
    for seed in seeds:
        folder = output / f"orbit-{seed}-{photos}"
        there = (folder / "transforms.json").is_file()
        print(f"{folder} is there already" if there else write_orbit(seed, folder, photos, long_side))


if __name__ == "__main__":
    tyro.cli(main)
