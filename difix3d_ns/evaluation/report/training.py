"""Contents of a training's folder, also while it goes on. Everything here only reads."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.errors import UserError, first_line
from difix3d_ns.evaluation.curves import Curve, read_curves
from difix3d_ns.io.checkpoints import checkpoint_steps
from difix3d_ns.ns.config_paths import find_scene_again
from difix3d_ns.ns.dataparsers.photo_orbit import dataparser_of
from difix3d_ns.ns.dataparsers.scene_parser import take_over
from difix3d_ns.ns.earlier_versions import refuse_earlier
from difix3d_ns.ns.opened_pipeline import OpenedConfig
from difix3d_ns.ns.photo_dataset import PhotoDataset
from difix3d_ns.ns.trainer import GuidedTrainerConfig
from difix3d_ns.views.folders import RECORDS_FOLDER
from difix3d_ns.views.records import RecordHead, ViewRecords

_DEPTH = 4
"""folders below the one given: outputs/SCENE/METHOD/TIME of a demo"""


@dataclass(frozen=True)
class Training:
    """A training, finished or not."""

    path: Path  # its config.yml
    config: GuidedTrainerConfig
    curves: Mapping[str, Curve]  # TensorBoard's name -> curve; empty without event files
    seconds: float | None  # of wall clock while it ran; None without event files
    records: ViewRecords
    made: list[RecordHead]  # of all made views, without pictures
    checkpoints: list[int]  # their steps, newest first

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def scene(self) -> str:
        """A name for people: the folder of the data."""
        data = self.config.data or self.config.pipeline.datamanager.data
        return Path(data).resolve().name if data is not None else str(self.config.experiment_name)

    @cached_property
    def dataset(self) -> PhotoDataset | None:
        """Photos it learns from, at the size of training; None where its scene is not here any more."""
        manager = self.config.pipeline.datamanager
        parser = copy.deepcopy(manager.dataparser)
        parser.data = manager.data or self.config.data or parser.data
        try:
            parser = dataparser_of(parser, parser.data, manager.photo)
            take_over(parser, manager.pose_frame)
            with CONSOLE.capture():
                outputs = parser.setup().get_dataparser_outputs("train")
                dataset = PhotoDataset(outputs, manager.camera_res_scale_factor or 1.0)
                dataset.reduction = manager.reduction
                return dataset
        except (Exception, SystemExit):  # a scene that was moved or damaged: the rest is worth having
            return None

    @property
    def photos(self) -> int | None:
        """Number of photos it learns from; None if that is not known."""
        return None if self.dataset is None else len(self.dataset)

    @property
    def steps(self) -> int:
        """Steps trained so far, as far as can be seen."""
        seen = [int(curve.steps[-1]) for curve in self.curves.values() if len(curve.steps)]
        return max([0, *(step + 1 for step in self.checkpoints), *seen, *(head.step for head in self.made)])

    @property
    def planned(self) -> int | None:
        """Steps planned in all."""
        return self.config.max_num_iterations

    @property
    def finished(self) -> bool:
        """True if it has logged its end, or saved its last step."""
        if "Train Total (time)" in self.curves:
            return True
        from_another = self.config.load_checkpoint is not None  # whose steps count as well
        last = max(self.checkpoints, default=-1)
        return not from_another and self.planned is not None and last + 1 >= self.planned


def read_training(path: Path) -> Training:
    """Read a training's folder.

    Args:
        path: the folder, its config.yml, or a folder above exactly one.

    Raises:
        UserError: there is none, or more than one; the message names what there is.
    """
    config = _find(Path(path))
    curves, seconds = read_curves(config.parent)
    records = ViewRecords(config.parent / RECORDS_FOLDER)
    return Training(
        config,
        _load(config),
        curves,
        seconds,
        records,
        records.heads(),
        checkpoint_steps(config.parent / "nerfstudio_models"),
    )


def loss_by_kind(curves: Mapping[str, Curve]) -> list[Curve]:
    """The training loss of photos and of pseudo-views: each logged step trained one of them."""
    loss = curves.get("Train Loss")
    if loss is None:
        return []
    kinds = {"photos": "Train Metrics Dict/psnr", "pseudo-views": "Train Metrics Dict/pseudo_psnr"}
    return [
        Curve(name, loss.steps[kept], loss.values[kept])
        for name, tag in kinds.items()
        if tag in curves and (kept := np.isin(loss.steps, curves[tag].steps)).any()
    ]


def _find(path: Path) -> Path:
    if path.is_file():
        if path.suffix not in (".yml", ".yaml"):
            raise UserError(f"{path} is no config.yml; give the folder of a training or its config.yml")
        return path
    if not path.is_dir():
        raise UserError(f"{path} does not exist; give the folder of a training: outputs/SCENE/METHOD/TIME")
    if (path / "config.yml").is_file():
        return path / "config.yml"
    found = [file for depth in range(1, _DEPTH + 1) for file in sorted(path.glob("*/" * depth + "config.yml"))]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(
            f"{path} holds no training (no config.yml in it or below; one that was refused or is still being set up "
            "has none); give its folder: outputs/SCENE/METHOD/TIME"
        )
    found.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    listed = "".join(f"\n  {file.parent}" for file in found[:8]) + ("\n  ..." if len(found) > 8 else "")
    raise UserError(f"{path} holds {len(found)} trainings; give one of them (newest first):{listed}")


def _load(path: Path) -> GuidedTrainerConfig:
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.Loader)  # as nerfstudio's own commands do
    except (OSError, ValueError, yaml.YAMLError, ImportError, AttributeError, TypeError) as error:
        refuse_earlier(error, path)
        reason = first_line(error)
        raise UserError(f"{path} cannot be read: {reason} (of a training that just began: try again)") from error
    if not isinstance(config, GuidedTrainerConfig):
        name = getattr(config, "method_name", None)
        if isinstance(config, OpenedConfig):
            raise UserError(
                f"{path} is a training of {name} opened with the enhancer, which has no Gaussians: look at it, "
                "measure, render and compare it with ns-viewer, ns-eval, ns-render and difix3d compare"
            )
        raise UserError(f"{path} is " + (f"of the method {name}, none of difix3d_ns" if name else "no training"))
    if "vis" not in vars(config):  # the last line: the file is sorted
        raise UserError(f"{path} is not complete; of a training that just began: try again")
    find_scene_again(config, path)
    return config
