"""The splat of a finished training as others get it: without what only our renders hide."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difix3d_ns.geometry.warp import in_view
from difix3d_ns.io.splat_files import read_splat, write_splat

_MIN_OPACITY = 1 / 255
"""below, a Gaussian changes no picture of 8 bits"""
_MARGIN = 0.25  # of the picture, around it: what lies beyond is seen by views between the photos
_NEAR = 0.01
"""near plane of other viewers, scene units"""


def finished_gaussians(pipeline: Any, keep_all: bool = False) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Collect the Gaussians that are worth writing.

    Args:
        pipeline: of a finished training.
        keep_all: leave out only those that are no numbers.

    Returns:
        splatfacto's parameters on the CPU, and the number that is left out by reason.
    """
    gaussians = {name: values.detach().cpu() for name, values in pipeline.model.gauss_params.items()}
    kept = torch.stack([values.flatten(1).isfinite().all(1) for values in gaussians.values()]).all(0)
    left_out = {"that are no numbers": int((~kept).sum())}
    if not keep_all:
        for reason, needless in _needless(pipeline, gaussians).items():
            left_out[reason] = int((kept & needless).sum())
            kept = kept & ~needless
    return {name: values[kept] for name, values in gaussians.items()}, left_out


def _needless(pipeline: Any, gaussians: dict[str, Tensor]) -> dict[str, Tensor]:
    """Find what viewers show and we do not, or what nobody has seen, [N] bool by reason."""
    means, scene = gaussians["means"], pipeline.scene
    shown = torch.zeros(len(means), dtype=torch.bool)
    for camera in scene.unoptimized_cameras():
        shown |= in_view(means, camera, _MARGIN)[0]
    return {
        "that float in front of the cameras": pipeline.free.floating(means),
        "that cannot be seen": gaussians["opacities"].sigmoid()[:, 0] < _MIN_OPACITY,
        "that no photo shows": ~shown,
    }


def show_as_exported(pipeline: Any, ending: str) -> None:
    """Put what an exported file holds in the place of a training's splat, and render it as other viewers do.

    Args:
        pipeline: of a finished training; it is changed.
        ending: of the file, one of ``io.splat_files.ENDINGS``.
    """
    model = pipeline.model
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"splat{ending}"
        write_splat(file, finished_gaussians(pipeline)[0])
        found = read_splat(file)
    rest = torch.zeros(len(found["means"]), *model.gauss_params["features_rest"].shape[1:])
    given = found["features_rest"][:, : rest.shape[1]]  # formats leave out harmonics that are 0
    rest[:, : given.shape[1]] = given
    for name, values in (found | {"features_rest": rest}).items():
        model.gauss_params[name] = torch.nn.Parameter(values.to(model.device))
    model.near_plane = _NEAR
