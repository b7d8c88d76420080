"""Evaluation masks of a scene: pixels of held-out photos that count; nothing is trained with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.runs import HeldOutView
from difix3d_ns.io.images import read_mask

MASKS = "evaluation_masks"
"""folder in a scene, with a PNG by the name of each held-out photo"""


def read_masks(scene: Path, views: Sequence[HeldOutView]) -> dict[str, Tensor] | None:
    """Name of a view -> mask [H, W, 1] bool at the size of its truth; None where the scene has no masks.

    Raises:
        UserError: a held-out photo has none, or no pixel of any counts.
    """
    folder = (scene if scene.is_dir() else scene.parent) / MASKS
    if not folder.is_dir():
        return None
    masks = {}
    for view in views:
        file = folder / f"{Path(view.name).stem}.png"
        if not file.is_file():
            raise UserError(f"{file} is missing: masks are needed for all held-out photos of a scene, or for none")
        masks[view.name] = torch.from_numpy(read_mask(file, (view.truth.shape[1], view.truth.shape[0])))
    if not any(mask.any() for mask in masks.values()):
        raise UserError(
            f"{folder}: by these masks no pixel of any held-out photo counts; replace them (white is what counts), or "
            "leave the scene out"
        )
    return masks
