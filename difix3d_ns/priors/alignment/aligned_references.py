"""References brought into a view of the splat, ready to be fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from difix3d_ns.geometry.exposure_match import exposure_gains
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import fetch, warp_references
from difix3d_ns.priors.alignment.aligner import Aligner

MAX_REFERENCES = 4  # of more, those that show most of the view are used


class Selection(NamedTuple):
    """References to align, the most useful first."""

    indices: list[int]  # into those given
    references: list[PosedImage]  # at the exposure of the render


class Aligned(NamedTuple):
    """Best references, warped into the view, the most useful first."""

    warps: Tensor  # [K, 3, H, W] in [0, 1], K <= MAX_REFERENCES
    visibility: Tensor  # [K, 1, H, W] in [0, 1]; exactly 0 where a reference does not show the surface
    depth: Tensor | None  # [H, W, 1] the splat's depth, corrected; None without references or cameras
    matched: Tensor  # [1, H, W] in [0, 1], confidence of the depth


def select_references(
    camera: Pinhole,
    image: Tensor,
    depth: Tensor,
    alpha: Tensor,
    references: Sequence[PosedImage],
    count: int = MAX_REFERENCES,
) -> Selection:
    """Select the references that show most of the view by the splat's own depth, at the exposure of the render.

    Args:
        camera, image, depth, alpha: see ``Aligner.forward``.
        references: any number; those without camera, depth and alpha are left out.
        count: maximum number of references.
    """
    warps = warp_references(camera, depth, alpha, references)
    shares = warps.visibility.mean((1, 2, 3))
    best = [k for k in shares.argsort(descending=True, stable=True).tolist()[:count] if shares[k] > 0]
    gains = exposure_gains(warps.images[best], warps.visibility[best], image.to(warps.images))
    matched = [
        replace(references[k], image=(references[k].image.to(gain) * gain).clamp(0, 1))
        for k, gain in zip(best, gains, strict=True)
    ]
    return Selection(best, matched)


def align(
    aligner: Aligner,
    camera: Pinhole | None,
    image: Tensor,
    depth: Tensor | None,
    alpha: Tensor | None,
    references: Sequence[PosedImage],
) -> Aligned:
    """Choose references, correct the depth by them, and fetch their colours.

    Args:
        aligner: the matching networks.
        camera, image, depth, alpha: see ``Aligner.forward``; without camera, depth or alpha nothing can be aligned.
        references: any number, of any sizes.
    """
    height, width = image.shape[:2]
    chosen = Selection([], [])
    if camera is not None and depth is not None and alpha is not None and references:
        chosen = select_references(camera, image, depth, alpha, references)
    if not chosen.references or camera is None or depth is None or alpha is None:
        nothing = image.new_zeros(0, 3, height, width, dtype=torch.float32)
        return Aligned(nothing, nothing[:, :1], depth, nothing.new_zeros(1, height, width))
    corrected = aligner(camera, image.float(), depth.float(), alpha.float(), chosen.references)
    warps = torch.stack(
        [
            fetch(reference.image, corrected.depth, camera, reference.camera, shift)
            for reference, shift in zip(chosen.references, corrected.shift, strict=True)
            if reference.camera is not None
        ]
    )
    visibility = corrected.visibility.permute(0, 3, 1, 2)
    return Aligned(
        warps.permute(0, 3, 1, 2) * (visibility > 0), visibility, corrected.depth, corrected.matched.permute(2, 0, 1)
    )
