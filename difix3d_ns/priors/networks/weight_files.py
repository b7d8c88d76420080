"""Files of weights that ``difix3d train-prior`` writes: safetensors with a JSON beside them."""

from __future__ import annotations

from pathlib import Path


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
