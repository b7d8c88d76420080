"""Procedural scenes that no prior was trained on, each with and without the true depth of its photos.

python benchmarks/exact_depth.py 1000 1001 1004 1010 --output worlds
difix3d bench worlds/* --output DIR --recipe depth
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from difix3d_ns.data.capture import procedural_capture
from difix3d_ns.data.procedural.dataset import View, write_views
from difix3d_ns.io.atomic import write_text


def write(seed: int, output: Path, long_side: int, exact: bool) -> Path:
    """Write a scene; with ``exact``, its training photos have their true depth."""
    capture = procedural_capture(seed, long_side)
    assert capture.depths is not None
    views = [
        View(capture.cameras[index], capture.images[index], capture.depths[index], index in set(capture.train))
        for index in range(len(capture.cameras))
    ]
    write_views(views, output, np.random.default_rng([5, seed]), image_format="png", depths=exact)
    if exact:
        path = output / "transforms.json"
        meta = json.loads(path.read_text(encoding="utf-8"))
        for frame in meta["frames"]:
            if frame["file_path"] in meta["train_filenames"]:
                frame["depth_file_path"] = frame["file_path"].replace("images/", "depths/").replace(".png", ".npy")
        meta["depth_unit_scale_factor"] = 1.0
        write_text(path, json.dumps(meta, indent=1))
    return output


def main(seeds: Annotated[tuple[int, ...], tyro.conf.Positional], output: Path, long_side: int = 480) -> None:
    """Write the scenes of some seeds."""
    for seed in seeds:
        for exact in (False, True):
            print(write(seed, output / f"world-{seed}{'-exact' if exact else ''}", long_side, exact))


if __name__ == "__main__":
    tyro.cli(main)
