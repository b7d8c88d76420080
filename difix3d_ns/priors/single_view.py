"""Depth of photographs by a published network that sees one at a time, fitted to what is known of each.

Depth Anything (Yang et al., CVPR 2024) tells inverse depth up to a scale and a shift (Ranftl et al., TPAMI 2020), which
points and matched depth of the photograph decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from difix3d_ns.geometry.point_depth import reduced_depth
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import resized
from difix3d_ns.priors.base import Depth, DepthMap, State
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.published.folder import read_json

LONG_SIDE = 480
"""pixels at which the result is kept"""
MIN_POINTS = 32
"""places of known depth in a photograph, below which nothing is fitted"""
_SHORT_SIDE = 518
"""pixels that a network sees, unless its preprocessor_config.json says otherwise"""
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""of colours, unless that file says otherwise"""
_ROUNDS = 20
_OUTLIER = 0.1
"""relative depth from which on a place counts less in the fit"""
_MIN_SPREAD = 0.01
_MAX_RANGE = 3.0
"""depths beyond this factor of the nearest and farthest known ones are not stated"""


class SingleViewDepth(Depth):
    """Depth Anything of ``transformers`` behind the contract of ``Depth``: a step is a photograph.

    Args:
        net: the network.
        settings: of its ``preprocessor_config.json``, as far as known.
        device: where it lives.
    """

    wants_matched_depth = True
    """see ``priors.base.Depth``"""

    def __init__(self, net: Any, settings: dict[str, Any], device: torch.device) -> None:
        self._net, self._device = net, device
        self._metric = net.config.depth_estimation_type == "metric"
        mean, deviation = settings.get("image_mean", _MEAN), settings.get("image_std", _DEVIATION)
        self._mean, self._deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, deviation))
        size = settings.get("size", {})
        self._short_side = int(min(size.get("height", _SHORT_SIDE), size.get("width", _SHORT_SIDE)))
        self._multiple = math.lcm(int(settings.get("ensure_multiple_of") or 1), net.config.patch_size)

    def start(self, photographs: Sequence[PosedImage], seed: int = 0) -> State:
        state: dict[str, Tensor] = {}
        for index, photograph in enumerate(photographs):
            small = photograph.within(LONG_SIDE)
            height, width = small.image.shape[:2]
            state[f"picture/{index}"] = small.image.detach().cpu().to(torch.float16)
            if small.mask is not None:
                state[f"mask/{index}"] = small.mask.detach().cpu() > 0.5
            known = torch.zeros(height, width, 1)
            if photograph.depth is not None:
                known = reduced_depth(photograph.depth.detach().cpu(), (height, width))
            state[f"known/{index}"] = known
        sizes = [photograph.image.shape[:2] for photograph in photographs]
        return {**state, "sizes": torch.tensor(sizes), "done": torch.tensor(0)}

    def steps_left(self, state: State) -> int:
        return len(state["sizes"]) - int(state["done"])

    @torch.no_grad()
    def step(self, state: State) -> State:
        index = int(state["done"])
        picture, known = state[f"picture/{index}"].float(), state[f"known/{index}"]
        inverse = self._inverse(picture)
        mask = state.get(f"mask/{index}", torch.ones_like(known, dtype=torch.bool))
        depth, spread = fitted(inverse, known.where(mask, 0.0))
        depth = depth.where(mask, 0.0)
        return {
            **state,
            f"depth/{index}": depth,
            f"uncertainty/{index}": torch.full_like(depth, spread).where(depth > 0, torch.inf),
            "done": state["done"] + 1,
        }

    def result(self, state: State) -> list[DepthMap]:
        return [
            DepthMap(
                *(
                    resized(state[f"{name}/{index}"], height, width, "nearest-exact")
                    for name in ("depth", "uncertainty")
                )
            )
            for index, (height, width) in enumerate(state["sizes"].tolist())
        ]

    def _inverse(self, picture: Tensor) -> Tensor:
        """Relative inverse depth [H, W, 1] of a picture [H, W, 3] in [0, 1]."""
        height, width = picture.shape[:2]
        factor = self._short_side / min(height, width)
        size = [max(1, round(side * factor / self._multiple)) * self._multiple for side in (height, width)]
        pixels = F.interpolate(picture.permute(2, 0, 1)[None], size, mode="bicubic", antialias=True).clamp(0, 1)
        pixels = ((pixels - self._mean) / self._deviation).to(self._device, self._net.dtype)
        found = self._net(pixel_values=pixels).predicted_depth.float().cpu()
        found = F.interpolate(found.view(1, 1, *found.shape[-2:]), (height, width), mode="bilinear")
        return (1 / found.clamp_min(1e-6) if self._metric else found)[0].permute(1, 2, 0)


