"""Chooses how much of Real-ESRGAN's detail the upscaler ``realesrgan`` adds, on procedural pictures.

    python benchmarks/realesrgan_share.py --weights FOLDER

Pictures of generated scenes are reduced four times by the antialiased bicubic filter and enlarged again. Printed are
PSNR, FLIP and the energy of gradients relative to the true picture's, as means, and for each share the gain in PSNR
over back-projection alone (share 0): mean, least, greatest, and the number of pictures that gained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from difix3d_ns.data.procedural.dataset import photograph_world
from difix3d_ns.data.procedural.worlds import training_world
from difix3d_ns.geometry.resampling import resample
from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.priors.networks.ncnn_net import NcnnNet
from difix3d_ns.priors.realesrgan import MODEL, RealEsrganUpscaler


@dataclass
class Options:
    """What is measured."""

    weights: Path
    """folder with realesrgan-x4plus.param and .bin"""
    scenes: int = 10
    """generated scenes, two pictures of each"""
    crop: int = 256
    """pixels of a side"""
    shares: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0)
    """of the network's detail"""
    first_seed: int = 500
    """of the scenes"""


def pictures(options: Options) -> list[Tensor]:
    """Centres [crop, crop, 3] of two photographs of each scene, 720x480."""
    found = []
    for seed in range(options.first_seed, options.first_seed + options.scenes):
        world, rng = training_world(seed), np.random.default_rng(seed)
        views = photograph_world(world, rng, width=720, height=480, train_views=2, test_views=0, label=None)
        for view in views:
            top, left = ((side - options.crop) // 2 for side in view.image.shape[:2])
            found.append(view.image[top : top + options.crop, left : left + options.crop])
    return found


def gradient_energy(picture: Tensor) -> float:
    return float(picture.diff(dim=0).square().mean() + picture.diff(dim=1).square().mean())


def main(options: Options) -> None:
    network = NcnnNet(options.weights / f"{MODEL}.param", options.weights / f"{MODEL}.bin")
    upscalers = {share: RealEsrganUpscaler(network, torch.device("cpu"), share) for share in options.shares}
    rows: dict[float, list[tuple[float, float, float]]] = {share: [] for share in options.shares}
    for true in pictures(options):
        side = options.crop // 4
        low = resample(true.permute(2, 0, 1)[None], side, side)[0].permute(1, 2, 0).clamp(0, 1)
        any_of = next(iter(upscalers.values()))
        state = any_of.start([low], [(options.crop, options.crop)], [0])
        while any_of.steps_left(state):
            state = any_of.step(state)
        for share, upscaler in upscalers.items():
            (high,) = upscaler.result(state)
            metrics = image_metrics(high, true)
            rows[share].append((metrics["psnr"], metrics["flip"], gradient_energy(high) / gradient_energy(true)))
    base = np.array(rows[options.shares[0]])
    print(f"{len(base)} pictures\n| share | PSNR | FLIP | gradients | gain in dB: mean (least..greatest), gained |")
    for share, measured in rows.items():
        each = np.array(measured)
        gain = each[:, 0] - base[:, 0]
        psnr, difference, energy = each.mean(0)
        spread = f"{gain.mean():+.2f} ({gain.min():+.2f}..{gain.max():+.2f}), {int((gain > 0).sum())}"
        print(f"| {share} | {psnr:.2f} | {difference:.4f} | {energy:.2f} | {spread} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
