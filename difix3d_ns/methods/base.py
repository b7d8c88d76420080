"""Base of all methods: splatfacto on any device, with the helps for sparse captures.

Imported by every ns-command, so nothing heavy is imported here.
"""

from __future__ import annotations

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from difix3d_ns.guidance.base import GuidanceConfig
from difix3d_ns.ns.datamanager import SceneDatamanagerConfig
from difix3d_ns.ns.model import SplatModelConfig
from difix3d_ns.ns.pipeline import GuidedPipelineConfig
from difix3d_ns.ns.trainer import FittedAdamConfig, FittedDecayConfig, FusedAdamConfig, GuidedTrainerConfig
from difix3d_ns.ns.training_lines import TrainingLinesConfig


def splatfacto_with(name: str, guidance: GuidanceConfig) -> GuidedTrainerConfig:
    """Settings of a method, which may be changed.

    Args:
        name: of the method.
        guidance: how a prior teaches its splat.
    """
    return GuidedTrainerConfig(
        method_name=name,
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        steps_per_eval_batch=0,
        logging=LoggingConfig(local_writer=TrainingLinesConfig(enable=True)),
        mixed_precision=False,
        pipeline=GuidedPipelineConfig(
            datamanager=SceneDatamanagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
            ),
            model=SplatModelConfig(),
            guidance=guidance,
        ),
        # splatfacto's learning rates, and one of our own
        optimizers={
            "means": {"optimizer": FittedAdamConfig(eps=1e-15), "scheduler": FittedDecayConfig()},
            "features_dc": {"optimizer": _adam(0.0025), "scheduler": None},
            "features_rest": {"optimizer": _adam(0.0025 / 20), "scheduler": None},
            "opacities": {"optimizer": _adam(0.05), "scheduler": None},
            "scales": {"optimizer": _adam(0.005), "scheduler": None},
            "quats": {"optimizer": _adam(0.001), "scheduler": None},
            "camera_opt": {
                "optimizer": _adam(1e-4),
                "scheduler": FittedDecayConfig(lr_final=5e-7, warmup_steps=None, lr_pre_warmup=0),
            },
            "bilateral_grid": {
                "optimizer": _adam(2e-3),
                "scheduler": FittedDecayConfig(lr_final=1e-4, warmup_steps=None, lr_pre_warmup=0),
            },
            "exposure": {"optimizer": _adam(5e-3), "scheduler": FittedDecayConfig(lr_final=5e-4)},
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer+tensorboard",  # with the viewer alone nerfstudio neither evaluates nor keeps curves
    )


def _adam(lr: float) -> FusedAdamConfig:
    return FusedAdamConfig(lr=lr, eps=1e-15)
