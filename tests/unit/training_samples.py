"""Tiny samples whose geometry is exact and whose renders are blurred, as shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from difix3d_ns.data.shards import Sample, write_shard
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.training.prior_recipe import Phase, Recipe
from tests.unit.known_scenes import camera_at, photograph
from tests.unit.tiny_fixers import CHAIN

RECIPE = Recipe(
    system="embedded",
    network=CHAIN,
    phases=(Phase(("blend",), steps=30, learning_rate=3e-3), Phase(("difix", "gate"), steps=12, learning_rate=3e-3)),
    losses={"l1": 1.0, "ssim": 0.15, "gradient": 0.25},
    crop=48,
    batch=2,
    reference_dropout=0.1,
    ema=0.9,
    validate_steps=15,
    watch_samples=2,
)


def sample(
    key: str, x: float, y: float, stripes: float, references: int = 4, size: tuple[int, int] = (56, 64)
) -> Sample:
    """Striped scene; the render lacks the stripes that the references show."""
    height, width = size

    def textured(x: float, y: float) -> PosedImage:
        reference, points = photograph(camera_at(x, y, width=width, height=height))
        image = (reference.image + 0.2 * torch.sin(stripes * points[..., :1])).clamp(0, 1)
        return PosedImage(image, reference.camera, reference.depth, reference.alpha)

    target = textured(x, y)
    render = F.avg_pool2d(target.image.permute(2, 0, 1), 5, 1, 2, count_include_pad=False).permute(1, 2, 0)
    shown = [textured(x + dx, y + dy) for dx, dy in ((0.2, 0.0), (-0.2, 0.1), (0.0, 0.2), (0.1, -0.1))][:references]
    request = FixRequest(render, shown, target.camera, target.depth, target.alpha)
    notes: dict[str, Any] = {"strategy": "sparse", "seed": 0}
    return Sample(key, request, target.image, target.depth, None, notes)


def write_shards(root: Path, train: int = 4, validation: int = 2, **options: Any) -> Path:
    """Two training shards of one scene and a validation shard of another."""
    for split, count, y, stripes in (("train", train, 0.0, 12.0), ("validation", validation, 0.1, 15.0)):
        names = [f"{split}_scene/{('full', 'half')[i % 2]}/{i:04d}" for i in range(count)]
        for unit in sorted({name.split("/")[1] for name in names}):
            samples = [
                sample(name, 0.1 * i, y, stripes, **options) for i, name in enumerate(names) if f"/{unit}/" in name
            ]
            write_shard(root / split / f"{split}_scene" / f"{unit}.tar", samples)
    return root
