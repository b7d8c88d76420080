"""Training views, photographed or made: each step of training learns from one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.io.transfers import moved, sent

_LEVELS = 65535  # 16 bits: the error of rounding is far below an 8-bit step, and half the memory of float32
_MIN_DEPTH = 6.2e-5  # below, float16 loses digits
_EXTRA = "extra."  # before the names of what is kept exactly
_SHARES = ("confidence", "valid", "alpha", "depth_weight")  # maps [H, W, 1] in [0, 1]


@dataclass(frozen=True)
class TrainView:
    """A picture that one step learns from. Photographs are training views too.

    A new view with the same ``key`` takes the place of the old one: "photo/0012", "target/003@2", "orbit/07".
    """

    key: str
    camera: Pinhole  # any size; without the photograph's pose correction if it stands for one: that comes in the step
    image: Tensor  # [H, W, 3] in [0, 1]
    photo: int | None = None  # the photograph it is or stands for, whose exposure and pose correction apply
    weight: float = 1.0  # of the step's picture loss; may differ from draw to draw
    confidence: Tensor | None = None  # [H, W, 1] in [0, 1]; where it is 0 the render is its own target
    valid: Tensor | None = None  # [H, W, 1] in [0, 1]; outside, nothing is taught
    alpha: Tensor | None = None  # [H, W, 1] in [0, 1] silhouette; outside, nothing may be: the image is background
    depth: Tensor | None = None  # [H, W, 1] along z, scene units, 0 where it is not known
    depth_weight: Tensor | float = 0.0  # [H, W, 1] in [0, 1], or a number, which counts times the confidence
    extra: Mapping[str, Tensor] = field(default_factory=dict)  # kept with it exactly, never trained on

    def to(self, device: torch.device | str) -> TrainView:
        """Return the same view with its maps on ``device``; its camera stays where it is."""
        return moved(self, device, extra={name: sent(values, device) for name, values in self.extra.items()})


@dataclass(frozen=True)
class PackedView:
    """A training view as it is stored: pictures, depth and weights in 16 bits, rounded."""

    key: str
    camera: Pinhole
    maps: Mapping[str, Tensor]  # uint16 [H, W, C] by field; depth is float16 in ``depth_unit``; "extra.*" as given
    photo: int | None = None
    weight: float = 1.0
    depth_weight: float = 0.0  # where there is no map of it
    depth_unit: float = 1.0  # scene units: float16 has a range, scenes have any scale

    @property
    def nbytes(self) -> int:
        """Bytes of all its maps."""
        return sum(values.nbytes for values in self.maps.values())

    @property
    def mean_confidence(self) -> float:
        """Mean over all pixels; 1 without a map of it."""
        return float(self._share("confidence").mean()) if "confidence" in self.maps else 1.0

    def to(self, device: torch.device | str) -> PackedView:
        """Return the same view with its maps on ``device``, still packed; its camera stays where it is."""
        return replace(self, maps={name: sent(values, device) for name, values in self.maps.items()})

    def unpack(self) -> TrainView:
        """Return the view in float32, on the device of its maps."""
        shares = {name: self._share(name) for name in _SHARES if name in self.maps}
        depth = self.maps.get("depth")
        return TrainView(
            self.key,
            self.camera,
            self._share("image"),
            photo=self.photo,
            weight=self.weight,
            depth=None if depth is None else depth.float() * self.depth_unit,
            extra={name.removeprefix(_EXTRA): m for name, m in self.maps.items() if name.startswith(_EXTRA)},
            **{"depth_weight": self.depth_weight, **shares},  # type: ignore[arg-type]
        )

    def _share(self, name: str) -> Tensor:
        return self.maps[name].float() / _LEVELS


def pack(view: TrainView) -> PackedView:
    """Pack a view into 16 bits, on the CPU.

    Pixels that are not finite get confidence 0 and depth 0, so that they teach nothing.

    Raises:
        ValueError: picture, maps and camera differ in size.
    """
    _check(view)
    image = view.image.detach().float().cpu()
    finite = image.isfinite().all(-1, keepdim=True)
    maps = {"image": _quantise(image)}
    if view.confidence is not None:
        confidence = view.confidence.detach().float().cpu()
        maps["confidence"] = _quantise(confidence.where(finite & confidence.isfinite(), 0))
    elif not finite.all():
        maps["confidence"] = _quantise(finite.float())
    for name in ("valid", "alpha", "depth_weight"):
        if isinstance(values := getattr(view, name), Tensor):
            maps[name] = _quantise(values.detach().float().cpu().nan_to_num(0.0, 0.0, 0.0))
    unit = 1.0
    if view.depth is not None:
        maps["depth"], unit = _pack_depth(view.depth)
    maps |= {_EXTRA + name: values.detach().cpu().clone() for name, values in view.extra.items()}
    return PackedView(
        view.key,
        view.camera.to("cpu"),
        maps,
        photo=view.photo,
        weight=view.weight,
        depth_weight=0.0 if isinstance(view.depth_weight, Tensor) else view.depth_weight,
        depth_unit=unit,
    )


def _check(view: TrainView) -> None:
    height, width = view.camera.height, view.camera.width
    expected: dict[str, tuple[Tensor | float | None, int]] = {"image": (view.image, 3), "depth": (view.depth, 1)}
    expected |= {name: (getattr(view, name), 1) for name in _SHARES}
    for name, (values, channels) in expected.items():
        if isinstance(values, Tensor) and tuple(values.shape) != (height, width, channels):
            raise ValueError(
                f"the training view {view.key} of {width} x {height} pixels needs {name} "
                f"[{height}, {width}, {channels}], got {list(values.shape)}"
            )


def _pack_depth(depth: Tensor) -> tuple[Tensor, float]:
    """Convert depth to float16 in units of its median; the error is at most 0.05 % between 1e-4 and 6e4 medians."""
    depth = depth.detach().float().cpu()
    depth = depth.where(depth.isfinite() & (depth > 0), 0)
    known = depth[depth > 0]
    unit = float(known.median()) if len(known) else 1.0
    packed = (depth / unit).to(torch.float16)
    return packed.where(packed.isfinite() & (packed > _MIN_DEPTH), 0), unit


def encode(view: PackedView) -> bytes:
    """Serialize a stored view as safetensors, with a checksum of its maps."""
    from safetensors.torch import save

    tensors = {name: values.contiguous() for name, values in view.maps.items()} | {
        "camera_to_world": view.camera.camera_to_world.contiguous(),
        "intrinsics": view.camera.intrinsics.contiguous(),
    }
    facts = {
        "key": view.key,
        "photo": view.photo,
        "weight": view.weight,
        "depth_weight": view.depth_weight,
        "depth_unit": view.depth_unit,
        "checksum": _checksum(view),
    }
    return save(tensors, {"view": json.dumps(facts)})


def decode(content: bytes) -> PackedView:
    """Read a stored view from the bytes of its file.

    Raises:
        ValueError: the bytes are damaged or no training view.
    """
    from safetensors.torch import load

    try:
        maps = load(content)
        length = int.from_bytes(content[:8], "little")
        facts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["view"])
        pose, intrinsics = maps.pop("camera_to_world"), maps.pop("intrinsics")
        height, width = maps["image"].shape[:2]
        checksum = facts.pop("checksum")
        view = PackedView(camera=Pinhole(pose, intrinsics, width, height), maps=maps, **facts)
        sizes = {values.shape[:2] for name, values in maps.items() if not name.startswith(_EXTRA)}
        complete = _checksum(view) == checksum and len(sizes) == 1
    except Exception as error:  # safetensors, JSON and shapes fail in many ways; all mean the same here
        raise ValueError(f"no readable training view: {type(error).__name__}: {error}") from error
    if not complete:
        raise ValueError("no readable training view: the checksum does not match")
    return view


def _quantise(values: Tensor) -> Tensor:
    scaled = values.nan_to_num(0.0, 1.0, 0.0).clamp(0, 1) * _LEVELS
    return scaled.round().to(torch.int32).to(torch.uint16)


def _checksum(view: PackedView) -> int:
    checksum = 0
    for name in sorted(view.maps):
        checksum = zlib.crc32(view.maps[name].reshape(-1).view(torch.uint8).numpy().tobytes(), checksum)
    return checksum
