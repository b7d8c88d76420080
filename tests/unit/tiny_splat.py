"""A model of a few Gaussians, without a scene, and a camera that sees them."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import SceneBox

from difix3d_ns.ns.model import SplatModel, SplatModelConfig

STEPS = {
    "warmup_length": 10,
    "refine_every": 5,
    "resolution_schedule": 100,
    "reset_alpha_every": 30,
    "sh_degree_interval": 10,
    "stop_screen_size_at": 50,
    "stop_split_at": 100,
    "num_downscales": 0,
}


def tiny_model(count: int = 30, seed: int = 0, colours: bool = True, **settings: Any) -> SplatModel:
    random = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=random) * 0.4
    rgb = torch.randint(0, 256, (count if colours else 0, 3), generator=random)
    model = SplatModel(
        SplatModelConfig(**{**STEPS, **settings}),
        scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])),
        num_train_data=3,
        seed_points=(points, rgb),
    )
    model.optimizers = {}
    return model


def tiny_camera(width: int = 40, height: int = 30) -> Cameras:
    pose = torch.eye(4)[:3]
    pose[2, 3] = 3.0
    return Cameras(pose[None], 40.0, 40.0, width / 2, height / 2, width, height, camera_type=CameraType.PERSPECTIVE)
