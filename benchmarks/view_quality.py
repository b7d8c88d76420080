"""Predicted views on unseen procedural scenes, beside warped photos: `python -m benchmarks.view_quality`.

Of each scene some views are predicted from two and from three photos that show much of them. Beside the prediction:
the nearest photo, warped by the depth that was predicted; all photos warped by it, weighed by visibility, which is
found from depth predicted at the photos' own cameras; and the blend that repairs renders, shown the
same depths. Where none of these sees anything it is the mean colour of the photos.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from difix3d_ns.data.capture import Capture, procedural_capture
from difix3d_ns.data.enlarged import Stills
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.stereo import matching_neighbours
from difix3d_ns.geometry.warp import in_view, warp_references
from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.blend import BlendFixer
from difix3d_ns.priors.eft import read_net
from difix3d_ns.priors.epipolar import Predictor

_CANDIDATES = 12  # photos that show most of a view
_CHOSEN = (0, 3, 6)  # of these: not the nearest ones alone


def measure(predictor: Predictor, capture: Capture, index: int, count: int) -> dict[str, dict[str, float]]:
    """Metrics of all rows for one view."""
    stills = Stills(capture.cameras, capture.images, capture.points)
    every = [
        PosedImage(image, camera, stills.render(camera)[1])
        for image, camera in zip(capture.images, capture.cameras, strict=True)
    ]
    order = [index, *(other for other in range(len(every)) if other != index)]
    posed = [every[number] for number in order]
    seen = [in_view(capture.points, one.pose)[0] for one in posed]
    near = matching_neighbours(0, posed, capture.points, seen, _CANDIDATES)
    near = near or matching_neighbours(0, posed, None, None, _CANDIDATES)
    photos = [posed[near[place]] for place in _CHOSEN[:count] if place < len(near)]
    truth, camera = capture.images[index], capture.cameras[index]
    started = time.perf_counter()
    found = predictor.predict(photos, camera)
    seconds = time.perf_counter() - started
    known = [
        PosedImage(one.image, one.camera, _depth(predictor, photos, number), torch.ones_like(one.image[..., :1]))
        for number, one in enumerate(photos)
    ]
    grey = torch.stack([one.image.mean((0, 1)) for one in photos]).mean(0).expand_as(truth)
    alpha = torch.ones_like(found.depth)
    warps = warp_references(camera, found.depth, alpha, known)
    total = warps.visibility.sum(0)
    blended = (warps.visibility * warps.images).sum(0) / total.clamp_min(1e-6)
    blend = BlendFixer().fix([FixRequest(grey, known, camera, found.depth, alpha)])[0].image
    pictures = {
        "nearest photo, warped": torch.where(warps.visibility[0] > 0, warps.images[0], grey),
        "all photos warped, by visibility": torch.where(total > 0, blended, grey),
        "blend": blend,
        "predicted": found.image,
    }
    metrics = {name: image_metrics(picture, truth) for name, picture in pictures.items()}
    metrics["predicted"]["seconds"] = seconds
    return metrics


def _depth(predictor: Predictor, photos: Sequence[PosedImage], number: int) -> Tensor:
    """Depth at a photo's camera, predicted from all photos."""
    return predictor.predict(photos, photos[number].pose).depth


def main(
    weights: str | None = None,
    seeds: tuple[int, ...] = tuple(range(1000, 1010)),
    grounded: tuple[int, ...] = tuple(range(1000, 1010)),
    views: int = 3,
    long_side: int = 192,
) -> None:
    """Print a table.

    Args:
        weights: of the network; None for the package's.
        seeds: of procedural scenes, from 1000 on: no prior was trained on these.
        grounded: of objects on ground, likewise.
        views: of each scene.
        long_side: of the pictures.
    """
    torch.set_num_threads(1)
    predictor = Predictor(read_net(weights), torch.device("cpu"))
    captures = [procedural_capture(seed, long_side) for seed in seeds]
    captures += [procedural_capture(seed, long_side, kind="grounded") for seed in grounded]
    table = Table("photos", "", "PSNR", "SSIM", "FLIP", "gain of the prediction in PSNR")
    for count in (2, 3):
        rows: dict[str, list[dict[str, Any]]] = {}
        for capture in captures:
            for index in capture.test[:: max(1, len(capture.test) // views)][:views]:
                for name, one in measure(predictor, capture, index, count).items():
                    rows.setdefault(name, []).append(one)
        ours = np.array([one["psnr"] for one in rows["predicted"]])
        for name, each in rows.items():
            gains = ours - np.array([one["psnr"] for one in each])
            error = gains.std(ddof=1) / len(gains) ** 0.5
            means = [f"{np.mean([one[key] for one in each]):.3f}" for key in ("psnr", "ssim", "flip")]
            gain = (
                "" if name == "predicted" else f"{gains.mean():+.2f} +- {error:.2f} ({(gains > 0).mean():.0%} of views)"
            )
            table.add_row(str(count), name, *means, gain)
        seconds = np.median([one["seconds"] for one in rows["predicted"]])
        Console().print(f"{count} photos: {len(ours)} views, {seconds:.2f} s each")
    Console(width=140).print(table)


if __name__ == "__main__":
    tyro.cli(main)
