"""Folders in diffusers' layout whose weights are pickles (.bin), turned into folders of JSON and safetensors."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import remove_unfinished, replacing, write_tensors
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.published.conversion import check_output, read_pickle
from difix3d_ns.priors.published.folder import WEIGHTS
from difix3d_ns.priors.published.upscaler_folder import is_upscaler_folder, read_upscaler

_SAFE = {"diffusion_pytorch_model.bin": WEIGHTS, "pytorch_model.bin": "model.safetensors"}
"""names of weights as a pickle, and without"""
_TEXTS = frozenset({".json", ".txt"})


def convert_folder(source: str, output: Path, dtype: torch.dtype | None = None) -> Path:
    """Convert every part of a folder; nothing is written into the folder itself.

    Args:
        source: a folder with parts such as ``unet/`` and ``vqvae/``, or a hub id, which downloads. Pickles are read by
            ``torch.load(weights_only=True)``: nothing in them can run. Weights without pickle are copied.
        output: folder to write; must not exist or be empty.
        dtype: of the weights written; None: as they are.

    Returns:
        ``output``.

    Raises:
        UserError: something is missing, damaged or in the way.
    """
    check_output(output)
    try:
        folder = hub.download(source, hub.PICKLED) if hub.is_hub_id(source) else Path(source).expanduser()
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    pickles = [file for name in _SAFE for file in sorted(folder.glob(f"*/{name}"))]
    if not pickles:
        raise UserError(
            f"{folder} holds no parts with weights as .bin files ({' or '.join(_SAFE)}): there is nothing to convert"
        )
    remove_unfinished(output.parent, output.suffix, output.stem)
    with Console(stderr=True).status("Converting the weights"), replacing(output) as part:
        for file in [*folder.glob("*.json"), *folder.glob("*/*")]:
            target = part / file.relative_to(folder)
            if file.suffix in _TEXTS or file.name in _SAFE.values():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            elif file.name in _SAFE and not file.with_name(_SAFE[file.name]).is_file():
                write_tensors(target.with_name(_SAFE[file.name]), _read(file, dtype))
        if is_upscaler_folder(folder):
            try:
                read_upscaler(part)  # it has to fit before it gets its name
            except (OSError, RuntimeError) as error:
                raise UserError(f"{folder} can't be converted: {str(error).replace(str(part), str(folder))}") from error
    return output


def _read(file: Path, dtype: torch.dtype | None) -> dict[str, Tensor]:
    content = read_pickle(file)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{file} holds no weights of a part: a dictionary of tensors is expected")
    return {str(key): _converted(value, dtype) for key, value in content.items()}


def _converted(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor with memory of its own, as safetensors wants it; whole numbers stay."""
    return value.detach().to(dtype if dtype and value.is_floating_point() else value.dtype).clone().contiguous()
