"""A finished training by any method of nerfstudio, with the enhancer; nothing is trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from torch import Tensor

from difix3d_ns.enhance.enhancer import Enhancer, EnhancerSettings
from difix3d_ns.enhance.enhancer_config import EnhancerConfig
from difix3d_ns.errors import UserError
from difix3d_ns.io import checkpoints
from difix3d_ns.io.atomic import write_text
from difix3d_ns.ns.cameras import to_cameras, to_pinhole
from difix3d_ns.ns.config_paths import make_absolute
from difix3d_ns.ns.datamanager import SceneDatamanager, SceneDatamanagerConfig
from difix3d_ns.ns.environment import apply_environment
from difix3d_ns.ns.evaluated_pipeline import EvaluatedPipeline
from difix3d_ns.ns.opened_model import OpenedModel, OpenedModelConfig
from difix3d_ns.ns.patches.held_out_loader import compose_before
from difix3d_ns.ns.reference_views import ReferenceViews
from difix3d_ns.ns.rendering import ModelRenderer
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.ns.viewer.panel import Panel

_PROBE = 16
"""pixels of the long side of the picture by which a model's outputs are found"""


@dataclass
class OpenedPipelineConfig(VanillaPipelineConfig):
    """Settings of a finished training and of the enhancer."""

    _target: type = field(default_factory=lambda: OpenedPipeline)
    datamanager: SceneDatamanagerConfig = field(default_factory=SceneDatamanagerConfig)
    model: OpenedModelConfig = field(default_factory=OpenedModelConfig)
    enhancer: EnhancerConfig = field(default_factory=EnhancerConfig)
    """what repairs finished renders"""
    source: Path | None = None
    """config.yml of the training"""


@dataclass
class OpenedConfig(TrainerConfig):
    """Settings by which nerfstudio's commands open a finished training."""

    pipeline: OpenedPipelineConfig = field(default_factory=OpenedPipelineConfig)

    def write(self, state: dict[str, Any]) -> Path:
        """Write config.yml, and a checkpoint without what only training needs.

        Args:
            state: the checkpoint of the training.

        Returns:
            The config.yml.

        Raises:
            UserError: they cannot be written.
        """
        make_absolute(self)
        path = self.get_base_dir() / "config.yml"
        try:
            kept = {"step": state["step"], "pipeline": state["pipeline"]}
            checkpoints.save(kept, self.get_checkpoint_dir(), state["step"])
            write_text(path, yaml.dump(self))
        except OSError as error:
            raise UserError(f"cannot write to {self.get_base_dir()}: {error}; choose another --output") from error
        return path


class OpenedPipeline(EvaluatedPipeline):
    """Pipeline of a finished training whose renders are enhanced on demand."""

    config: OpenedPipelineConfig
    datamanager: SceneDatamanager
    model: OpenedModel

    def __init__(self, config: OpenedPipelineConfig, device: str, **kwargs: Any) -> None:
        config.datamanager._target = SceneDatamanager  # nerfstudio puts the method's own there
        # of how nerfstudio makes rays, which nobody who runs a command can change
        warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning, r"nerfstudio\.cameras")
        if config.enhancer.from_environment:
            apply_environment(config.enhancer)
        super().__init__(config, device, **kwargs)
        self.scene = TrainingScene(self.datamanager, self.model)
        self.renderer = ModelRenderer(self.model)
        references = ReferenceViews(self.scene, self.renderer)
        settings = EnhancerSettings(config.enhancer.fixer(), config.enhancer.strength)
        self.enhancer = Enhancer(settings, self.renderer, references)
        self.model.enhancer, self.model.enhance = self._enhance, config.enhancer.mode
        self.panel = Panel(self.scene, self.renderer, self.enhancer, config.enhancer.mode)
        compose_before(self.model.background_color)

    def _enhance(self, camera: Cameras, image: Tensor) -> Tensor:
        return self.enhancer.enhance(to_pinhole(camera), image.to(self.device), self)

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load the model, and find its outputs by a small picture.

        Raises:
            UserError: it does not fit its settings, or renders too little for the enhancer.
        """
        super().load_pipeline(loaded_state, step)
        self.eval()
        with torch.no_grad():
            self.model.get_outputs_for_camera(to_cameras(self.scene.unoptimized_camera(0).within(_PROBE)))
