"""Splats and trainings that exist, opened with the enhancer for viewer, ns-render and ns-eval; none is trained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from difix3d_ns.errors import UserError
from difix3d_ns.ns.config_paths import find_scene_again
from difix3d_ns.ns.datamanager import SceneDatamanagerConfig
from difix3d_ns.ns.earlier_versions import refuse_earlier
from difix3d_ns.ns.starting_splat import is_exported, read_start
from difix3d_ns.ns.trainer import GuidedTrainerConfig

_DRAWN_BY = ("sh_degree", "background_color", "rasterize_mode", "camera_optimizer")
"""settings of a splat's model by which its pictures change"""


def open_splat(
    splat: Path,
    data: Path | None = None,
    output: Path = Path("outputs"),
    transform: Path | None = None,
    fixer: str | None = None,
    weights: str | None = None,
) -> Path:
    """Write what opens a splat, or a training by any method of nerfstudio, beside its photos.

    Args:
        splat: a .ply of any origin; or a checkpoint, config.yml or folder of a training.
        data: the scene, with the photos that it shows; None: the training's.
        output: folder of trainings.
        transform: coordinates of a .ply, where they cannot be found; see ``ns.starting_splat.read_transform``.
        fixer, weights: of the enhancer; None: the embedded one.

    Returns:
        The config.yml.

    Raises:
        UserError: it or the scene cannot be read, or do not fit each other.
    """
    if is_exported(splat):
        return _open_splat(None, splat, _scene(None, data, splat), output, transform, fixer, weights)
    if transform is not None:
        raise UserError(f"--transform {transform}: a training knows its coordinates; leave it out")
    checkpoint, state = read_start(splat, "SPLAT")
    path = checkpoint.parent.parent / "config.yml"
    theirs = _read(path) if path.is_file() else None
    data = _scene(theirs, data, splat)
    if theirs is None or hasattr(theirs.pipeline.model, "sh_degree"):
        return _open_splat(theirs, checkpoint, data, output, None, fixer, weights)
    return _open_model(theirs, path, state, data, output, fixer, weights)


def _read(path: Path) -> Any:
    """Read the settings of a training, with its scene where it is now."""
    try:
        theirs = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.Loader)
        find_scene_again(theirs, path)
        theirs.pipeline.model  # noqa: B018
    except (OSError, yaml.YAMLError, ImportError, AttributeError, TypeError) as error:
        refuse_earlier(error, path)
        raise UserError(f"{path} is of no training by a method that is installed here: {error}") from error
    return theirs


def _scene(theirs: Any, data: Path | None, splat: Path) -> Path:
    """Return the scene that is given, or the training's."""
    found: Path | None = data or (None if theirs is None else theirs.pipeline.datamanager.data or theirs.data)
    if found is None or not found.exists():
        where = (
            f"--data {data} does not exist"
            if data
            else f"{splat}: its photos are not {f'at {found}' if found else 'known'}"
        )
        raise UserError(f"{where}: give --data, the scene whose photos it shows")
    return found


def _reading(theirs: Any, data: Path) -> SceneDatamanagerConfig:
    """Read the photos as a training read them: the same held out, in the same coordinates."""
    manager = theirs.pipeline.datamanager
    if not isinstance(manager, SceneDatamanagerConfig):
        manager = SceneDatamanagerConfig(dataparser=manager.dataparser, cache_images_type="uint8", as_trained=True)
    manager = copy.deepcopy(manager)
    manager.data = data
    return manager


def _open_splat(
    theirs: Any,
    file: Path,
    data: Path,
    output: Path,
    transform: Path | None,
    fixer: str | None,
    weights: str | None,
) -> Path:
    """Open a .ply, or the checkpoint of a training, as a training by one of our methods that begins with it."""
    from difix3d_ns.methods.difix3d import difix3d_splatfacto

    config = copy.deepcopy(difix3d_splatfacto.config)
    assert isinstance(config, GuidedTrainerConfig)
    if is_exported(file):
        config.load_ply, config.load_transform = file, transform
    else:
        config.load_checkpoint = file
    if theirs is not None:
        config.pipeline.datamanager = _reading(theirs, data)
        for name in _DRAWN_BY:
            setattr(config.pipeline.model, name, getattr(theirs.pipeline.model, name))
    config.pipeline.sparse_helps, config.max_num_iterations = False, 1
    config.pipeline.guidance.rounds = 0  # type: ignore[attr-defined]
    _place(config, data, output, fixer, weights)
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    trainer.save_checkpoint(trainer._start_step - 1)
    return Path(config.get_base_dir()) / "config.yml"


def _open_model(
    theirs: Any, path: Path, state: dict[str, Any], data: Path, output: Path, fixer: str | None, weights: str | None
) -> Path:
    """Open a training whose model is no splat, as it is."""
    from difix3d_ns.apps.export_splat import load_pipeline
    from difix3d_ns.ns.opened_model import OpenedModelConfig
    from difix3d_ns.ns.opened_pipeline import OpenedConfig, OpenedPipelineConfig

    chunk = theirs.pipeline.model.eval_num_rays_per_chunk
    model = OpenedModelConfig(trained=theirs.pipeline.model, eval_num_rays_per_chunk=chunk)
    pipeline = OpenedPipelineConfig(datamanager=_reading(theirs, data), model=model, source=path)
    config = OpenedConfig(method_name=theirs.method_name, pipeline=pipeline, viewer=theirs.viewer)
    _place(config, data, output, fixer, weights)
    config.max_num_iterations = state["step"] + 1
    written = config.write(state)
    load_pipeline(written)  # whether it can be
    return written


def _place(config: Any, data: Path, output: Path, fixer: str | None, weights: str | None) -> None:
    """Say where it is written, what it shows, and with which enhancer."""
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.experiment_name = output, data.resolve().name
    config.vis = "tensorboard"
    enhancer = config.pipeline.enhancer
    enhancer.name, enhancer.weights, enhancer.strength = fixer, weights, 1.0  # it has learnt from no fixer
    config.set_timestamp()
