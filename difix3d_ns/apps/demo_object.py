"""The demo of one photo to 3D: a procedural object, whose other sides are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from difix3d_ns.apps.image_to_3d import image_to_3d
from difix3d_ns.apps.opened_splats import opened
from difix3d_ns.data.object_orbits import ObjectOrbit, object_orbit
from difix3d_ns.evaluation.comparison import write_comparison
from difix3d_ns.evaluation.table import metric_table
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.io.atomic import write_json
from difix3d_ns.io.cut_objects import FILLED
from difix3d_ns.io.images import Picture, write_picture
from difix3d_ns.metrics.image import image_metrics, mean_metrics
from difix3d_ns.ns.cameras import to_cameras

ELEVATION = 30.0
SIDE = 256
"""pixels of the photo"""
_FIRST_SEED = 7200  # no prior was trained on objects from here on
CAPTIONS = ("truth", "from one photo")


def run_demo_object(output: Path, seed: int = 0, steps: int | None = None) -> dict[str, dict[str, float]]:
    """Photograph an object once, make it into 3D, and compare with its other sides.

    Writes what ``image_to_3d`` does, ``object.png``, ``results.json`` and ``comparison.png`` into ``output``.

    Args:
        output: folder, made if needed.
        seed: of the object.
        steps: of training; None: the method's own.

    Returns:
        {row: {metric: mean over the cameras that the photo is not from}}.
    """
    console = Console()
    orbit = object_orbit(_FIRST_SEED + seed, SIDE, ELEVATION, filled=FILLED)
    photo = output / "object.png"
    write_picture(photo, Picture(orbit.images[0], orbit.masks[0]))
    made = image_to_3d(photo, output, ELEVATION, steps=steps)
    pipeline = opened(made.config, None, made.config)
    rows, found, repeated = [], [], []
    with torch.no_grad():
        for number, camera in enumerate(pipeline.scene.cameras()):
            if number == 0:
                continue
            outputs = pipeline.model.get_outputs_for_camera(to_cameras(camera).to(pipeline.device))
            render, background = outputs["rgb"].cpu(), outputs["background"].cpu()
            truth, again = (_before(orbit, frame, render.shape[:2], background) for frame in (number, 0))
            found.append(image_metrics(render, truth))
            repeated.append(image_metrics(again, truth))
            if number % 4 == 0:
                rows.append([truth, render])
    results = {"photo repeated": mean_metrics(repeated), "hi3d": mean_metrics(found)}
    write_json(output / "results.json", results)
    write_comparison(output / "comparison.png", rows, CAPTIONS)
    console.print(metric_table(results).terminal())
    console.print(f"Numbers: {output / 'results.json'}   pictures: {output / 'comparison.png'}", highlight=False)
    return results


def _before(orbit: ObjectOrbit, frame: int, size: Sequence[int], background: Tensor) -> Tensor:
    """A picture [H, W, 3] of an orbit before a colour [3], as renders are, of a size (H, W)."""
    mask = orbit.masks[frame]
    colours, share = resampled(torch.cat([orbit.images[frame] * mask, mask], -1), *size).split([3, 1], -1)
    return (colours + (1 - share) * background).clamp(0, 1)