def fitted(inverse: Tensor, known: Tensor) -> tuple[Tensor, float]:
    """Depth of relative inverse depth by places where depth is known.

    Args:
        inverse: [H, W, 1], up to a scale and a shift.
        known: [H, W, 1] depth along z, 0: unknown.

    Returns:
        Depth [H, W, 1], 0 where it is unknown, everywhere if it cannot be fitted; standard deviation of log depth, from
        the errors that are left where it is known.
    """
    places = known > 0
    unknown = torch.zeros_like(known), torch.inf
    if int(places.sum()) < MIN_POINTS:
        return unknown
    target = (1 / known[places]).double()
    columns = torch.stack([inverse[places].double(), torch.ones_like(target)], 1)
    weight = torch.ones_like(target)
    for number in range(_ROUNDS):  # Huber's weights of relative errors, then Geman and McClure's, which forget outliers
        scaled = (weight / target**2).sqrt()[:, None]
        solution = torch.linalg.lstsq(columns * scaled, target[:, None] * scaled, driver="gelsd").solution[:, 0]
        errors = (columns @ solution / target - 1).abs()
        huber = (_OUTLIER / errors.clamp_min(1e-9)).clamp(max=1)
        weight = huber if 2 * number < _ROUNDS else 1 / (1 + (errors / _OUTLIER) ** 2) ** 2
    scale, shift = solution.tolist()
    if not scale > 0:
        return unknown
    found = scale * inverse + shift
    near, far = float(target.max()) * _MAX_RANGE, float(target.min()) / _MAX_RANGE
    depth = (1 / found.clamp_min(1e-12)).where((found > far) & (found < near), 0.0)
    left = (found[places].double().clamp_min(1e-12) / target).log().abs()
    spread = 2**0.5 * float(left.median()) / 0.6931  # of Laplace's distribution with that median
    return depth.float(), max(spread, _MIN_SPREAD)


def load(weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Depth:
    """Read Depth Anything, of either version, for relative or metric depth.

    Args:
        weights: a folder with config.json and model.safetensors as transformers has them, or a hub id, which downloads;
            for example depth-anything/Depth-Anything-V2-Small-hf (0.1 GB, Apache-2.0).
        device: where it lives.
        dtype: its precision; None for float32, whose digits depth needs.

    Raises:
        FileNotFoundError: no folder given, or a file is missing from it.
        RuntimeError: it is damaged, or of another kind.
    """
    from transformers import DepthAnythingForDepthEstimation

    if weights is None:
        raise FileNotFoundError(
            "it has no weights of its own: give a folder or a hub id of Depth Anything, for example "
            "depth-anything/Depth-Anything-V2-Small-hf (0.1 GB, Apache-2.0)"
        )
    folder = hub.download(weights, hub.DEPTH) if hub.is_hub_id(weights) else Path(weights).expanduser()
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder / 'config.json'} is missing: give a folder or a hub id of Depth Anything")
    try:
        kind = read_json(folder / "config.json").get("model_type")
        if kind != "depth_anything":
            raise ValueError(f"its model_type is {kind!r}")
        settings = folder / "preprocessor_config.json"
        known = read_json(settings) if settings.is_file() else {}
        net: nn.Module = DepthAnythingForDepthEstimation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise RuntimeError(
            f"{folder} cannot be read as Depth Anything of transformers: {error}. Give another copy, for example the "
            "hub id depth-anything/Depth-Anything-V2-Small-hf"
        ) from error
    place = torch.device(device)
    net = net.eval().requires_grad_(False).to(place, dtype or torch.float32)
    return SingleViewDepth(net, known, place)
