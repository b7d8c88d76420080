"""Splats in the files that viewers open: .ply, .compressed.ply and .spz."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import replacing

ENDINGS = (".compressed.ply", ".ply", ".spz")
_SPZ_BITS, _SPZ_FRACTION = 23, 16  # of a position in fixed point, without its sign; of its fraction, at most

_HEAD = 1 << 16  # bytes in which the head of a .ply ends


def write_splat(file: Path, gaussians: Mapping[str, Tensor]) -> None:
    """Write a splat.

    Args:
        file: its name ends in one of ``ENDINGS``.
        gaussians: splatfacto's parameters, finite.

    Raises:
        UserError: the format cannot hold coordinates so large.
        OSError: the file cannot be written; what was there is kept.
    """
    with replacing(file) as part:
        _write(part, file, gaussians)


def without_ending(file: Path) -> str:
    """Return the name of a splat's file up to its ending, one of ``ENDINGS``."""
    return next(file.name[: -len(ending)] for ending in ENDINGS if file.name.lower().endswith(ending))


def is_splat(file: Path) -> bool:
    """Return whether a .ply holds Gaussians, by its head; a mesh or points it may be else."""
    try:
        with file.open("rb") as stream:
            head, end, _ = stream.read(_HEAD).partition(b"end_header")
    except OSError:
        return False
    return bool(end) and (b" f_dc_0" in head or b" packed_position" in head)


def _write(part: Path, file: Path, gaussians: Mapping[str, Tensor]) -> None:
    import gsply

    def array(name: str) -> np.ndarray:
        return np.ascontiguousarray(gaussians[name].float().numpy())

    means, quats = array("means"), array("quats")
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    colours, opacities = (array("features_dc"), array("features_rest")), array("opacities")[:, 0]
    compressed = file.name.lower().endswith(ENDINGS[0])
    ply = part.with_name(f"{part.stem}.{'compressed' if compressed else 'whole'}.ply")
    try:
        gsply.plywrite(ply, means, array("scales"), quats, opacities, *colours)
        if file.suffix.lower() != ".spz":
            shutil.copyfile(ply, part)
            return
        whole = max(1, int(np.ceil(np.log2(np.abs(means).max() + 1))))
        if whole >= _SPZ_BITS:
            raise UserError(f"--output {file}: .spz has no digits for coordinates so large; give --frame training")
        gsply.write_spz(part, gsply.plyread(ply), fractional_bits=min(_SPZ_FRACTION, _SPZ_BITS - whole))
    finally:
        ply.unlink(missing_ok=True)


def read_splat(file: Path) -> dict[str, Tensor]:
    """Read what ``write_splat`` has written, as splatfacto's parameters, float32; the order may be another."""
    import gsply

    read = gsply.read_spz(file) if file.suffix.lower() == ".spz" else gsply.plyread(file)
    arrays = {
        "means": read.means,
        "scales": read.scales,
        "quats": read.quats,
        "features_dc": read.sh0,
        "features_rest": np.reshape(read.shN, (len(read.means), -1, 3)),
        "opacities": np.reshape(read.opacities, (-1, 1)),
    }
    return {name: torch.from_numpy(np.array(values, np.float32)) for name, values in arrays.items()}
