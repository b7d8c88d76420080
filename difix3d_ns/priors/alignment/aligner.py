"""Correction of a splat's depth by its references, and visibility of each pixel in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.warp import displaced
from difix3d_ns.priors.alignment.hypotheses import candidates, depth_range
from difix3d_ns.priors.alignment.matcher import (
    COARSE,
    FINE,
    GROUPS,
    Encoder,
    Pyramid,
    Scorer,
    Shifter,
    agreement,
    matching_features,
    reference_weight,
    run_network,
)
from difix3d_ns.priors.alignment.sampling import Sampled, sample_reference

_FINE_OFFSETS = tuple(0.007 * step for step in range(-3, 4))
_PEAK = 0.03  # log depth: hypotheses so near to the best one share in the estimate
_MIN_VISIBILITY = 0.02


class Stage(NamedTuple):
    """A cost volume and the depth estimated from it."""

    depths: Tensor  # [D, h, w] hypotheses
    scores: Tensor  # [D, h, w]
    found: list[Sampled]
    best: Tensor  # [h, w] depth
    sharpness: Tensor  # [h, w] probability around the best


class Corrected(NamedTuple):
    """Depth that the references agree on, at the picture's size."""

    depth: Tensor  # [H, W, 1]
    matched: Tensor  # [H, W, 1] in [0, 1], confidence of the depth
    visibility: Tensor  # [K, H, W, 1] in [0, 1], exactly 0 where a reference does not show the surface
    shift: Tensor  # [K, H, W, 2] pixels: the colour of a reference at x + shift belongs to x
    stages: tuple[Stage, Stage]
    logits: Tensor  # [K, h, w] of visibility, at half the size
    inside: Tensor  # [K, h, w] in [0, 1], 0 outside of the reference's picture or masked
    features: Tensor  # [K, C, h, w] of the aligned references, colour first, at half the size


def padded(view: PosedImage) -> PosedImage:
    """Complete a view, its sides padded right and bottom to whole pixels of the coarse volume.

    The picture's edge is repeated; beyond it there is neither depth nor opacity, and nothing may be used. Depth is 0
    also where there is not enough opacity.

    Raises:
        ValueError: it has no camera, depth or alpha.
    """
    if view.camera is None or view.depth is None or view.alpha is None:
        raise ValueError("alignment needs camera, depth and alpha of every picture")
    height, width = view.image.shape[:2]
    edge = (0, -width % COARSE, 0, -height % COARSE)
    image = F.pad(view.image.permute(2, 0, 1)[None], edge, mode="replicate")[0].permute(1, 2, 0)
    alpha = view.alpha.to(image)
    mask = torch.ones_like(alpha) if view.mask is None else view.mask.to(image)
    depth = view.depth.to(image).where(alpha > 0.5, 0.0)
    camera = Pinhole(view.camera.camera_to_world, view.camera.intrinsics, image.shape[1], image.shape[0])
    return PosedImage(image, camera, *(F.pad(plane, (0, 0, *edge)) for plane in (depth, alpha, mask)))


