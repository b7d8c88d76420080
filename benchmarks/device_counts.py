"""Count what parts of a training ask of a GPU, on a pretended one: python benchmarks/device_counts.py

Kernels, waits, copies to the GPU and back, and rasterizations; the same on every machine. Those of a step and of a
repaired view are in tests/integration/test_device_budgets.py; here is what happens before training or for each view.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from difix3d_ns.geometry.stereo import stereo_depths
from difix3d_ns.rasterization import median_depth
from tests.gpu.run.gpu_smoke import splats
from tests.pretended_cuda import KINDS, counting, pretended_cuda
from tests.unit.known_scenes import camera_at, photograph

SIZE = (480, 320)  # width, height
PLACES = ((0.0, 0.0), (0.3, 0.0), (-0.3, 0.1), (0.0, 0.3), (0.2, -0.3))
GAUSSIANS = 3000


def stereo() -> Callable[[], object]:
    """Stereo of five photographs, each with the four others as neighbours."""
    found = [photograph(camera_at(*place, width=SIZE[0], height=SIZE[1])) for place in PLACES]
    points = found[0][1].reshape(-1, 3)[::37].cuda()
    views = [
        replace(
            photo, image=(photo.image + 0.2 * torch.sin(17 * at[..., :1])).clamp(0, 1).cuda(), depth=None, alpha=None
        )
        for photo, at in found
    ]
    return lambda: stereo_depths(views, points)


def median() -> Callable[[], object]:
    """Median depth of one view of a splat that fills it."""
    there = [part.cuda() for part in splats(GAUSSIANS, *SIZE)]
    return lambda: median_depth(*there, *SIZE)


def main() -> None:
    """Print a Markdown table."""
    print("| | " + " | ".join(KINDS) + " |")
    print("|---" * (1 + len(KINDS)) + "|")
    for name, part in (("stereo of five photos", stereo), ("median depth of a view", median)):
        with pretended_cuda():
            run = part()
            with counting() as traffic:
                run()
        print(f"| {name} | " + " | ".join(f"{traffic[kind]:,}" for kind in KINDS) + " |", flush=True)


if __name__ == "__main__":
    main()
