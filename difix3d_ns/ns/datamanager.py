"""Photographs for training, at a size the device can train on, with clear words for what cannot be read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.errors import UserError
from difix3d_ns.io.cut_outs import CutOut
from difix3d_ns.io.images import Reduction
from difix3d_ns.ns.dataparsers.photo_orbit import SinglePhotoConfig, dataparser_of
from difix3d_ns.ns.dataparsers.scene_parser import take_over
from difix3d_ns.ns.photo_dataset import PhotoDataset
from difix3d_ns.ns.scene_checks import check_precision, check_views, scene_errors

CPU_LONG_SIDE = 480
"""pixels: on two CPU cores a training step at this size takes a few hundredths of a second"""


@dataclass
class SceneDatamanagerConfig(FullImageDatamanagerConfig):
    """nerfstudio's full-image datamanager; images are brought to a size the device can train on."""

    _target: type = field(default_factory=lambda: SceneDatamanager)
    camera_res_scale_factor: float | None = None  # type: ignore[assignment]
    """factor on the image size (unset: 1 with CUDA; on a CPU such that the long side is about 480 px)"""
    reduction: Reduction = "bilinear"
    """filter, antialiased, with which larger photos are brought to that size. bicubic: what upscalers are made for"""
    cut_out: CutOut = "no"
    """what cuts objects out, so that nothing may be around them: masks: the masks, which else mean "ignore"; plain: a
    background of one colour; no: the photos' alpha alone"""
    pose_frame: Literal["all", "train"] = "all"
    """poses by which up, centre and scale are found: all, those of evaluation included, as nerfstudio does; or those
    of training, so that nothing depends on where evaluation cameras are. Checkpoints and camera paths fit one frame"""

    photo: SinglePhotoConfig = field(default_factory=SinglePhotoConfig)
    """what is made of a scene that is one picture"""

    def check(self, flag: str) -> None:
        """Raise a UserError that names the flag if a setting cannot work."""
        factor = self.camera_res_scale_factor
        if factor is not None and factor <= 0:
            raise UserError(f"{flag}.camera-res-scale-factor {factor}: above 0 is needed")


class SceneDatamanager(FullImageDatamanager[PhotoDataset]):
    """Source of photographs for training steps.

    Made views never enter the dataset: viewer and evaluation never see them.
    """

    config: SceneDatamanagerConfig

    def __init__(self, config: SceneDatamanagerConfig, device: torch.device | str = "cpu", **kwargs: Any) -> None:
        data = config.data or getattr(config.dataparser, "data", None)
        config.dataparser = dataparser_of(config.dataparser, data, config.photo, str(device))  # type: ignore[assignment]
        ours = take_over(config.dataparser, config.pose_frame)
        with scene_errors(data, ours):
            super().__init__(config, device=device, **kwargs)
        if not ours:
            check_precision(self.train_dataparser_outputs)
        if str(device) == "cpu":
            self.config.cache_images = "gpu"  # "gpu" means the device; "cpu" would pin memory, which needs a driver

    def create_train_dataset(self) -> PhotoDataset:
        outputs = self.train_dataparser_outputs
        check_views(outputs, self.get_datapath(), "train", opened=self.test_mode != "inference")
        if self.config.camera_res_scale_factor is None:
            self.config.camera_res_scale_factor = _scale_factor(outputs.cameras, str(self.device))
        dataset = super().create_train_dataset()
        dataset.reduction, dataset.cut_out = self.config.reduction, self.config.cut_out
        return dataset

    def create_eval_dataset(self) -> PhotoDataset:
        dataset = super().create_eval_dataset()
        dataset.reduction, dataset.cut_out = self.config.reduction, self.config.cut_out
        opened = self.test_mode != "inference"
        check_views(dataset._dataparser_outputs, self.get_datapath(), "eval", opened)
        return dataset

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """Draw a photograph, with its camera left on the CPU: splatfacto reads it number by number."""
        camera, batch = super().next_train(step)
        index = batch["image_idx"]
        kept = self.train_dataset.cameras[index : index + 1]
        kept.metadata = camera.metadata
        return kept, batch

    @property
    def _held_out_by_rule(self) -> bool:
        """Return whether the scene lists no split itself."""
        split = getattr(self.dataparser, "_split", None)
        return split is not None and split.note is not None

    def sampling_state(self) -> dict[str, Any]:
        """Return the state that drawing depends on, as plain values."""
        state: dict[str, Any] = {
            "unseen": list(self.train_unseen_cameras),
            "unseen_eval": list(self.eval_unseen_cameras),
            "trained": [path.name for path in self.train_dataset.image_filenames],
        }
        if hasattr(self, "random_generator"):
            state["photographs"] = self.random_generator.getstate()
        return state

    def restore_sampling(self, state: dict[str, Any]) -> None:
        """Continue drawing where ``sampling_state`` was taken."""
        trained = [path.name for path in self.train_dataset.image_filenames]
        if state.get("trained", trained) != trained or ("trained" not in state and self._held_out_by_rule):
            CONSOLE.print(
                "[yellow]The checkpoint was trained on other photos, or by a version that held out others: metrics of "
                "held-out photos may be of photos it has seen. Train again to measure it."
            )
        if all(index < len(self.train_dataset) for index in state["unseen"]):
            self.train_unseen_cameras = list(state["unseen"])
        if all(index < len(self.eval_dataset) for index in state["unseen_eval"]):
            self.eval_unseen_cameras = list(state["unseen_eval"])
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
