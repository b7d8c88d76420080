"""Whether other photos could help to upscale one: detail of nearer ones, and a confidence of each pixel.

    python benchmarks/enlarged_scenes.py procedural-seed:4 --near 0.5 --output enlarged
    python -m benchmarks.nearer_photos enlarged/procedural-4-near-0.5 enlarged/procedural-0

On pictures alone, without 3DSR's rounds: each photo is reduced to a quarter and upscaled by the embedded upscaler.

**Nearer photos.** Where others see the same surface from at least 1.3 times nearer, the detail of the upscaled photo,
which is what a quarter of the size cannot show, is replaced by theirs: the mean of their upscaled pictures, warped,
weighted by the square of how much nearer they are. Then the result is made to agree with the photo. Surfaces are
compared by exact depth, by the median depth of a splat of the small photos, or by that as the aligner corrects it.

**Confidence.** How far the detail around a pixel correlates with that of four neighbours at the same surface (0 to 1),
times how much nearer than this photo the nearest photo is. Pixels are ranked by it. It is of use if what it ranks low
is worse than what training would learn without: back-projection, or the splat's own render.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch import Tensor

from difix3d_ns.data.reconstruct import Schedule, Splat, reconstruct
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resampling import back_project_to_agree, resampled
from difix3d_ns.geometry.warp import reproject, unproject, visibility
from difix3d_ns.metrics.agreement import TOLERANCE, nearest
from difix3d_ns.metrics.high_pass import RunningCorrelation, high_pass
from difix3d_ns.ns.capture_reader import read_dataset
from difix3d_ns.priors import embedded
from difix3d_ns.priors.alignment.aligned_references import align
from difix3d_ns.priors.base import Upscaler
from difix3d_ns.priors.registry import load_upscaler

FACTOR = 4
NEARER = 1.3
_LONG_SIDE = 480
_AROUND = 4.0  # pixels of a Gaussian: of what is around a pixel
_EVERY = 5  # pixels of which one is ranked


@dataclass(frozen=True)
class Photos:
    """Photos of a scene by number: what is true, what is known, and what is made of it."""

    cameras: list[Pinhole]
    truths: list[Tensor]  # [H, W, 3]
    lows: list[Tensor]  # [h, w, 3]
    depths: dict[str, list[Tensor]]  # [H, W, 1], by where they are from
    alphas: list[Tensor]  # [H, W, 1] of the splat
    made: dict[str, list[Tensor]]  # [H, W, 3], by what makes them


class Score:
    """PSNR and correlation of detail over some pixels of many pictures."""

    def __init__(self) -> None:
        self._error, self._count, self._detail = 0.0, 0, RunningCorrelation()

    def add(self, picture: Tensor, truth: Tensor, where: Tensor) -> None:
        self._error += float((picture - truth)[where].square().sum())
        self._count += 3 * int(where.sum())
        self._detail.add(high_pass(picture, FACTOR)[where], high_pass(truth, FACTOR)[where])

    def __str__(self) -> str:
        return f"{decibels(self._error / max(1, self._count)):.2f} dB, detail {self._detail.value:.3f}"


def decibels(error: float) -> float:
    """PSNR of a mean squared error."""
    return -10 * math.log10(max(error, 1e-10))


def read_photos(path: Path, steps: int) -> Photos:
    """Read a scene of ``enlarged_scenes.py``, train a splat on its small photos, and upscale them."""
    capture = read_dataset(path, path.name, _LONG_SIDE)
    assert capture.files is not None and capture.to_original is not None
    scale = float(np.linalg.norm(capture.to_original[:3, 0]))  # of the scene's coordinates to the file's
    chosen = capture.train
    exact = [np.load(path / "depths" / f"{capture.files[index].stem}.npy") / scale for index in chosen]
    truths, cameras = [capture.images[index] for index in chosen], [capture.cameras[index] for index in chosen]
    sizes = [(truth.shape[0] // FACTOR, truth.shape[1] // FACTOR) for truth in truths]
    lows = [(resampled(t, *s) * 255).round() / 255 for t, s in zip(truths, sizes, strict=True)]
    small = replace(
        capture,
        images=lows,
        cameras=[camera.resized(size[1], size[0]) for camera, size in zip(cameras, sizes, strict=True)],
        train=list(range(len(chosen))),
        test=[],
    )
    splat: Splat = reconstruct(small, small.train, Schedule(steps, 40_000, mode="antialiased"))[1.0]
    shown = [splat.render(camera) for camera in cameras]
    with torch.no_grad():
        enlarged = [upscale(load_upscaler("backprojection"), low, seed) for seed, low in enumerate(lows)]
        upscaled = [upscale(load_upscaler("residual"), low, seed) for seed, low in enumerate(lows)]
    depths = {
        "exact": [torch.from_numpy(depth).float()[..., None] for depth in exact],
        "median": [d for _, d, _ in shown],
    }
    renders = [agreeing(image, low) for (image, _, _), low in zip(shown, lows, strict=True)]
    made = {"back-projection": enlarged, "upscaled": upscaled, "splat's render": renders}
    return Photos(cameras, truths, lows, depths, [alpha for _, _, alpha in shown], made)


def upscale(upscaler: Upscaler, low: Tensor, seed: int) -> Tensor:
    """Enlarge a photo [h, w, 3] by the factor, from noise."""
    state = upscaler.start([low], [(low.shape[0] * FACTOR, low.shape[1] * FACTOR)], [seed])
    while upscaler.steps_left(state):
        state = upscaler.step(state)
    return upscaler.result(state)[0]


def agreeing(picture: Tensor, low: Tensor) -> Tensor:
    """Make a picture [H, W, 3] agree with its photo [h, w, 3]."""
    planes = [values.permute(2, 0, 1)[None] for values in (picture.clamp(0, 1), low)]
    return back_project_to_agree(*planes)[0].permute(1, 2, 0)


def seen_elsewhere(
    photos: Photos, index: int, depths: Sequence[Tensor]
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield other photos: which, where they show the same surface [H, W] bool, at which places, how much nearer."""
    camera, depth = photos.cameras[index], depths[index]
    points, valid = unproject(depth, camera), (depth > 0).float()
    for other, there in enumerate(depths):
        if other == index:
            continue
        seen = visibility(points, valid, photos.cameras[other], there, (there > 0).float(), tolerance=TOLERANCE) > 0.5
        if seen.any():
            grid, z = reproject(depth[..., 0], camera, photos.cameras[other])
            focal = photos.cameras[other].intrinsics[0, 0] / camera.intrinsics[0, 0]
            yield other, seen[..., 0], grid, focal * depth[..., 0] / z.clamp_min(1e-6)


