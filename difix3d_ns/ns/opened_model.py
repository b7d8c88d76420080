"""A finished model of any method of nerfstudio, with an enhanced output; nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.enhance.enhancer_config import EnhanceMode
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.io.notices import once_per_machine
from difix3d_ns.metrics.perceptual import LazyLPIPS
from difix3d_ns.ns.batches import unit_range
from difix3d_ns.ns.cameras import to_cameras
from difix3d_ns.ns.model import Outputs
from difix3d_ns.ns.patches.splatfacto_metrics import light_metrics

NEEDED = ("rgb", "accumulation", "depth")
"""outputs that the enhancer needs of a model"""
_MIN_ALPHA = 0.5
"""below, there is no median depth: a ray passes without meeting half of what would stop it"""
_METRICS = "lpips."
"""beginning of what metrics keep in a checkpoint, in which they have no part"""


@dataclass
class OpenedModelConfig(ModelConfig):
    """Settings of a finished model."""

    _target: type = field(default_factory=lambda: OpenedModel)
    trained: ModelConfig = field(default_factory=ModelConfig)
    """settings that it was trained with"""


class OpenedModel(Model):
    """Model whose renders get an output more, ``enhanced``; all else is that of the model that was trained."""

    config: OpenedModelConfig
    trained: Model
    enhancer: Callable[[Cameras, Tensor], Tensor] | None = None
    """turns a camera and its render [H, W, 3] into the enhanced picture; set by the pipeline"""
    enhance: EnhanceMode = "key"
    """how it is shown; set by the pipeline"""
    larger = None
    """see ``SplatModel.larger``"""
    step: int = 0
    """step of training that it was saved at"""

    def populate_modules(self) -> None:
        import torchmetrics.functional  # noqa: F401  (models import from it inside the block, where it lacks pictures)

        settings = self.config.trained
        settings.eval_num_rays_per_chunk = self.config.eval_num_rays_per_chunk
        with light_metrics():
            self.trained = settings.setup(scene_box=self.scene_box, num_train_data=self.num_train_data, **self.kwargs)
        self._off = CameraOptimizerConfig(mode="off").setup(num_cameras=self.num_train_data, device="cpu")
        self._distances = [LazyLPIPS(net, once_per_machine(CONSOLE.log)) for net in ("alex", "vgg")]
        self._names: tuple[str, ...] = NEEDED

    # ------------------------------------------------------------------ what the scene and the viewer use

    @property
    def camera_optimizer(self) -> CameraOptimizer:
        """Correction of the training poses, as it was learned."""
        return getattr(self.trained, "camera_optimizer", self._off)

    @property
    def background_color(self) -> Tensor:
        """Colour [3] behind what is transparent: the model's, or black."""
        white = getattr(self.config.trained, "background_color", "black") == "white"
        return torch.full((3,), float(white), device=self.device)

    @property
    def seed_points(self) -> tuple[Tensor, Tensor] | None:
        """Points that a training starts from, which is over."""
        return None

    def composite_with_background(self, image: Tensor, background: Tensor) -> Tensor:
        """Put a picture [H, W, 4] before a colour [3]; [H, W, 3] stays as it is."""
        if image.shape[-1] == 3:
            return image
        return torch.lerp(background.to(image).expand_as(image[..., :3]), image[..., :3], image[..., 3:])

    def get_gt_img(self, image: Tensor) -> Tensor:
        """Return a photo [H, W, 3 or 4] in [0, 1] on the model's device."""
        return unit_range(image.to(self.device))

    def get_param_groups(self) -> dict[str, Any]:
        """Return nothing: nothing is trained."""
        return {}

    def train(self, mode: bool = True) -> OpenedModel:
        """Leave the trained model as it is evaluated: it would sample at random, and correct poses."""
        super().train(mode)
        self.trained.eval()
        return self

    def update_to_step(self, step: int) -> None:
        """Note the step that a checkpoint was saved at."""
        self.step = step
        self.trained.update_to_step(step)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what the model was saved with.

        Raises:
            UserError: it does not fit the settings.
        """
        state = {key: values for key, values in state_dict.items() if not key.startswith(_METRICS)}
        try:
            return self.trained.load_state_dict(state, strict=True, assign=assign)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"the checkpoint does not fit its config.yml: {reason}. If the photos of --data are others than those "
                "trained on, leave --data out; tiny-cuda-nn has to be installed if it was when the model was trained"
            ) from error

    # ------------------------------------------------------------------ rendering

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Any]:
        """Render a camera as the trained model does, and offer the enhanced picture of a perspective one."""
        outputs = self.trained.get_outputs_for_camera(camera.to(self.device), obb_box=obb_box)
        self._check(outputs)
        self._names = tuple(outputs)
        if self.enhancer is None or self.enhance == "off":
            return outputs
        image, enhancer = outputs["rgb"], self.enhancer
        ready = outputs if self.enhance == "key" else {k: v for k, v in outputs.items() if k != "rgb"} | {"raw": image}
        name = "enhanced" if self.enhance == "key" else "rgb"
        plain = obb_box is not None or int(camera.camera_type.flatten()[0]) != CameraType.PERSPECTIVE.value
        if plain:  # photographs show what was cropped away as well; of panoramas no depth along z is known
            return ready | {name: image}
        return Outputs(ready, {name: lambda: enhancer(camera, image)}, camera, image)

    def get_outputs(self, ray_bundle: Any) -> dict[str, Any]:
        """Render rays or a camera as the trained model does."""
        return self.trained.get_outputs(ray_bundle)

    def get_rgba_image(self, outputs: dict[str, Any], output_name: str = "rgb") -> Tensor:
        """Return what the trained model makes of a picture [H, W, 4]."""
        return self.trained.get_rgba_image(outputs, output_name)

    def _check(self, outputs: Mapping[str, Any]) -> None:
        if missing := [name for name in NEEDED if name not in outputs]:
            raise UserError(
                f"this method renders {', '.join(outputs)}, and the enhancer needs {', '.join(missing)} as well: it "
                "cannot be opened; look at it with its own ns-viewer"
            )

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what is rendered."""
        more = {"off": (), "key": ("enhanced",), "rgb": ("raw",)}[self.enhance if self.enhancer is not None else "off"]
        return (*self._names, *more)

    @torch.no_grad()
    def median_depth(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Render the median depth of a camera.

        Args:
            camera: OpenCV axes, scene units.

        Returns:
            (depth [H, W, 1] along z, 0 where nothing is; accumulated opacity [H, W, 1]).
        """
        outputs = self.trained.get_outputs_for_camera(to_cameras(camera).to(self.device))
        self._check(outputs)
        depth, alpha = (outputs[name].to(self.device) for name in ("depth", "accumulation"))
        if type(self.trained).get_outputs_for_camera is Model.get_outputs_for_camera:  # of rays: the distance
            depth = depth * _slants(camera).to(depth)
        return torch.where(alpha >= _MIN_ALPHA, depth, 0.0), alpha

    # ------------------------------------------------------------------ metrics

    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of a held-out photo, those of ``SplatModel``: of the render, and of the enhanced picture."""
        from difix3d_ns.metrics.image import image_metrics

        truth = self.composite_with_background(self.get_gt_img(batch["image"]), self.background_color)
        metrics: dict[str, float] = {}
        images: dict[str, Tensor] = {}
        for prefix, name in (("", "rgb"), ("enhanced_", "enhanced")):
            if name not in outputs:
                continue
            picture = outputs[name].to(truth)
            found = image_metrics(picture, truth)
            found |= {lpips.column: lpips.measure(picture, truth) for lpips in self._distances}
            metrics |= {prefix + key: value for key, value in found.items() if not math.isnan(value)}
            images["img" if not prefix else "enhanced"] = torch.cat([truth, picture], dim=1)
        return metrics, images


def _slants(camera: Pinhole) -> Tensor:  # [H, W, 1]
    """Cosines between the rays of a camera and its axis: depth along z over distance."""
    columns = torch.arange(camera.width, dtype=torch.float64) + 0.5
    rows = torch.arange(camera.height, dtype=torch.float64) + 0.5
    k = camera.intrinsics.double().cpu()
    x, y = (columns - k[0, 2]) / k[0, 0], (rows - k[1, 2]) / k[1, 1]
    return (x[None, :].square() + y[:, None].square() + 1).rsqrt()[..., None]
