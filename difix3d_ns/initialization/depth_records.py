"""Pictures of the depth of photographs and of how sure it is, for viewer and report."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
from torch import Tensor

from difix3d_ns.geometry.resize import resized
from difix3d_ns.views.protocols import PhotoDepth
from difix3d_ns.views.records import About, ViewRecord, panels_of

ABOUT_DEPTHS = About(
    "Depth of photos",
    "Depth that training began with: near is yellow, far is dark blue, unknown is black. Beside it is "
    "the confidence, from 0 (black) to 1 (white): depth that a photo brings counts as far as it is trusted, and depth "
    "that was estimated by the square of its probability of being right within 2 %.",
    "Depth",
    24,
)
LONG_SIDE = 320
"""pixels of a recorded picture, at most"""
PHOTO, DEPTH, CONFIDENCE = "photo", "depth", "confidence"


def coloured(depth: Tensor) -> Tensor:
    """Picture [H, W, 3] of depth [H, W, 1]: near is yellow, far is dark blue, unknown is black."""
    known = depth > 0
    if not bool(known.any()):
        return torch.zeros(*depth.shape[:2], 3)
    inverse = (1 / depth.clamp_min(1e-9)).where(known, 0.0)
    low, high = np.quantile(inverse[known].numpy(), (0.02, 0.98))
    place = ((inverse[..., 0] - low) / max(high - low, 1e-9)).clamp(0, 1)
    colours = torch.from_numpy(matplotlib.colormaps["cividis"](place.numpy())[..., :3]).float()
    return colours * known


def record_depth(index: int, name: str, photo: Tensor, found: PhotoDepth, seconds: float, step: int) -> ViewRecord:
    """Keep small pictures of a photograph's depth.

    Args:
        index, name: of the photograph.
        photo: [H, W, 3] in [0, 1].
        found: its depth.
        seconds: it took to estimate it.
        step: of training.
    """
    height, width = photo.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    depth, confidence = (resized(maps.cpu(), *size, "nearest-exact") for maps in (found.depth, found.confidence))
    pictures = {PHOTO: resized(photo.cpu(), *size), DEPTH: coloured(depth), CONFIDENCE: confidence}
    return ViewRecord(
        key=f"photo/{index:04d}",
        group="Depth of photos",
        order=0,
        title=name,
        step=step,
        seconds=seconds,
        pairs=((PHOTO, DEPTH), (PHOTO, CONFIDENCE), (DEPTH, CONFIDENCE)),
        numbers={"mean confidence": float(found.confidence.mean())},
        panels=panels_of(pictures, LONG_SIDE),
    )
