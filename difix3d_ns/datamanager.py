"""Photographs for training, with pseudo-views drawn in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.dataparser import PlyfileNerfstudio
from difix3d_ns.errors import UserError

CPU_LONG_SIDE = 480
"""pixels: on two CPU cores a training step at this size takes a few hundredths of a second"""


@dataclass
class Difix3DDatamanagerConfig(FullImageDatamanagerConfig):
    """nerfstudio's full-image datamanager; images are brought to a size the device can train on."""

    _target: type = field(default_factory=lambda: Difix3DDatamanager)
    camera_res_scale_factor: float | None = None  # type: ignore[assignment]
    """factor on the image size (unset: 1 with CUDA; on a CPU such that the long side is about 480 px)"""


class Difix3DDatamanager(FullImageDatamanager[InputDataset]):
    """Draws a photograph, or with some probability a pseudo-view.

    Pseudo-views never enter the dataset: they have no camera index, so camera optimizer, bilateral grid, viewer and
    evaluation never see them.
    """

    config: Difix3DDatamanagerConfig
    draw_pseudo_view: Callable[[int, torch.Generator], tuple[Cameras, dict[str, Any]] | None] | None
    """called before each step's photograph is drawn; set by the pipeline"""

    def __init__(self, config: Difix3DDatamanagerConfig, device: torch.device | str = "cpu", **kwargs: Any) -> None:
        self.draw_pseudo_view = None
        self.pseudo_random = torch.Generator().manual_seed(config.train_cameras_sampling_seed + 1)
        data = config.data or getattr(config.dataparser, "data", None)
        if getattr(config.dataparser, "_target", None) is Nerfstudio:
            config.dataparser._target = PlyfileNerfstudio
            _check_folder(Path(data) if data is not None else None)
        try:
            super().__init__(config, device=device, **kwargs)
        except (AssertionError, RuntimeError, KeyError, FileNotFoundError) as error:
            raise UserError(f"{data} cannot be read as a scene: {error}") from error
        if str(device) == "cpu":
            self.config.cache_images = "gpu"  # "gpu" means the device; "cpu" would pin memory, which needs a driver

    def create_train_dataset(self) -> InputDataset:
        outputs = self.train_dataparser_outputs
        _check_views(outputs, self.config.dataparser.data)
        if self.config.camera_res_scale_factor is None:
            self.config.camera_res_scale_factor = _scale_factor(outputs.cameras, str(self.device))
        return super().create_train_dataset()

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        pseudo = self.draw_pseudo_view(step, self.pseudo_random) if self.draw_pseudo_view is not None else None
        return pseudo if pseudo is not None else super().next_train(step)

    def sampling_state(self) -> dict[str, Any]:
        """What drawing depends on, as plain values."""
        state: dict[str, Any] = {"unseen": list(self.train_unseen_cameras), "pseudo": self.pseudo_random.get_state()}
        if hasattr(self, "random_generator"):
            state["photographs"] = self.random_generator.getstate()
        return state

    def restore_sampling(self, state: dict[str, Any]) -> None:
        """Go on drawing where ``sampling_state`` was taken."""
        if all(index < len(self.train_dataset) for index in state["unseen"]):
            self.train_unseen_cameras = list(state["unseen"])
        self.pseudo_random.set_state(state["pseudo"])
        if "photographs" in state and hasattr(self, "random_generator"):
            version, words, gauss = state["photographs"]
            self.random_generator.setstate((version, tuple(words), gauss))


def _scale_factor(cameras: Cameras, device: str) -> float:
    long_side = int(torch.maximum(cameras.width, cameras.height).max())
    if device != "cpu" or long_side <= CPU_LONG_SIDE:
        return 1.0
    # A multiple of 2^-12 is exact in float32, so that pictures (sized in float64) and cameras (in float32) agree.
    factor = math.ceil(CPU_LONG_SIDE / long_side * 4096) / 4096
    CONSOLE.log(f"No CUDA: images are scaled by {factor:.4f} (set --pipeline.datamanager.camera-res-scale-factor)")
    return factor


def _check_folder(data: Path | None) -> None:
    if data is None:
        raise UserError("no scene given: add --data FOLDER (a folder with transforms.json and images)")
    if not data.exists():
        raise UserError(f"--data {data} does not exist")
    transforms = data if data.suffix == ".json" else data / "transforms.json"
    if not transforms.exists():
        hint = f"run `ns-process-data images --data {data} --output-dir SCENE` first and train on SCENE"
        if (data / "colmap" / "sparse").exists() or (data / "sparse").exists():
            hint = f"read the COLMAP model with `ns-train difix3d-splatfacto --data {data} colmap`"
        raise UserError(f"{transforms} is missing: {hint}")


def _check_views(outputs: DataparserOutputs, data: Path) -> None:
    missing = [path for path in outputs.image_filenames if not Path(path).exists()]
    if missing:
        raise UserError(f"{len(missing)} images named in {data} are missing, the first is {missing[0]}")
    count = len(outputs.image_filenames)
    if count == 0:
        raise UserError(f"{data} has no training images; list some under train_filenames in transforms.json")
    poses = outputs.cameras.camera_to_worlds
    bad = (~torch.isfinite(poses).all(dim=-1).all(dim=-1)).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"the pose of {Path(outputs.image_filenames[bad[0]]).name} in {data} is not finite "
            f"({len(bad)} such frames; one bad frame also spoils the scene's scaling); remove or mend it"
        )
