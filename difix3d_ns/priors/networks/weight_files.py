"""Files of weights that ``difix3d train-prior`` writes: safetensors with a JSON beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

Built = TypeVar("Built")
Net = TypeVar("Net", bound=nn.Module)


def find_weights(weights: str | Path, own: str, kind: str, recipe: str) -> Path:
    """Find a file of weights with its JSON.

    Args:
        weights: the file, or a folder with one.
        own: stem of the package's file, which a folder may have instead of "weights".
        kind: of prior, as flags and messages call it: "fixer".
        recipe: that makes them, for the message.

    Returns:
        The .safetensors file.

    Raises:
        FileNotFoundError: one of the two is missing.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        inside = [path / f"{name}.safetensors" for name in ("weights", own)]
        path = next((file for file in inside if file.exists()), inside[0])
    for file in (path.with_suffix(".safetensors"), path.with_suffix(".json")):
        if not file.is_file():
            raise FileNotFoundError(
                f"{kind} weights not found: {file}. Give a .safetensors file with its .json beside it, or a folder "
                f"written by `difix3d train-prior {recipe}`."
            )
    return path.with_suffix(".safetensors")


def read_weights(
    path: Path, build: Callable[[dict[str, Any], dict[str, Tensor]], Built], kind: str, remedy: str
) -> Built:
    """Build a network of a file and its JSON.

    Args:
        path: the .safetensors file.
        build: of the JSON's content and the tensors as they are stored.
        kind: of prior, for the message.
        remedy: besides installing the package again, for the message.

    Raises:
        FileNotFoundError: one of the two is missing.
        RuntimeError: they cannot be read, or ``build`` cannot use them.
    """
    config = path.with_suffix(".json")
    try:
        return build(json.loads(config.read_text(encoding="utf-8")), load_file(path))
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RuntimeError(
            f"cannot read {kind} weights {path} (with {config.name}): {error}. Reinstall the package, or give {remedy}."
        ) from error


def loaded(net: Net, tensors: Mapping[str, Tensor]) -> Net:
    """Fill a network in float32, whatever its weights are stored in."""
    net.load_state_dict({key: value.float() for key, value in tensors.items()})
    return net
