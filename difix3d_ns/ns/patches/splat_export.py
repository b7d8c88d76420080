"""ns-export gaussian-splat: beside the .ply goes where it lies in the capture's own coordinates."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.io.atomic import write_json

_MODULES = ("nerfstudio.scripts.exporter", "__main__")


def follow_export(pipeline: Any) -> None:
    """Have a splat of this pipeline exported with its frame; where no export goes on, nothing is done."""
    for name in _MODULES:
        exporter: Any = getattr(sys.modules.get(name), "ExportGaussianSplat", None)
        if exporter is not None:
            write: Callable[..., None] = getattr(exporter.write_ply, "plain", exporter.write_ply)
            exporter.write_ply = staticmethod(_with_frame(write, pipeline.datamanager.train_dataparser_outputs))


def _with_frame(write: Callable[..., None], outputs: Any) -> Callable[..., None]:
    def write_ply(filename: str, *args: Any, **kwargs: Any) -> None:
        write(filename, *args, **kwargs)
        path = Path(filename).with_suffix(".frame.json")
        write_json(path, splat_frame(outputs, Path(filename).name))
        CONSOLE.print(
            f"{path.name} beside it says where the splat lies in the capture's own coordinates "
            "(original = inverse of transform, then origin added)."
        )

    write_ply.plain = write  # type: ignore[attr-defined]
    return write_ply


def splat_frame(outputs: Any, file: str) -> dict[str, Any]:
    """Frame of an exported splat: ``splat = scale * (rotation @ (original - origin) + translation)``, float64.

    Args:
        outputs: of the dataparser.
        file: name of the exported file.
    """
    transform = torch.as_tensor(outputs.dataparser_transform).double().numpy()
    rotation = transform[:3, :3]
    # the centre of the capture is kept by itself: a translation by millions of units would lose digits in float32
    given = outputs.metadata.get("origin")
    origin = np.zeros(3) if given is None or not np.any(given) else -np.linalg.solve(rotation, transform[:3, 3])
    translation = transform[:3, 3] + rotation @ origin
    return {
        "file": file,
        "splat_from_original": "scale * (rotation @ (original - origin) + translation)",
        "scale": float(outputs.dataparser_scale),
        "rotation": rotation.tolist(),
        "translation": translation.tolist(),
        "origin": origin.tolist(),
    }
