"""Pictures of meshes for the docs: a mesh from several sides, as photographed and by how many photos show it.

    python docs/meshes.py TRAINING MESH.glb docs/images/mesh-demo.jpg

Only procedural scenes are shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from difix3d_ns.evaluation.report.mesh_section import coloured_by_count, mesh_and_cameras
from difix3d_ns.evaluation.report.training import read_training
from difix3d_ns.meshing.mesh_pictures import MeshPictures
from difix3d_ns.meshing.photo_counts import photo_counts

MAX_BYTES = 300_000
WIDTH, MARGIN = 360, 12
"""of each view, and around what is shown, in pixels"""


def main() -> None:
    """Write one picture: above with the photos' colours, below by counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, help="its folder or config.yml")
    parser.add_argument("mesh", type=Path, help="as difix3d mesh wrote it")
    parser.add_argument("output", type=Path, help=".jpg")
    parser.add_argument("--width", type=int, default=WIDTH, help="of each view before what is empty is cut away")
    parser.add_argument("--views", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of the report's five")
    options = parser.parse_args()
    mesh, cameras = mesh_and_cameras(read_training(options.training), options.mesh)
    cameras = [camera.resized(options.width, round(options.width * camera.height / camera.width)) for camera in cameras]
    counts = photo_counts(mesh)
    assert counts is not None, f"{options.mesh} has no number of photos"
    rows = [MeshPictures(each) for each in (mesh, coloured_by_count(mesh, counts))]
    shown = torch.stack([torch.stack([row.render(cameras[view]) for view in options.views]) for row in rows])
    used = (shown < 1).any(-1).flatten(0, 1).any(0)  # [H, W]
    (top, bottom), (left, right) = (used.any(1 - axis).nonzero()[[0, -1], 0].tolist() for axis in (0, 1))
    shown = shown[:, :, max(0, top - MARGIN) : bottom + MARGIN, max(0, left - MARGIN) : right + MARGIN]
    shown = torch.cat([torch.cat(list(row), 1) for row in shown])
    picture = Image.fromarray((shown.numpy() * 255).round().astype(np.uint8))
    for quality in range(90, 30, -5):
        picture.save(options.output, quality=quality, optimize=True)
        if options.output.stat().st_size < MAX_BYTES:
            break
    print(options.output, picture.size, options.output.stat().st_size)


if __name__ == "__main__":
    main()
