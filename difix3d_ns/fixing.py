"""Repairing picture files without a scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from rich.progress import track
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.fixers import available_fixers, load_fixer
from difix3d_ns.fixers.contract import FixRequest, Reference

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def fix_pictures(
    inputs: Sequence[Path], output: Path, references: Sequence[Path], weights: str, device: str | None
) -> list[Path]:
    """Repair picture files.

    Args:
        inputs: pictures or folders of pictures.
        output: a file if there is a single file in ``inputs``, else a folder (same names).
        references: photographs shown to the fixer, unaligned.
        weights: the name of a fixer or a file or folder of weights.
        device: None for CUDA where there is one.

    Returns:
        The files written.

    Raises:
        UserError: an input is missing or no picture, two inputs would get one name, an input would be overwritten, or
            the output cannot be written.
    """
    pairs = _pair(inputs, output)
    for source, target in pairs:
        if target.suffix.lower() not in _SUFFIXES:
            raise UserError(f"--output {target}: the name must end in one of {', '.join(sorted(_SUFFIXES))}")
        if target.exists() and target.samefile(source):
            raise UserError(f"--output {output} would overwrite {source}; choose another place")
    name, path = (weights, None) if weights in available_fixers() else ("embedded", weights)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        fixer = load_fixer(name, path, where)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"--weights {weights}: {error}") from error
    shown = [Reference(_read(path).to(where)) for path in references]
    for source, target in track(pairs, description="Fixing"):
        result = fixer.fix([FixRequest(_read(source).to(where), shown)])[0]
        pixels = (result.image.clamp(0, 1) * 255).round().byte().cpu().numpy()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target)
        except OSError as error:
            raise UserError(f"--output: {target} cannot be written: {error}") from error
    return [target for _, target in pairs]


def _pair(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    if len(inputs) == 1 and inputs[0].is_file():
        return [(inputs[0], output / inputs[0].name if output.is_dir() else output)]
    if output.is_file():
        raise UserError(f"--output {output} is a file; several pictures need a folder")
    pairs: list[tuple[Path, Path]] = []
    for path in inputs:
        if path.is_dir():
            files = sorted(f for f in path.iterdir() if f.suffix.lower() in _SUFFIXES)
            if not files:
                raise UserError(f"{path} has no pictures ({', '.join(sorted(_SUFFIXES))})")
        elif path.is_file():
            files = [path]
        else:
            raise UserError(f"{path} does not exist")
        pairs += [(file, output / file.name) for file in files]
    targets = [target for _, target in pairs]
    twice = {target.name for target in targets if targets.count(target) > 1}
    if twice:
        raise UserError(f"several inputs are named {sorted(twice)[0]}; give them different names or run them apart")
    return pairs


def _read(path: Path) -> Tensor:
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32) / 255)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} is no picture that can be read: {error}") from error
