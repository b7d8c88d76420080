"""A splat that exists, as a training that viewer, ns-render and ns-eval open with the enhancer; none takes place."""

from __future__ import annotations

import copy
from pathlib import Path

import yaml

from difix3d_ns.errors import UserError
from difix3d_ns.ns.starting_splat import is_exported, read_start
from difix3d_ns.ns.trainer import GuidedTrainerConfig

_DRAWN_BY = ("sh_degree", "background_color", "rasterize_mode")
"""settings of a model by which its pictures change"""


def open_splat(
    splat: Path,
    data: Path,
    output: Path = Path("outputs"),
    transform: Path | None = None,
    fixer: str | None = None,
    weights: str | None = None,
) -> Path:
    """Write what opens a splat beside its photos.

    Args:
        splat: a .ply of any origin; or a checkpoint, config.yml or folder of a training by splatfacto or one of ours.
        data: the scene, with the photos that the splat shows.
        output: folder of trainings.
        transform: coordinates of a .ply, where they cannot be found; see ``ns.starting_splat.read_transform``.
        fixer, weights: of the enhancer; None: the embedded one.

    Returns:
        The config.yml.

    Raises:
        UserError: the splat or the scene cannot be read, or do not fit each other.
    """
    from difix3d_ns.methods.difix3d import difix3d_splatfacto

    config = copy.deepcopy(difix3d_splatfacto.config)
    assert isinstance(config, GuidedTrainerConfig)
    if is_exported(splat):
        config.load_ply, config.load_transform = splat, transform
    else:
        config.load_checkpoint, _ = read_start(splat, "SPLAT")
        _take_over(config, config.load_checkpoint.parent.parent / "config.yml")
    if not data.exists():
        raise UserError(f"--data {data} does not exist: give the scene whose photos the splat shows")
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.experiment_name = output, data.resolve().name
    config.vis = "tensorboard"
    config.pipeline.sparse_helps, config.max_num_iterations = False, 1
    config.pipeline.guidance.rounds = 0  # type: ignore[attr-defined]
    enhancer = config.pipeline.enhancer
    enhancer.name, enhancer.weights, enhancer.strength = fixer, weights, 1.0  # it has learnt from no fixer
    config.set_timestamp()
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    trainer.save_checkpoint(trainer._start_step - 1)
    return Path(config.get_base_dir()) / "config.yml"


def _take_over(config: GuidedTrainerConfig, path: Path) -> None:
    """Draw the splat as the training drew it that it comes from."""
    if not path.is_file():
        return
    try:
        theirs = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.Loader).pipeline.model
        for name in _DRAWN_BY:
            setattr(config.pipeline.model, name, getattr(theirs, name))
    except (OSError, yaml.YAMLError, AttributeError) as error:
        raise UserError(f"{path} is not of splatfacto or a method of this package: {error}") from error
