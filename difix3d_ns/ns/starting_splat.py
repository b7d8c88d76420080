"""A splat that training starts from, in whichever form it is: exported, a checkpoint, or a training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.io import checkpoints
from difix3d_ns.io.foreign_splats import read_foreign_splat
from difix3d_ns.io.splat_files import ENDINGS, read_splat, without_ending
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.splats.placing import placed
from difix3d_ns.views.likeness import MIN_PSNR, checked_photographs, psnr_at
from difix3d_ns.views.protocols import Renderer, Scene

_PARAMETER = "_model.gauss_params."
_TRAINED = 30_000
"""steps that an exported splat is taken to be trained for: all its harmonics are used, and no picture is halved"""
LOAD_PLY, LOAD_TRANSFORM = "--load-ply", "--load-transform"


def read_start(path: Path, flag: str) -> tuple[Path, dict[str, Any]]:
    """Read a splat as a checkpoint.

    Args:
        path: a .ply as ns-export and the original implementation write it, or what ``difix3d export`` writes, see
            ``SplatPlacer`` for its coordinates; a checkpoint; a training's folder, its config.yml or its folder of
            checkpoints.
        flag: that names it, for messages.

    Returns:
        The file, and what it holds in a checkpoint's layout; of an exported file Gaussians alone.

    Raises:
        UserError: it is none of these, or cannot be read; the message names the flag.
    """
    if not path.exists():
        raise UserError(f"{flag} {path}: there is no such file or folder")
    if is_exported(path):
        return path, _as_checkpoint(read_exported(path, flag))
    if path.suffix == ".ckpt":
        return path, checkpoints.load(path)
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.suffix not in (".yml", ".yaml"):
        raise UserError(f"{flag} {path}: a .ply, .spz or .ckpt, or the folder or config.yml of a training is needed")
    models = folder / "nerfstudio_models"
    folder = models if models.is_dir() else folder
    if not checkpoints.checkpoint_steps(folder):
        raise UserError(f"{flag} {path}: there is no checkpoint in {folder}; give the folder of a finished training")
    return checkpoints.load_newest(folder, flag)


def read_loaded(path: Path) -> tuple[Path, dict[str, Any]]:
    """Read the file of ``--load-ply`` as a checkpoint. Errors as of ``read_start``."""
    if not is_exported(path) or not path.is_file():
        raise UserError(f"{LOAD_PLY} {path}: there is no such .ply or .spz file")
    return path, _as_checkpoint(read_exported(path, LOAD_PLY))


def is_exported(path: Path) -> bool:
    """Return whether a splat is in a file for viewers, by its ending, whose coordinates have to be found."""
    return path.name.lower().endswith(ENDINGS)


def degree_of(state: Mapping[str, Any]) -> int:
    """Degree of the spherical harmonics of a splat read as a checkpoint."""
    return math.isqrt(1 + state["pipeline"][_PARAMETER + "features_rest"].shape[1]) - 1


class SplatPlacer:
    """Finder of the coordinates that an exported splat is in: those in which it shows the photographs best.

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
            path: of the file.
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
        for file in (
            path.with_name(f"{without_ending(path)}_frame.json"),
            path.with_name("dataparser_transforms.json"),
        ):
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


def read_exported(path: Path, flag: str = LOAD_PLY) -> dict[str, Tensor]:
    """Read splatfacto's parameters of an exported splat, of the Gaussians that are finite.

    Args:
        path: a .ply of any origin, a .compressed.ply or a .spz.
        flag: that names it, for messages.

    Raises:
        UserError: it is none, or has none.
    """
    try:
        if path.suffix.lower() == ".spz":
            found = {name: values.numpy() for name, values in read_splat(path).items()}
        else:
            found = read_foreign_splat(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{flag} {path} is no splat that can be read: {error}") from error
    count = len(found["means"])
    finite = np.ones(count, bool)
    for values in found.values():
        finite &= np.isfinite(values).all(tuple(range(1, values.ndim)))
    if not finite.any():
        raise UserError(f"{flag} {path} has no Gaussians")
    return {name: torch.from_numpy(np.ascontiguousarray(values[finite])) for name, values in found.items()}
