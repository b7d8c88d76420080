"""A splat that training starts from, in whichever form it is: exported, a checkpoint, or a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.models.splatfacto import RGB2SH
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.io import checkpoints

_TRAINED = 30_000
"""steps that an exported splat is taken to be trained for: all its harmonics are used, and no picture is halved"""
_FLAG = "--pipeline.guidance.start"


def read_start(path: Path) -> tuple[Path, dict[str, Any]]:
    """Read a splat as a checkpoint.

    Args:
        path: a .ply as ns-export and the original implementation write it, in the coordinates of this training; a
            checkpoint; a training's folder, its config.yml or its folder of checkpoints.

    Returns:
        The file, and what it holds in a checkpoint's layout; of a .ply Gaussians alone.

    Raises:
        UserError: it is none of these, or cannot be read; the message names the flag.
    """
    if not path.exists():
        raise UserError(f"{_FLAG} {path}: there is no such file or folder")
    if path.suffix.lower() == ".ply":
        return path, _as_checkpoint(read_ply(path))
    if path.suffix == ".ckpt":
        return path, checkpoints.load(path)
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.suffix not in (".yml", ".yaml"):
        raise UserError(f"{_FLAG} {path}: a .ply, a .ckpt, or the folder or config.yml of a training is needed")
    models = folder / "nerfstudio_models"
    folder = models if models.is_dir() else folder
    if not checkpoints.checkpoint_steps(folder):
        raise UserError(f"{_FLAG} {path}: there is no checkpoint in {folder}; give the folder of a finished training")
    return checkpoints.load_newest(folder)


def _as_checkpoint(gaussians: dict[str, Tensor]) -> dict[str, Any]:
    parameters = {f"_model.gauss_params.{name}": values for name, values in gaussians.items()}
    return {"step": _TRAINED - 1, "pipeline": parameters, "optimizers": {}, "schedulers": {}, "scalers": {}}


def read_ply(path: Path) -> dict[str, Tensor]:
    """Read splatfacto's parameters of an exported splat, of the Gaussians that are finite.

    Raises:
        UserError: it is none, or has none.
    """
    from plyfile import PlyData, PlyParseError

    try:
        vertices = PlyData.read(str(path))["vertex"]
        names = vertices.data.dtype.names or ()

        def columns(*wanted: str) -> np.ndarray:  # [N, C]
            return np.stack([np.asarray(vertices[name], np.float32) for name in wanted], axis=-1)

        rest = sorted((name for name in names if name.startswith("f_rest_")), key=lambda name: int(name[7:]))
        count = len(vertices.data)
        harmonics = columns(*rest).reshape(count, 3, -1).transpose(0, 2, 1) if rest else np.zeros((count, 0, 3))
        if "f_dc_0" in names:
            colours = columns("f_dc_0", "f_dc_1", "f_dc_2")
        else:
            colours = RGB2SH(columns("red", "green", "blue") / 255)
        found = {
            "means": columns("x", "y", "z"),
            "scales": columns("scale_0", "scale_1", "scale_2"),
            "quats": columns("rot_0", "rot_1", "rot_2", "rot_3"),
            "features_dc": colours,
            "features_rest": harmonics.astype(np.float32),
            "opacities": columns("opacity"),
        }
    except (PlyParseError, KeyError, ValueError, OSError) as error:
        raise UserError(f"{_FLAG} {path} is no splat as ns-export writes it: {error}") from error
    finite = np.logical_and.reduce([np.isfinite(values.reshape(count, -1)).all(1) for values in found.values()])
    if not finite.any():
        raise UserError(f"{_FLAG} {path} has no Gaussians")
    return {name: torch.from_numpy(np.ascontiguousarray(values[finite])) for name, values in found.items()}
