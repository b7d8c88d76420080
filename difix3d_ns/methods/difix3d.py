"""The methods nerfstudio finds; imported by every ns-command, so nothing heavy is imported here."""

from __future__ import annotations

import torch
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.types import MethodSpecification

from difix3d_ns.apps.doctor import explain_missing_ffmpeg
from difix3d_ns.errors import tell_user_errors_plainly
from difix3d_ns.io.checkpoints import allow_numpy_scalars
from difix3d_ns.ns.datamanager import SceneDatamanagerConfig
from difix3d_ns.ns.model import SplatModelConfig
from difix3d_ns.ns.pipeline import GuidedPipelineConfig
from difix3d_ns.ns.trainer import FittedAdamConfig, FittedDecayConfig, FusedAdamConfig, GuidedTrainerConfig

allow_numpy_scalars()
tell_user_errors_plainly()
explain_missing_ffmpeg()


def _adam(lr: float) -> FusedAdamConfig:
    return FusedAdamConfig(lr=lr, eps=1e-15)


difix3d_splatfacto = MethodSpecification(
    config=GuidedTrainerConfig(
        method_name="difix3d-splatfacto",
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        steps_per_eval_batch=0,
        mixed_precision=False,
        pipeline=GuidedPipelineConfig(
            datamanager=SceneDatamanagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
            ),
            model=SplatModelConfig(),
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
    ),
    description="Splatfacto with pseudo-views repaired by a single-step diffusion model (Difix3D+).",
)
