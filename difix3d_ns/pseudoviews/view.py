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


@dataclass(frozen=True)
class PackedView:
    """A pseudo-view as it is stored: picture and confidence in 16 bits, rounded, on the CPU."""

    image: Tensor  # [H, W, 3] uint16
    confidence: Tensor  # [H, W, 1] uint16
    camera: Pinhole
    round: int
    target: int
    generation: int

    @property
    def nbytes(self) -> int:
        """Of picture and confidence."""
        return self.image.nbytes + self.confidence.nbytes

    def unpack(self) -> PseudoView:
        """The view in float32 on the CPU."""
        return PseudoView(
            self.image.float() / _LEVELS,
            self.confidence.float() / _LEVELS,
            self.camera,
            self.round,
            self.target,
            self.generation,
        )


def pack(view: PseudoView) -> PackedView:
    """Store a view. Pixels that are not finite get confidence 0, so that they teach nothing.

    Raises:
        ValueError: picture, confidence and camera differ in size.
    """
    size = (view.camera.height, view.camera.width)
    if tuple(view.image.shape) != (*size, 3) or tuple(view.confidence.shape) != (*size, 1):
        raise ValueError(
            f"a pseudo-view of {size[1]} x {size[0]} pixels needs an image [{size[0]}, {size[1]}, 3] and a confidence "
            f"[{size[0]}, {size[1]}, 1], got {list(view.image.shape)} and {list(view.confidence.shape)}"
        )
    image, confidence = view.image.detach().float().cpu(), view.confidence.detach().float().cpu()
    finite = image.isfinite().all(-1, keepdim=True) & confidence.isfinite()
    return PackedView(
        _quantise(image),
        _quantise(confidence.where(finite, 0)),
        view.camera.to("cpu"),
        view.round,
        view.target,
        view.generation,
    )


def encode(view: PackedView) -> bytes:
    """safetensors bytes of a stored view, with a checksum of its picture."""
    tensors = {
        "image": view.image.contiguous(),
        "confidence": view.confidence.contiguous(),
        "camera_to_world": view.camera.camera_to_world.contiguous(),
        "intrinsics": view.camera.intrinsics.contiguous(),
    }
    facts = {"round": view.round, "target": view.target, "generation": view.generation, "checksum": _checksum(view)}
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
        view = PackedView(image, confidence, camera, facts["round"], facts["target"], facts["generation"])
        complete = _checksum(view) == facts["checksum"] and confidence.shape[:2] == image.shape[:2]
    except Exception as error:  # safetensors, JSON and shapes fail in many ways; all mean the same here
        raise ValueError(f"no readable pseudo-view: {type(error).__name__}: {error}") from error
    if not complete:
        raise ValueError("no readable pseudo-view: the checksum does not match")
    return view


def _quantise(values: Tensor) -> Tensor:
    scaled = values.nan_to_num(0.0, 1.0, 0.0).clamp(0, 1) * _LEVELS
    return scaled.round().to(torch.int32).to(torch.uint16)


def _checksum(view: PackedView) -> int:
    return zlib.crc32(view.confidence.numpy().tobytes(), zlib.crc32(view.image.numpy().tobytes()))
