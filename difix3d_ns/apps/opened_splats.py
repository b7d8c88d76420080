"""Splats that commands take: a training by its config.yml or its folder, or a .ply beside its scene."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from difix3d_ns.apps.enhance_splat import open_splat
from difix3d_ns.apps.export_splat import load_pipeline
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole


def config_of(splat: Path, data: Path | None) -> Path | None:
    """Return the config.yml of a training; None of a .ply.

    Args:
        splat: config.yml, a training's folder, or a .ply.
        data: the scene, which a .ply needs.

    Raises:
        UserError: there is no such training, or the scene is missing or too much.
    """
    from difix3d_ns.evaluation.report.training import read_training

    if splat.suffix.lower() == ".ply":
        if data is None:
            raise UserError(f"{splat}: give --data, the scene whose photos it shows")
        return None
    if data is not None:
        raise UserError("--data: a training knows its photos; leave it out")
    return read_training(splat).path


def opened(splat: Path, data: Path | None, config: Path | None) -> Any:
    """Load the pipeline of a splat.

    Args:
        splat, data: see ``config_of``.
        config: what it has returned.

    Raises:
        UserError: the splat or the scene cannot be read, or do not fit each other.
    """
    if config is not None:
        return load_pipeline(config)
    assert data is not None
    with tempfile.TemporaryDirectory() as folder:
        return load_pipeline(open_splat(splat, data, Path(folder)))


def full_size(pipeline: Any, camera: Pinhole) -> Pinhole:
    """Return a photo's camera at the size that the splat is meant to be rendered at."""
    if pipeline.model.larger is None:
        return camera
    factor = pipeline.config.guidance.factor or 1.0
    return camera.resized(round(camera.width * factor), round(camera.height * factor))
