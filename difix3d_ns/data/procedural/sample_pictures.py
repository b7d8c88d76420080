"""Freely licensed sample pictures that installed libraries carry, split between the demo and training.

Only pictures whose licence is stated beside them and beyond doubt are listed; credits are in ``docs/credits.md``.
A picture of one split is never shown to the other: the demo must not look like anything a fixer was trained on.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

Split = Literal["demo", "train"]

# (package, file inside it, split, licence)
PICTURES: dict[str, tuple[str, str, Split, str]] = {
    "coffee": ("skimage", "data/coffee.png", "demo", "CC0, Rachel Michetti"),
    "chelsea": ("skimage", "data/chelsea.png", "demo", "CC0, Stefan van der Walt"),
    "brick": ("skimage", "data/brick.png", "demo", "CC0, CC0Textures Bricks25"),
    "china": ("sklearn", "datasets/images/china.jpg", "train", "CC BY 2.0, danielbuechele"),
    "flower": ("sklearn", "datasets/images/flower.jpg", "train", "CC BY 2.0, vultilion"),
    "gravel": ("skimage", "data/gravel.png", "train", "CC0, CC0Textures Gravel04"),
    "grass": ("skimage", "data/grass.png", "train", "CC0, linolafett"),
    "rocket": ("skimage", "data/rocket.jpg", "train", "public domain, SpaceX"),
    "camera": ("skimage", "data/camera.png", "train", "CC0, Lav Varshney"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg", "train", "public domain, NASA/ESA HubbleSite"),
    "retina": ("skimage", "data/retina.jpg", "train", "CC0, Mikael Häggström"),
    "text": ("skimage", "data/text.png", "train", "public domain, Wikipedia"),
}


def picture_names(split: Split) -> tuple[str, ...]:
    """Names of the installed pictures of a split; those of packages that are missing are left out."""
    return tuple(n for n, (_, _, s, _) in PICTURES.items() if s == split and picture_path(n) is not None)


@functools.cache
def picture_path(name: str) -> Path | None:
    """Path of a picture, or None if its package is not installed or came without it."""
    package, file, _, _ = PICTURES[name]
    spec = find_spec(package)  # finds the folder without importing the package
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / file
    return path if path.is_file() else None


def load_picture(name: str, split: Split) -> np.ndarray:  # [H, W, 3] uint8 sRGB
    """Read a picture for one split.

    Raises:
        ValueError: the picture belongs to the other split, which keeps it for itself.
        FileNotFoundError: the package that carries it is not installed.
    """
    owner = PICTURES[name][2]
    if owner != split:
        raise ValueError(f"the picture {name!r} is reserved for {owner}; {split} scenes must not use it")
    path = picture_path(name)
    if path is None:
        raise FileNotFoundError(f"the picture {name!r} comes with {PICTURES[name][0]}, which is not installed")
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))