def fetched(picture: Tensor, grid: Tensor) -> Tensor:
    """Read a picture [h, w, 3] at places [H, W, 2]: [H, W, 3]."""
    planes = picture.permute(2, 0, 1)[None]
    return F.grid_sample(planes, grid[None], "bicubic", "border", align_corners=False)[0].permute(1, 2, 0)


def at_size(picture: Tensor, ratio: Tensor) -> Tensor:
    """Reduce a picture to how large its surfaces are in a photo from so much farther, against aliasing."""
    by = float(ratio.median().clamp(1, FACTOR))
    return resampled(picture, round(picture.shape[0] / by), round(picture.shape[1] / by))


def compare_nearer(photos: Photos, aligner: embedded.EmbeddedFixer) -> None:
    """Print how good upscaled photos are where others are nearer, and with these others' detail."""
    for source, depths in photos.depths.items():
        scores: dict[str, Score] = {}
        shares = []
        for index, (truth, low) in enumerate(zip(photos.truths, photos.lows, strict=True)):
            total, weight, near = torch.zeros_like(truth), torch.zeros_like(truth[..., :1]), []
            for other, seen, grid, ratio in seen_elsewhere(photos, index, depths):
                used = seen & (ratio >= NEARER)
                if not used.any():
                    continue
                picture = at_size(photos.made["upscaled"][other], ratio[used])
                count = (used * ratio.clamp(max=FACTOR).square())[..., None]
                total, weight = total + count * fetched(picture, grid), weight + count
                near.append(PosedImage(picture, photos.cameras[other], depths[other], photos.alphas[other]))
            where = weight[..., 0] > 0
            shares.append(float(where.float().mean()))
            if not near:
                continue
            made = {name: pictures[index] for name, pictures in photos.made.items()}
            base, upscaled = resampled(low, *truth.shape[:2]), made["upscaled"]
            detail = high_pass(total / weight.clamp_min(1e-6), FACTOR)
            made["nearer photos' detail"] = agreeing(torch.where(where[..., None], base + detail, upscaled), low)
            if source == "median":
                known = photos.cameras[index], upscaled, depths[index], photos.alphas[index]
                found = align(aligner.chain.align, *known, near)
                seen_by = (found.visibility * (found.visibility > 0.5)).permute(0, 2, 3, 1)
                mean = (found.warps.permute(0, 2, 3, 1) * seen_by).sum(0) / seen_by.sum(0).clamp_min(1e-6)
                on = (seen_by.sum(0) > 0) & where[..., None]
                warped = torch.where(on, base + high_pass(mean, FACTOR), upscaled)
                made["the same, aligned"] = agreeing(warped, low)
            for name, picture in made.items():
                scores.setdefault(name, Score()).add(picture, truth, where)
        print(
            f"\n{source} depth: {100 * sum(shares) / len(shares):.0f} % of pixels are seen from {NEARER} times nearer"
        )
        for name, score in scores.items():
            print(f"  {name}: {score}", flush=True)


