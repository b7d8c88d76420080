"""Pairs on disk, and the aligned copies of them that training crops from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Generator, Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.fixers.contract import FixRequest
from difix3d_ns.fixers.embedded import align
from difix3d_ns.fixers.networks.blend import SLOTS
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.reference import Reference

VALIDATION = "val_"  # scenes whose names start so are never trained on


class Pair(NamedTuple):
    """A render with everything a fixer may know, and what it should have been."""

    request: FixRequest
    truth: Tensor  # [H, W, 3] in [0, 1]


def find_pairs(root: Path) -> tuple[list[Path], list[Path]]:
    """Training and validation samples ``root/<scene>/<reconstruction>/<index>.npz``.

    Raises:
        UserError: there is nothing to train on.
    """
    files = sorted(root.glob("*/*/*.npz"))
    training = [file for file in files if not file.parts[-3].startswith(VALIDATION)]
    if not training:
        raise UserError(f"no pairs in {root}: expected files <scene>/<reconstruction>/<index>.npz")
    return training, [file for file in files if file.parts[-3].startswith(VALIDATION)]


def read_pair(file: Path) -> Pair:
    """Read one sample (keys: see ``difix3d_ns.curation.pairs.write_sample``).

    Raises:
        UserError: the file is damaged or of another format.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            data = {key: archive[key] for key in archive.files}
        height, width = data["image"].shape[:2]

        def bytes_to_unit(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).float() / 255

        def camera(pose: np.ndarray, intrinsics: np.ndarray, width: int, height: int) -> Pinhole:
            return Pinhole(torch.from_numpy(pose).float(), torch.from_numpy(intrinsics).float(), width, height)

        references = []
        for k, picture in enumerate(data["ref_image"]):
            size = (picture.shape[1], picture.shape[0])
            references.append(
                Reference(
                    bytes_to_unit(picture),
                    camera(data["ref_camera_to_world"][k], data["ref_intrinsics"][k], *size),
                    torch.from_numpy(data["ref_depth"][k]).float()[..., None],
                    bytes_to_unit(data["ref_alpha"][k])[..., None],
                    bytes_to_unit(data["ref_mask"][k])[..., None] if "ref_mask" in data else None,
                )
            )
        request = FixRequest(
            torch.from_numpy(data["image"].astype(np.float32) / 65535),
            references,
            camera(data["camera_to_world"], data["intrinsics"], width, height),
            torch.from_numpy(data["depth"]).float()[..., None],
            bytes_to_unit(data["alpha"])[..., None],
        )
        return Pair(request, bytes_to_unit(data["truth"]))
    except (OSError, KeyError, ValueError, IndexError, EOFError, BadZipFile) as error:
        raise UserError(f"{file} is no readable pair ({error}): delete it and make it again") from error


class Batch(NamedTuple):
    """Aligned crops."""

    image: Tensor  # [B, 3, h, w] in [0, 1], the render
    alpha: Tensor  # [B, 1, h, w]
    warps: Tensor  # [B, K, 3, h, w], K <= SLOTS
    visibility: Tensor  # [B, K, 1, h, w]
    truth: Tensor  # [B, 3, h, w]


@dataclass(frozen=True)
class _Prepared:
    image: Tensor  # [3, H, W] float16
    alpha: Tensor  # [1, H, W] uint8
    warps: Tensor  # [SLOTS, 3, H, W] uint8
    visibility: Tensor  # [SLOTS, 1, H, W] uint8
    truth: Tensor  # [3, H, W] uint8


class PairSet:
    """All training pairs, warped once at full size and kept in memory at about 27 bytes per pixel.

    Args:
        files: of the samples.
        on_read: called after each.
    """

    def __init__(self, files: Sequence[Path], on_read: Callable[[], object] = lambda: None):
        self.samples: list[_Prepared] = []
        for file in files:
            request, truth = read_pair(file)
            aligned = align(request)
            missing = SLOTS - len(aligned.warps)
            pad = (0, 0, 0, 0, 0, 0, 0, missing)
            self.samples.append(
                _Prepared(
                    request.image.permute(2, 0, 1).half().contiguous(),
                    _to_bytes(_given(request.alpha).permute(2, 0, 1)),
                    _to_bytes(torch.nn.functional.pad(aligned.warps, pad)),
                    _to_bytes(torch.nn.functional.pad(aligned.visibility, pad)),
                    _to_bytes(truth.permute(2, 0, 1)),
                )
            )
            on_read()
        self.smallest = min(min(sample.image.shape[1:]) for sample in self.samples)

    def draw(self, count: int, crop: int, dropout: float, generator: Generator) -> Batch:
        """Random crops with common colour jitter, mirrored and turned, some references left out.

        Args:
            count: crops.
            crop: their side in pixels; at most the smallest picture's.
            dropout: chance of each reference to be left out.
            generator: all randomness comes from it.
        """
        crop = min(crop, self.smallest)
        parts = [self._crop(crop, dropout, generator) for _ in range(count)]
        batch = Batch(*(torch.stack(tensors) for tensors in zip(*parts, strict=True)))
        # Now and then only the first slots: a request with fewer references has fewer views.
        views = (SLOTS, SLOTS, SLOTS, SLOTS, SLOTS, 2, 1)[_integer(7, generator)]
        return batch._replace(warps=batch.warps[:, :views], visibility=batch.visibility[:, :views])

    def _crop(self, crop: int, dropout: float, generator: Generator) -> Batch:
        sample = self.samples[_integer(len(self.samples), generator)]
        height, width = sample.image.shape[1:]
        top, left = _integer(height - crop + 1, generator), _integer(width - crop + 1, generator)
        flips = [axis for axis in (-1, -2) if _integer(2, generator)]
        turned = bool(_integer(2, generator))
        # Exposure and white balance are the whole scene's: the same for render, references and truth. Never above 1,
        # where photographs would clip.
        gain = 1 - 0.2 * torch.rand(3, 1, 1, generator=generator) - 0.2 * torch.rand(1, generator=generator)
        colours = torch.randperm(3, generator=generator) if _integer(2, generator) else torch.arange(3)
        kept = (torch.rand(SLOTS, generator=generator) >= dropout).view(-1, 1, 1, 1)

        def cut(values: Tensor, colourful: bool) -> Tensor:
            values = values[..., top : top + crop, left : left + crop]
            values = values.float() / 255 if values.dtype == torch.uint8 else values.float()
            values = values.flip(flips) if flips else values
            values = values.transpose(-1, -2) if turned else values
            return values.index_select(-3, colours) * gain if colourful else values

        visibility = cut(sample.visibility, False) * kept
        return Batch(
            cut(sample.image, True),
            cut(sample.alpha, False),
            cut(sample.warps, True) * (visibility > 0),
            visibility,
            cut(sample.truth, True),
        )


def _integer(below: int, generator: Generator) -> int:
    return int(torch.randint(below, (1,), generator=generator))


def _to_bytes(values: Tensor) -> Tensor:
    return (values.clamp(0, 1) * 255).round().byte().contiguous()


def _given(value: Tensor | None) -> Tensor:
    assert value is not None  # read_pair fills it
    return value
