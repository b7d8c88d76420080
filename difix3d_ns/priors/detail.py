"""Detail refinement: the detail of photographs in a picture that some generator made of the same things.

Cameras and depth are used where a request has them, and are not needed. Where no photograph matches, the picture stays
as it is to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.warp import reproject, warp_references
from difix3d_ns.priors.alignment.feature_places import places_between_matches
from difix3d_ns.priors.alignment.plane_alignment import Features, features_of
from difix3d_ns.priors.base import DEFAULT_REFERENCES, Fixer, FixRequest, FixResult, finite
from difix3d_ns.priors.networks.detail_net import DetailNet, Known, fetch
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.priors.networks.weight_files import find_weights, read_weights

WEIGHTS = Path(__file__).parent / "weights" / "detail.safetensors"
_LARGER = 1.25
"""sides of a photograph over the picture's, at most: it is reduced first, so that fetching skips none of its pixels"""


class DetailFixer(Fixer):
    """``DetailNet`` behind the contract of ``Fixer``.

    Args:
        net: the network.
    """

    trained_references = DEFAULT_REFERENCES
    generative = False
    aligns = False  # it matches, and does without cameras

    def __init__(self, net: DetailNet) -> None:
        self._net = net.eval().requires_grad_(False)

    @torch.no_grad()
    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch (contract of ``Fixer``), one by one."""
        return [self._fix(request) for request in requests]

    def _fix(self, request: FixRequest) -> FixResult:
        home = request.image.device
        shown = request.image.isfinite().all(-1, keepdim=True)
        request = finite(request).to(next(self._net.parameters()).device)
        image = request.image.float().clamp(0, 1)
        if not request.references:
            return FixResult(image, torch.zeros_like(image[..., :1])).to(home)
        long_side = max(1, round(_LARGER * max(image.shape[:2])))
        masks = [None if one.mask is None else _within(one.mask, long_side) for one in request.references]
        photos = [_within(one.image, long_side) for one in request.references]
        known = known_places(request, photos, masks)
        if any(place is None for place in known):
            features = features_of(image)
            known = [
                by_features(features, photo) if place is None else place
                for place, photo in zip(known, photos, strict=True)
            ]
        refined = self._net(image.permute(2, 0, 1), photos, known, masks)
        match = refined.match[..., None]
        picture = torch.where(match > 0, refined.image.permute(1, 2, 0).clamp(0, 1), image)
        return FixResult(picture.contiguous(), match * shown.to(match.device)).to(home)


def known_places(request: FixRequest, photos: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Known | None]:
    """Places in the photographs by cameras and depth; None of those that lack them.

    Args:
        request: of the picture.
        photos: its references, [3, h, w] of any sizes.
        masks: [1, h, w] of these; 0: not to be used.
    """
    if request.camera is None or request.depth is None or request.alpha is None:
        return [None] * len(photos)
    visibility = warp_references(request.camera, request.depth, request.alpha, request.references).visibility
    height, width = request.depth.shape[:2]
    camera = request.camera.resized(width, height)
    known: list[Known | None] = []
    solid = request.depth[..., 0] > 0
    for reference, photo, mask, seen in zip(request.references, photos, masks, visibility.float(), strict=True):
        if reference.camera is None or reference.depth is None or reference.alpha is None:
            known.append(None)
            continue
        grid, _ = reproject(request.depth[..., 0].float(), camera, reference.camera)
        places = pixels_of(grid, photo)
        hidden = torch.zeros_like(solid) if mask is None else solid & (fetch(mask, places, 1)[0] < 0.5)
        known.append(Known(places, seen[..., 0], (~hidden).float()))
    return known


def by_features(picture: Features, photo: Tensor) -> Known | None:
    """Places in a photograph [3, h, w] by matched features; None where too few agree."""
    found = places_between_matches(picture, features_of(photo.permute(1, 2, 0)))
    if found is None:
        return None
    places, near = (torch.from_numpy(each).to(photo.device) for each in found)
    return Known(places.permute(2, 0, 1), near.float(), torch.ones_like(near, dtype=torch.float32))


def pixels_of(grid: Tensor, picture: Tensor) -> Tensor:
    """Places [2, H, W] in pixels of a picture [3, h, w] from a grid [H, W, 2] in [-1, 1]; what is not finite is 0."""
    height, width = picture.shape[-2:]
    return ((grid + 1) / 2 * grid.new_tensor([width, height])).permute(2, 0, 1).nan_to_num(0.0, 0.0, 0.0)


def _within(maps: Tensor, long_side: int) -> Tensor:
    """Maps [h, w, C] as [C, h, w], reduced to so many pixels if they have more."""
    height, width = maps.shape[:2]
    scale = min(1.0, long_side / max(height, width))
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    return resized(maps.float(), *size).permute(2, 0, 1)


def load(
    weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> DetailFixer:
    """Read the network from a .safetensors file with its .json beside it.

    Args:
        weights: such a file, a folder with one ("weights.safetensors", as ``difix3d train-prior detail`` writes), or
            None for the package's own.
        device: where the network lives.
        dtype: its precision; None for ``fast_dtype``.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: it cannot be read or does not fit.
    """
    net = read_net(weights).to(device, dtype or fast_dtype(torch.device(device).type))
    return DetailFixer(net.to(memory_format=torch.channels_last))


def read_net(weights: str | None) -> DetailNet:
    """Read the network (float32, on the CPU); errors and argument as of ``load``."""
    return read_weights(
        find_weights(WEIGHTS if weights is None else weights, "detail", "fixer", "detail"),
        _net,
        "fixer",
        "--pipeline.guidance.fixer.weights a folder written by `difix3d train-prior detail`",
    )


def _net(config: dict[str, Any], tensors: Mapping[str, Tensor]) -> DetailNet:
    net = DetailNet(**config["net"])
    net.load_state_dict(tensors, strict=True)
    return net
