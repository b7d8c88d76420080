"""A pseudo-view: a repaired picture, how far to trust it, and where it was seen from."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole

_LEVELS = 65535  # 16 bits: the error of rounding is far below an 8-bit step, and half the memory of float32
_LEAST_DEPTH = 6.2e-5  # below, float16 loses digits
_FORMAT = "1"


@dataclass(frozen=True)
class PseudoView:
    """What the pool holds."""

    image: Tensor  # [H, W, 3] in [0, 1]
    confidence: Tensor  # [H, W, 1] in [0, 1]; 0 where nothing is taught
    camera: Pinhole
    round: int = 0
    target: int = 0  # position in the list of targets
    generation: int = -1  # when the pool took it; set by the pool
    depth: Tensor | None = None  # [H, W, 1] along z, scene units, 0 where not known; None: no depth is taught
    depth_confidence: Tensor | None = None  # [H, W, 1] in [0, 1]; None: as the picture's


@dataclass(frozen=True)
class PackedView:
    """A pseudo-view as it is stored: picture, depth and confidences in 16 bits, rounded, on the CPU."""

    image: Tensor  # [H, W, 3] uint16
    confidence: Tensor  # [H, W, 1] uint16
    camera: Pinhole
    round: int
    target: int
    generation: int
    depth: Tensor | None = None  # [H, W, 1] float16, in units of ``depth_unit``
    depth_unit: float = 1.0  # scene units: float16 has a range, scenes have any scale
    depth_confidence: Tensor | None = None  # [H, W, 1] uint16

    @property
    def nbytes(self) -> int:
        """Of all its pictures."""
        return sum(values.nbytes for values in self.pictures().values())

    def pictures(self) -> dict[str, Tensor]:
        """What it holds per pixel, by name."""
        names = ("image", "confidence", "depth", "depth_confidence")
        return {name: values for name in names if (values := getattr(self, name)) is not None}

    def unpack(self) -> PseudoView:
        """The view in float32 on the CPU."""
        return PseudoView(
            self.image.float() / _LEVELS,
            self.confidence.float() / _LEVELS,
            self.camera,
            self.round,
            self.target,
            self.generation,
            self.depth.float() * self.depth_unit if self.depth is not None else None,
            self.depth_confidence.float() / _LEVELS if self.depth_confidence is not None else None,
        )


def pack(view: PseudoView) -> PackedView:
    """Store a view. Pixels that are not finite get confidence 0 and depth 0, so that they teach nothing.

    Raises:
        ValueError: picture, confidence, depth and camera differ in size.
    """
    _check(view)
    image, confidence = view.image.detach().float().cpu(), view.confidence.detach().float().cpu()
    finite = image.isfinite().all(-1, keepdim=True) & confidence.isfinite()
    depth, unit = _pack_depth(view.depth) if view.depth is not None else (None, 1.0)
    trust = view.depth_confidence if depth is not None else None
    return PackedView(
        _quantise(image),
        _quantise(confidence.where(finite, 0)),
        view.camera.to("cpu"),
        view.round,
        view.target,
        view.generation,
        depth,
        unit,
        _quantise(trust.detach().float().cpu().nan_to_num(0.0, 0.0, 0.0)) if trust is not None else None,
    )


def _check(view: PseudoView) -> None:
    height, width = view.camera.height, view.camera.width
    wanted = {"an image": (view.image, 3), "a confidence": (view.confidence, 1)}
    if view.depth is not None:
        wanted["a depth"] = view.depth, 1
    if view.depth_confidence is not None:
        wanted["a confidence of depth"] = view.depth_confidence, 1
    for name, (values, channels) in wanted.items():
        if tuple(values.shape) != (height, width, channels):
            raise ValueError(
                f"a pseudo-view of {width} x {height} pixels needs {name} [{height}, {width}, {channels}], "
                f"got {list(values.shape)}"
            )


def _pack_depth(depth: Tensor) -> tuple[Tensor, float]:
    """In units of its median, as float16: a relative error of at most 0.05 % between 1e-4 and 6e4 medians."""
    depth = depth.detach().float().cpu()
    depth = depth.where(depth.isfinite() & (depth > 0), 0)
    known = depth[depth > 0]
    unit = float(known.median()) if len(known) else 1.0
    packed = (depth / unit).to(torch.float16)
    return packed.where(packed.isfinite() & (packed > _LEAST_DEPTH), 0), unit


def encode(view: PackedView) -> bytes:
    """safetensors bytes of a stored view, with a checksum of its pictures."""
    tensors = {name: values.contiguous() for name, values in view.pictures().items()} | {
        "camera_to_world": view.camera.camera_to_world.contiguous(),
        "intrinsics": view.camera.intrinsics.contiguous(),
    }
    facts: dict[str, float] = {"round": view.round, "target": view.target, "generation": view.generation}
    facts["checksum"] = _checksum(view)
    if view.depth is not None:
        facts["depth_unit"] = view.depth_unit
    return save(tensors, {"format": _FORMAT, "view": json.dumps(facts)})


def decode(content: bytes) -> PackedView:
    """A stored view from the bytes of its file.

    Raises:
        ValueError: the bytes are damaged or no pseudo-view.
    """
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        facts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["view"])
        image, confidence = tensors["image"], tensors["confidence"]
        camera = Pinhole(tensors["camera_to_world"], tensors["intrinsics"], image.shape[1], image.shape[0])
        view = PackedView(
            image,
            confidence,
            camera,
            facts["round"],
            facts["target"],
            facts["generation"],
            tensors.get("depth"),
            facts.get("depth_unit", 1.0),
            tensors.get("depth_confidence"),
        )
        sizes = {values.shape[:2] for values in view.pictures().values()}
        complete = _checksum(view) == facts["checksum"] and len(sizes) == 1
    except Exception as error:  # safetensors, JSON and shapes fail in many ways; all mean the same here
        raise ValueError(f"no readable pseudo-view: {type(error).__name__}: {error}") from error
    if not complete:
        raise ValueError("no readable pseudo-view: the checksum does not match")
    return view


def _quantise(values: Tensor) -> Tensor:
    scaled = values.nan_to_num(0.0, 1.0, 0.0).clamp(0, 1) * _LEVELS
    return scaled.round().to(torch.int32).to(torch.uint16)


def _checksum(view: PackedView) -> int:
    checksum = 0
    for values in view.pictures().values():
        checksum = zlib.crc32(values.numpy().tobytes(), checksum)
    return checksum
