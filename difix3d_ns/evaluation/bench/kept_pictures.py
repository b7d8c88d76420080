"""A few held-out views of every method, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difix3d_ns.evaluation.comparison import write_comparison

TRUTH = "truth"
_QUALITY = 95


def keep_pictures(folder: Path, name: str, pictures: Sequence[Tensor], truths: Sequence[Tensor], count: int) -> None:
    """Write ``folder/NAME/VIEW.jpg`` and ``folder/truth/VIEW.jpg`` of evenly spread views.

    Args:
        folder: of the scene.
        name: of the method.
        pictures: [H, W, 3] each, in [0, 1].
        truths: [H, W, 3] each, in [0, 1].
        count: of views.
    """
    every = max(1, len(truths) // max(1, count))
    for view in list(range(every // 2, len(truths), every))[:count]:
        for column, picture in ((name, pictures[view]), (TRUTH, truths[view])):
            path = folder / column / f"{view:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = picture.detach().float().cpu().nan_to_num(0.0, 1.0, 0.0).clamp(0, 1).numpy()
            Image.fromarray(np.round(values * 255).astype(np.uint8)).save(path, quality=_QUALITY, subsampling=0)


def write_scene_comparison(path: Path, folder: Path, columns: Mapping[str, str]) -> bool:
    """Write kept pictures side by side, the truth last.

    Args:
        path: of the PNG.
        folder: of the scene, see ``keep_pictures``.
        columns: caption -> name of the method whose pictures it is.

    Returns:
        Whether there were pictures of all columns.
    """
    names = {**columns, TRUTH: TRUTH}
    views = [file.name for file in sorted((folder / TRUTH).glob("*.jpg"))]
    views = [view for view in views if all((folder / name / view).is_file() for name in names.values())]
    if not views:
        return False
    rows = [[_read(folder / name / view) for name in names.values()] for view in views]
    write_comparison(path, rows, list(names))
    return True


def _read(path: Path) -> Tensor:  # [H, W, 3]
    with Image.open(path) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).float() / 255