def rank_by_confidence(photos: Photos) -> None:
    """Print how error and gain of upscaled photos go with the confidence."""
    detail = [high_pass(picture, FACTOR) for picture in photos.made["upscaled"]]
    for source, depths in photos.depths.items():
        rows = []
        for index, truth in enumerate(photos.truths):
            neighbours = nearest(photos.cameras, 4)[index]
            products, own, others = (np.zeros(truth.shape[:2]) for _ in range(3))
            closeness = torch.ones(truth.shape[:2])
            for other, seen, grid, ratio in seen_elsewhere(photos, index, depths):
                closeness = torch.where(seen & (ratio > closeness), ratio, closeness)
                if other in neighbours:
                    there = fetched(detail[other], grid) * seen[..., None]
                    here = detail[index] * seen[..., None]
                    for sums, values in ((products, here * there), (own, here**2), (others, there**2)):
                        sums += gaussian_filter(values.mean(-1).numpy(), _AROUND)
            agreement = np.clip(products / np.sqrt(own * others + 1e-12), 0, 1)
            errors = [(pictures[index] - truth).square().mean(-1).numpy() for pictures in photos.made.values()]
            maps = [agreement * closeness.numpy(), *(gaussian_filter(error, _AROUND / 2) for error in errors)]
            rows.append(np.stack([values[::_EVERY, ::_EVERY].ravel() for values in maps]))
        confidence, *errors = np.concatenate(rows, 1)
        error = dict(zip(photos.made, errors, strict=True))
        ranks = {"error": error["upscaled"]} | {
            f"gain over {name}": error[name] - error["upscaled"] for name in photos.made if name != "upscaled"
        }
        print(f"\n{source} depth: rank correlation of confidence with ", end="")
        print(", ".join(f"{name} {spearmanr(confidence, values)[0]:+.2f}" for name, values in ranks.items()))
        for number, fifth in enumerate(np.array_split(confidence.argsort(), 5)):
            means = ", ".join(f"{name} {decibels(float(error[name][fifth].mean())):.2f}" for name in error)
            print(f"  fifth {number + 1}, confidence up to {confidence[fifth].max():.2f}: {means} dB", flush=True)


def main(scenes: Annotated[tuple[Path, ...], tyro.conf.Positional], steps: int = 1500) -> None:
    """Compare on scenes.

    Args:
        scenes: of ``enlarged_scenes.py``, procedural.
        steps: of the splat of the small photos.
    """
    aligner = embedded.load()
    for scene in scenes:
        torch.manual_seed(0)
        photos = read_photos(scene, steps)
        print(f"\n## {scene.name}: {len(photos.lows)} photos", flush=True)
        with torch.no_grad():
            compare_nearer(photos, aligner)
            rank_by_confidence(photos)


if __name__ == "__main__":
    tyro.cli(main)
