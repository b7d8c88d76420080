"""A splat that training starts from, in whichever form it is: exported, a checkpoint, or a training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.models.splatfacto import RGB2SH
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.io import checkpoints
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.splats.placing import placed
from difix3d_ns.views.likeness import MIN_PSNR, checked_photographs, psnr_at
from difix3d_ns.views.protocols import Renderer, Scene

_PARAMETER = "_model.gauss_params."
_TRAINED = 30_000
"""steps that an exported splat is taken to be trained for: all its harmonics are used, and no picture is halved"""
START = "--pipeline.guidance.start"
LOAD_PLY, LOAD_TRANSFORM = "--load-ply", "--load-transform"


def read_start(path: Path, flag: str = START) -> tuple[Path, dict[str, Any]]:
    """Read a splat as a checkpoint.

    Args:
        path: a .ply as ns-export and the original implementation write it, see ``SplatPlacer`` for its coordinates; a
            checkpoint; a training's folder, its config.yml or its folder of checkpoints.
        flag: that names it, for messages.

    Returns:
        The file, and what it holds in a checkpoint's layout; of a .ply Gaussians alone.

    Raises:
        UserError: it is none of these, or cannot be read; the message names the flag.
    """
    if not path.exists():
        raise UserError(f"{flag} {path}: there is no such file or folder")
    if path.suffix.lower() == ".ply":
        return path, _as_checkpoint(read_ply(path, flag))
    if path.suffix == ".ckpt":
        return path, checkpoints.load(path)
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.suffix not in (".yml", ".yaml"):
        raise UserError(f"{flag} {path}: a .ply, a .ckpt, or the folder or config.yml of a training is needed")
    models = folder / "nerfstudio_models"
    folder = models if models.is_dir() else folder
    if not checkpoints.checkpoint_steps(folder):
        raise UserError(f"{flag} {path}: there is no checkpoint in {folder}; give the folder of a finished training")
    return checkpoints.load_newest(folder, flag)


def read_loaded(path: Path) -> tuple[Path, dict[str, Any]]:
    """Read the .ply of ``--load-ply`` as a checkpoint. Errors as of ``read_start``."""
    if path.suffix.lower() != ".ply" or not path.is_file():
        raise UserError(f"{LOAD_PLY} {path}: there is no such .ply file")
    return path, _as_checkpoint(read_ply(path, LOAD_PLY))


def degree_of(state: Mapping[str, Any]) -> int:
    """Degree of the spherical harmonics of a splat read as a checkpoint."""
    return math.isqrt(1 + state["pipeline"][_PARAMETER + "features_rest"].shape[1]) - 1


class SplatPlacer:
    """Finder of the coordinates that a .ply is in: those in which it shows the photographs best.

    Args:
        scene: whose photographs.
        renderer: of the splat that is loaded.
        frame: of this training.
    """

    def __init__(self, scene: Scene, renderer: Renderer, frame: SplatFrame) -> None:
        self._scene, self._renderer, self._frame = scene, renderer, frame

    def place(
        self,
        path: Path,
        flag: str,
        state: dict[str, Any],
        transform: Path | None,
        load: Callable[[dict[str, Any]], None],
        log: Callable[[str], None],
    ) -> dict[str, Any]:
        """Bring a splat into the coordinates of this training.

        Args:
            path: of the .ply.
            flag: that names it.
            state: it, read as a checkpoint.
            transform: file with its coordinates, see ``read_transform``; None: they are found.
            load: makes a state the splat that is rendered.
            log: prints what was found.

        Returns:
            The state in these coordinates.

        Raises:
            UserError: it shows the photographs in no coordinates.
        """
        found: dict[str, tuple[float, dict[str, Any]]] = {}
        for name, matrix in self._candidates(path, transform).items():
            candidate = _moved(state, matrix)
            load(candidate)
            chosen = checked_photographs(len(self._scene))
            psnr = sum(psnr_at(self._scene, self._renderer, index) for index in chosen) / len(chosen)
            found[name] = psnr, candidate
        best = max(found, key=lambda name: found[name][0])
        message = ", ".join(f"{psnr:.1f} dB in {name}" for name, (psnr, _) in found.items())
        if found[best][0] < MIN_PSNR:
            remedy = "give another file" if transform else f"give the coordinates it is in with {LOAD_TRANSFORM} FILE"
            raise UserError(
                f"{flag} {path} does not show the photos of this scene ({message}): it is of another scene, or in "
                f"coordinates that are not known; {remedy}"
            )
        log(f"{path} shows the photos with {message}: it is taken to be in {best}.")
        return found[best][1]

    def _candidates(self, path: Path, transform: Path | None) -> dict[str, np.ndarray]:
        """Matrices [4, 4] to the coordinates of this training, by the name of where from."""
        from_original = np.linalg.inv(self._frame.to_original)
        if transform is not None:
            return {f"those of {transform}": from_original @ read_transform(transform)}
        found = {"the coordinates of this training": np.eye(4), "those of the capture": from_original}
        for file in (path.with_name(f"{path.stem}_frame.json"), path.with_name("dataparser_transforms.json")):
            if file.is_file():
                found[f"those of {file.name}"] = from_original @ read_transform(file)
        return found


def _moved(state: dict[str, Any], matrix: np.ndarray) -> dict[str, Any]:
    """Return a splat, read as a checkpoint, in other coordinates."""
    if np.array_equal(matrix, np.eye(4)):
        return state
    parameters = {key.removeprefix(_PARAMETER): values for key, values in state["pipeline"].items()}
    moved = placed(parameters, torch.from_numpy(matrix))
    return {**state, "pipeline": {_PARAMETER + key: values.float() for key, values in moved.items()}}


def read_transform(path: Path) -> np.ndarray:
    """Read a matrix [4, 4] from a splat's coordinates to those of its capture.

    Args:
        path: ``splat_frame.json`` as ``difix3d export`` writes it beside a splat, ``dataparser_transforms.json`` of the
            training it comes from, or a JSON file with ``splat_to_original``, 4 x 4 numbers.

    Raises:
        UserError: it is none of these.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "splat_to_original" in content:
            matrix = np.array(content["splat_to_original"], np.float64)
        else:
            matrix = SplatFrame(np.array(content["transform"], np.float64)[:3], float(content["scale"])).to_original
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise ValueError("it is not 4 x 4 numbers")
        return matrix
    except (OSError, ValueError, KeyError, TypeError, np.linalg.LinAlgError) as error:
        raise UserError(
            f"{path} has no coordinates of a splat: {error!r}; a splat_frame.json of difix3d export or a "
            f"dataparser_transforms.json of nerfstudio is needed ({LOAD_TRANSFORM})"
        ) from error


def _as_checkpoint(gaussians: dict[str, Tensor]) -> dict[str, Any]:
    parameters = {f"{_PARAMETER}{name}": values for name, values in gaussians.items()}
    return {"step": _TRAINED - 1, "pipeline": parameters, "optimizers": {}, "schedulers": {}, "scalers": {}}


def read_ply(path: Path, flag: str = START) -> dict[str, Tensor]:
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
        raise UserError(f"{flag} {path} is no splat as ns-export writes it: {error}") from error
    finite = np.logical_and.reduce([np.isfinite(values.reshape(count, -1)).all(1) for values in found.values()])
    if not finite.any():
        raise UserError(f"{flag} {path} has no Gaussians")
    return {name: torch.from_numpy(np.ascontiguousarray(values[finite])) for name, values in found.items()}
