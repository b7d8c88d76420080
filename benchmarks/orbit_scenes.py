"""Scenes of objects photographed small from all around, for `difix3d bench --recipe hi3d`.

    python -m benchmarks.orbit_scenes 7000 7001 --output DIR

Photos are taken from places on a ring, at half of the size, and cut out: their alpha is the object's silhouette. Held
out are the 16 views of an orbit, at the full size, with silhouettes of their own. The scene's points are those that two
photos show, as structure from motion would find them; of six photos around an object that is often not one. No prior is
trained on objects from seed 7000 on.
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
from difix3d_ns.io.images import Picture, write_picture

_MIN_ALPHA = 1 / 255


def write_orbit(seed: int, folder: Path, photos: int, long_side: int) -> Path:
    """Write an object's photos and its orbit; returns ``folder``."""
    whole = orbit_capture(seed, long_side, photos=photos, grounded=False)
    small = reduced(whole, 2)
    assert whole.depths is not None and whole.masks is not None and small.masks is not None
    views = []
    for number, depth in enumerate(whole.depths):
        training = number in whole.train
        shown = small if training else whole
        depth = depth[::2, ::2] if training else depth
        views.append(View(shown.cameras[number], shown.images[number], depth, training))
    write_views(views, folder, np.random.default_rng(seed), image_format="png")
    for number, file in enumerate(sorted((folder / "images").glob("*.png"))):
        shown = small if number in whole.train else whole
        assert shown.masks is not None
        image, alpha = shown.images[number], shown.masks[number]
        own = ((image - (1 - alpha)) / alpha.clamp_min(_MIN_ALPHA)).clamp(0, 1)  # without the white behind it
        write_picture(file, Picture(own, alpha))
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