def surface(view: PosedImage, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Depth and opacity [h, w] of a view at another size; no opacity where there is no depth."""
    depth = _resized(_plane(view.depth), size, "nearest")
    return depth, _resized(_plane(view.alpha), size, "area") * (depth > 0)


class _Sources(NamedTuple):
    """References that a target camera samples."""

    target: Pinhole
    views: list[PosedImage]
    pyramids: list[Pyramid]

    def sample(self, depths: Tensor, level: int) -> list[Sampled]:
        """Sample every reference at hypotheses [D, h, w] of the target's depth; 0 is the fine level of features."""
        return [
            sample_reference(
                depths,
                self.target,
                pyramid[level],
                _resized(_plane(view.mask), _size(pyramid[level]), "area"),
                _plane(view.depth),
                view.pose,
            )
            for pyramid, view in zip(self.pyramids, self.views, strict=True)
        ]


class Aligner(nn.Module):
    """Coarse-to-fine matching of the references around a splat's depth."""

    def __init__(self, fine: int = 4, coarse: int = 8, width: int = 16):
        super().__init__()
        self.encoder = Encoder(fine, coarse)
        self.coarse = Scorer(width, 2)
        self.fine = Scorer(width // 2, 1)
        self.shift = Shifter()
        inputs = 2 * GROUPS + 9
        self.see = nn.Sequential(
            nn.Conv2d(inputs, 16, 1),
            nn.SiLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 1, 3, padding=1),
        )

    def cast_networks(self, dtype: torch.dtype) -> Aligner:
        """Convert the matching networks to a precision; the encoder stays float32: its features need the digits."""
        self.encoder.float()
        for network in (self.coarse, self.fine, self.shift, self.see):
            network.to(dtype)
        return self

    def forward(
        self, camera: Pinhole, image: Tensor, depth: Tensor, alpha: Tensor, references: Sequence[PosedImage]
    ) -> Corrected:
        """Correct the depth of one view.

        Args:
            camera: of the render.
            image: [H, W, 3] the render in [0, 1].
            depth: [H, W, 1] the splat's median depth, 0 where there is nothing.
            alpha: [H, W, 1] opacity in [0, 1].
            references: at least one, with camera, depth and alpha, brought to the exposure of the render.
        """
        height, width = image.shape[:2]
        target = padded(PosedImage(image, camera, depth, alpha))
        views = [padded(reference) for reference in references]
        render = self.encoder(target.image.permute(2, 0, 1))
        sources = _Sources(target.pose, views, [self.encoder(view.image.permute(2, 0, 1)) for view in views])
        coarse, known, change = self._coarse(target, render, sources, depth_range(camera, depth, alpha, references))
        fine, confidence, change = self._fine(target, render, sources, coarse, known, change)
        shift, logits, inside, features = self._residual(target, render, sources, fine.best, confidence)
        visible = ((logits.sigmoid() - _MIN_VISIBILITY) / (1 - _MIN_VISIBILITY)).clamp_min(0) * inside

        size = (target.pose.height, target.pose.width)
        splat, solid = surface(target, size)
        result = torch.where(
            solid > 0.5, splat * _resized(change, size, "bilinear").exp(), _resized(fine.best, size, "bilinear")
        )
        seen = torch.stack([_resized(v, size, "bilinear") for v in visible])
        shifts = F.interpolate(shift * FINE, size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        matched = _resized(confidence, size, "bilinear")
        crop = (..., slice(height), slice(width), None)
        shifts = shifts[:, :height, :width]
        return Corrected(result[crop], matched[crop], seen[crop], shifts, (coarse, fine), logits, inside, features)

    def _coarse(
        self, target: PosedImage, render: Pyramid, sources: _Sources, depths_of_scene: tuple[float, float]
    ) -> tuple[Stage, Tensor, Tensor]:
        """Coarse volume around the splat's depth; where that is known [h, w], and the log change of it there [h, w]."""
        splat, solid = surface(target, _size(render.coarse))
        known = solid > 0.5
        depths = candidates(splat, known, *depths_of_scene)
        found = sources.sample(depths, 1)
        offsets = torch.where(known, (depths / splat.clamp_min(1e-9)).log().clamp(-0.4, 0.4), 0.0)
        coarse = _estimate(depths, self.coarse(matching_features(render.coarse, solid, found, offsets)), found)
        return coarse, known, torch.where(known, (coarse.best / splat.clamp_min(1e-9)).log(), 0.0)

    def _fine(
        self, target: PosedImage, render: Pyramid, sources: _Sources, coarse: Stage, known: Tensor, change: Tensor
    ) -> tuple[Stage, Tensor, Tensor]:
        """Fine volume around the coarse depth; its confidence and the log change of the splat's depth, both [h, w]."""
        size = _size(render.fine)
        splat, solid = surface(target, size)
        same = (solid > 0.5) & (_resized(known.float(), size, "nearest") > 0)
        start = torch.where(
            same, splat * _resized(change, size, "nearest").exp(), _resized(coarse.best, size, "bilinear")
        )
        steps = torch.tensor(_FINE_OFFSETS, device=splat.device)[:, None, None]
        depths = start * steps.exp()
        found = sources.sample(depths, 0)
        features = matching_features(render.fine, solid, found, (steps * 10).expand_as(depths))
        fine = _estimate(depths, self.fine(features), found)
        confidence = fine.sharpness * _resized(coarse.sharpness, size, "bilinear")
        return fine, confidence, torch.where(solid > 0.5, (fine.best / splat.clamp_min(1e-9)).log(), 0.0)

    def _residual(
        self, target: PosedImage, render: Pyramid, sources: _Sources, depth: Tensor, confidence: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Displacement left at the fine depth [h, w], logits of visibility, insideness and displaced features."""
        solid = surface(target, _size(render.fine))[1]
        found = sources.sample(depth[None].detach(), 0)
        features = torch.stack([sampled.features[0] for sampled in found])  # [K, C, h, w]
        inside = torch.stack([sampled.inside[0] for sampled in found])
        mismatch = torch.stack([sampled.mismatch[0] for sampled in found])
        confidence = confidence.detach()
        weight = reference_weight(inside, mismatch)
        shift = self.shift(render.fine, solid, features, weight, confidence)
        features = displaced(features, shift)
        return shift, self._visibility(render.fine, solid, features, inside, mismatch, confidence), inside, features

    def _visibility(
        self, render: Tensor, alpha: Tensor, features: Tensor, inside: Tensor, mismatch: Tensor, confidence: Tensor
    ) -> Tensor:
        """Logits [K, h, w] that each reference shows the surface, with the right colour."""
        inside, mismatch = inside[:, None], mismatch[:, None]
        near, wide = agreement(mismatch, 0.04), agreement(mismatch, 0.16)
        weight = reference_weight(inside, mismatch)
        mean = (weight * features).sum(0) / weight.sum(0).clamp_min(1e-3)
        apart = (features - mean).abs()
        evidence = [
            apart[:, 3:].unflatten(1, (GROUPS, -1)).mean(2),
            (features[:, 3:] - render[3:]).abs().unflatten(1, (GROUPS, -1)).mean(2) * alpha,
            apart[:, :3].mean(1, keepdim=True) * 4,
            (features[:, :3] - render[:3]).abs().mean(1, keepdim=True) * alpha * 4,
            near,
            wide,
            (mismatch / 0.1).clamp(-2, 2),
            inside,
            weight.sum(0).expand_as(inside) / 3,
            alpha.expand_as(inside),
            confidence.expand_as(inside),
        ]
        return run_network(self.see, torch.cat(evidence, 1))[:, 0]


def _estimate(depths: Tensor, scores: Tensor, found: list[Sampled]) -> Stage:
    """Depth and sharpness of the best peak of a cost volume."""
    chance = scores.softmax(0)
    logs = depths.clamp_min(1e-9).log()
    best = logs.gather(0, scores.argmax(0, keepdim=True))
    close = chance * ((logs - best).abs() < _PEAK)
    sharpness = close.sum(0)
    mean = (close * logs).sum(0) / sharpness.clamp_min(1e-9)
    return Stage(depths, scores, found, mean.exp(), sharpness)


def _plane(part: Tensor | None) -> Tensor:
    """Part of a ``padded`` view as [H, W]."""
    assert part is not None
    return part[..., 0]


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


def _resized(plane: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    return resized(plane[..., None], *size, mode)[..., 0]
