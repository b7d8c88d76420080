"""What the upscaler is worth beside bicubic enlargement and back-projection, on pictures it was not trained on.

    python benchmarks/upscaler_quality.py [--captures CAPTURE...] [--weights FILE_OR_FOLDER] [--factors 4 2]

Pictures are reduced (antialiased bicubic) and enlarged again. Of each capture they are the middles of the photographs
at one and two thirds of its list, at the size they lie there in; the others are photographs of procedural scenes that
no prior was trained on. Prints Markdown tables: PSNR / SSIM / FLIP, then what share of the truth's gradient energy is
there and how the high frequencies correlate with the truth's, then the CPU seconds of a picture.

``first``: after one round, the estimate from noise alone. ``last``: after four rounds, each from the own result instead
of a splat's render. ``mean of 4``: that of four seeds.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from difix3d_ns.data.capture import procedural_capture
from difix3d_ns.geometry.resampling import BACK_PROJECTIONS, resample
from difix3d_ns.metrics.image import image_metrics, mean_metrics
from difix3d_ns.priors.bicubic import BicubicUpscaler
from difix3d_ns.priors.residual import load
from difix3d_ns.training.systems.upscale import upscaled

_SIDE = 384  # pixels of a middle, and the longer side of procedural photographs
_SEEDS = (1002, 1003, 1004, 1005)

Make = Callable[[Tensor, float], Tensor]


def main(captures: tuple[Path, ...] = (), weights: str | None = None, factors: tuple[float, ...] = (4.0, 2.0)) -> None:
    """Compare on pictures of captures and of procedural scenes.

    Args:
        captures: folders with ``images/``.
        weights: of the upscaler (unset: the package's own).
        factors: by which pictures are reduced.
    """
    device = torch.device("cpu")
    one, four = load(weights), load(weights, samples=4)
    makes: dict[str, Make] = {
        "bicubic": lambda truth, factor: upscaled(BicubicUpscaler(device), truth, factor),
        "back-projection": lambda truth, factor: upscaled(BicubicUpscaler(device, BACK_PROJECTIONS), truth, factor),
        "first": lambda truth, factor: upscaled(one, truth, factor),
        "first, mean of 4": lambda truth, factor: upscaled(four, truth, factor),
        "last": lambda truth, factor: upscaled(one, truth, factor, one.rounds),
        "last, mean of 4": lambda truth, factor: upscaled(four, truth, factor, four.rounds),
    }
    pictures = [*_procedural(), *(found for capture in captures for found in _middles(capture))]
    for factor in factors:
        _compare(pictures, makes, factor)


def _compare(pictures: Sequence[tuple[str, Tensor]], makes: dict[str, Make], factor: float) -> None:
    metrics: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, list[float]] = defaultdict(list)
    for kind, truth in pictures:
        for name, make in makes.items():
            start = time.process_time()
            picture = make(truth, factor)
            seconds[name].append(time.process_time() - start)
            metrics[kind][name].append(image_metrics(picture, truth) | _sharpness(picture, truth))
    for kind in list(metrics):
        if kind != "procedural":
            for name in makes:
                metrics["all captures"][name] += metrics[kind][name]
    print(f"\nFactor {factor:g}: PSNR / SSIM / FLIP; gradient energy, correlation of high frequencies\n")
    print("| pictures | | " + " | ".join(makes) + " |\n|---|---|" + "---|" * len(makes))
    for kind, columns in metrics.items():
        means = [mean_metrics(rows) for rows in columns.values()]
        cells = [
            f"{m['psnr']:.2f} / {m['ssim']:.3f} / {m['flip']:.4f}<br>{m['energy']:.2f}, {m['correlation']:.3f}"
            for m in means
        ]
        print(f"| {kind} | {len(columns['bicubic'])} | " + " | ".join(cells) + " |")
    print(
        "| CPU seconds | | " + " | ".join(f"{np.median(values):.2f}" for values in seconds.values()) + " |", flush=True
    )


def _sharpness(picture: Tensor, truth: Tensor) -> dict[str, float]:
    """Gradient energy relative to the truth's, and correlation of what a quarter of the size cannot show."""
    own, true = (values.permute(2, 0, 1)[None] for values in (picture, truth))
    energy = [float(sum(values.diff(dim=axis).square().mean() for axis in (-1, -2))) for values in (own, true)]
    high = [
        values - resample(resample(values, *(s // 4 for s in values.shape[-2:])), *values.shape[-2:])
        for values in (own, true)
    ]
    first, second = (values.flatten() - values.mean() for values in high)
    correlation = float(first @ second / (first.norm() * second.norm()).clamp_min(1e-9))
    return {"energy": energy[0] / max(energy[1], 1e-9), "correlation": correlation}


def _procedural() -> Iterator[tuple[str, Tensor]]:
    for seed in _SEEDS:
        capture = procedural_capture(seed, _SIDE, 2)
        for number in (len(capture.images) // 3, 2 * len(capture.images) // 3):
            yield "procedural", capture.images[number]


def _middles(capture: Path) -> Iterator[tuple[str, Tensor]]:
    files = sorted(path for path in (capture / "images").iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for number in (len(files) // 3, 2 * len(files) // 3):
        with Image.open(files[number]) as file:
            pixels = torch.from_numpy(np.array(file.convert("RGB"))).float() / 255
        top, left = ((side - _SIDE) // 2 for side in pixels.shape[:2])
        yield capture.name, pixels[top : top + _SIDE, left : left + _SIDE].contiguous()


if __name__ == "__main__":
    tyro.cli(main)
