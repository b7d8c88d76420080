"""Splatfacto on any device, with resume that works and an output that is computed only on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from gsplat.strategy.ops import remove
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModel, SplatfactoModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from difix3d_ns.enhance.enhancer_config import EnhanceMode
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.panorama import Panorama, nearest_in_faces
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.guidance.base import Window
from difix3d_ns.io.config_fields import check_at_least, fill_unset
from difix3d_ns.io.notices import once_per_machine
from difix3d_ns.io.run import Run, at_most
from difix3d_ns.io.transfers import sent
from difix3d_ns.metrics.perceptual import LazyLPIPS, PerceptualWeights, check_files, column
from difix3d_ns.ns.cameras import to_cameras
from difix3d_ns.ns.larger_views import LargerViews, reduced_outputs
from difix3d_ns.ns.panoramas import blend_outputs, panorama_of
from difix3d_ns.ns.patches.splatfacto_cpu import keep_on_cpu, near_plane, near_sphere
from difix3d_ns.ns.patches.splatfacto_metrics import light_metrics
from difix3d_ns.splats.exposure import Exposures
from difix3d_ns.splats.strategies.capped import CappedStrategy
from difix3d_ns.splats.strategies.fitness import Fitness
from difix3d_ns.splats.strategies.mcmc import (
    INITIAL_OPACITY,
    INITIAL_SCALE,
    OPACITY_REG,
    SCALE_REG,
    build_mcmc,
    regularization,
)

CPU_GAUSSIANS = 40_000
"""Enough for about a dozen photographs of 480 px; twice as many overfit them and cost twice the time."""
NEVER = 10**9
"""steps between resets where there are none"""
EXPOSURE_REG = 0.01
"""toward no change: decides only where a photograph shows what no other does"""


@dataclass
class SplatModelConfig(SplatfactoModelConfig):
    """Splatfacto's settings; those in steps follow ``--max-num-iterations`` unless given.

    The fractions are those of splatfacto's own 30,000 steps wherever a short run allows.
    """

    _target: type = field(default_factory=lambda: SplatModel)
    announced: ClassVar[dict[str, str]] = {"max_gs_num": "at most {} Gaussians"}
    warmup_length: int | None = None  # type: ignore[assignment]
    """steps before the first densification (unset: fitted to --max-num-iterations)"""
    refine_every: int | None = None  # type: ignore[assignment]
    """steps between densifications (unset: fitted to --max-num-iterations)"""
    resolution_schedule: int | None = None  # type: ignore[assignment]
    """steps after which the training resolution doubles (unset: fitted to --max-num-iterations)"""
    reset_alpha_every: int | None = None  # type: ignore[assignment]
    """densifications between opacity resets (unset: fitted to --max-num-iterations)"""
    sh_degree_interval: int | None = None  # type: ignore[assignment]
    """steps after which the next degree of spherical harmonics is added (unset: fitted to --max-num-iterations)"""
    stop_screen_size_at: int | None = None  # type: ignore[assignment]
    """step at which screen-size culling and splitting stops (unset: fitted to --max-num-iterations)"""
    stop_split_at: int | None = None  # type: ignore[assignment]
    """step at which densification stops (unset: fitted to --max-num-iterations)"""
    max_gs_num: int | None = None
    """most Gaussians densification may reach; 0 = no bound (unset: no bound with CUDA, a bound on a CPU)"""
    strategy: Literal["default", "mcmc"] = "default"
    """how Gaussians multiply. default: splatfacto's; mcmc: 3DGS as Markov chain Monte Carlo (Kheradmand et al. 2024),
    up to max_gs_num"""
    mcmc_opacity_reg: float | None = None
    """weight of the mean opacity of Gaussians in the loss, with either strategy (unset: 0.01 with mcmc, else 0)"""
    mcmc_scale_reg: float | None = None
    """weight of the mean size of Gaussians in the loss, with either strategy (unset: 0.01 with mcmc, else 0)"""
    lpips_weights: tuple[Path, ...] = ()
    """weight files of LPIPS with the file names used in torch's hub folder (unset: those there)"""
    fetch_lpips: bool = False
    """download the networks of LPIPS (AlexNet 233 MiB, VGG16 528 MiB) when an evaluation first needs them"""
    gaussian_dropout: float = 0.0
    """probability with which a Gaussian is left out of a training step (DropGaussian, Park et al. 2025)"""
    exposure: bool = False
    """learn an affine colour change per training photo, for captures whose exposure or white balance varies, from what
    photos whose depth is known show in common; the splat, its renders and made views keep the mean of all"""

    def fit(self, run: Run) -> None:
        """Fill in splatfacto's own numbers for its 30,000 steps, shrunk with the training where it is shorter."""
        start, steps = run.first_step, run.schedule_steps
        mcmc = self.strategy == "mcmc"
        fill_unset(
            self,
            max_gs_num=CPU_GAUSSIANS if run.on_cpu else 0,
            mcmc_opacity_reg=OPACITY_REG if mcmc else 0.0,
            mcmc_scale_reg=SCALE_REG if mcmc else 0.0,
            refine_every=at_most(steps / 40, 100),
            warmup_length=start + at_most(steps / 12, 500),
            stop_split_at=start + max(1, steps * 5 // 6 if mcmc else steps // 2),
            stop_screen_size_at=start + at_most(steps * 4 / 30, 4000),
            sh_degree_interval=at_most(steps / 30, 1000),
            resolution_schedule=at_most(steps / 10, 3000),
        )
        assert self.refine_every
        if start:  # Gaussians trained elsewhere: resets would undo that
            fill_unset(self, reset_alpha_every=max(1, run.last_step // self.refine_every + 1))
        else:  # every reset costs hundreds of steps until opacities are back: a short training has one
            fill_unset(self, reset_alpha_every=max(2, round(at_most(steps * 0.3, 3000) / self.refine_every)))

    def check(self, flag: str) -> None:
        """Raise a UserError that names the flag if a setting cannot work."""
        at_least_0 = ("max_gs_num", "mcmc_opacity_reg", "mcmc_scale_reg")
        at_least_1 = ("refine_every", "reset_alpha_every", "sh_degree_interval", "resolution_schedule")
        check_at_least(self, flag, dict.fromkeys(at_least_0, 0) | dict.fromkeys(at_least_1, 1))
        self.lpips_weights = tuple(file.absolute() for file in self.lpips_weights)
        check_files(self.lpips_weights, f"{flag}.lpips-weights")
        if not 0 <= self.gaussian_dropout < 1:
            raise UserError(f"{flag}.gaussian-dropout {self.gaussian_dropout}: at least 0 and below 1 is needed")
        if self.exposure and self.use_bilateral_grid:
            raise UserError(f"{flag}.exposure and {flag}.use-bilateral-grid explain the same: leave one out")

    def fitness(self, last_step: int, windows: Sequence[Window] = ()) -> Fitness:
        """Steps at which the splat is worth rendering, once the settings in steps are filled in.

        Args:
            last_step: at which training ends.
            windows: of densification; none: splatfacto's own.
        """
        assert self.refine_every and self.reset_alpha_every and self.warmup_length is not None
        assert self.stop_split_at is not None and self.resolution_schedule
        reset_every = self.reset_alpha_every * self.refine_every
        resets = reset_every < last_step and self.strategy == "default"
        full_resolution = self.resolution_schedule * self.num_downscales
        fitness = Fitness(
            fit_from=max(0, self.warmup_length + self.refine_every, full_resolution),
            reset_every=reset_every if resets else 0,
            refine_stop=max(0, self.stop_split_at),
        )
        if not windows:
            return fitness
        # before the first window it is splatfacto's own
        stretches = [Window(0, self.warmup_length, self.stop_split_at), *sorted(windows, key=lambda w: w.start)]
        ends = [*(window.start for window in stretches[1:]), last_step]
        used = [(window, end) for window, end in zip(stretches, ends, strict=True) if end > window.start]
        return replace(
            fitness,
            fit_from=max(used[0][0].densify_from + self.refine_every, full_resolution),
            resets=tuple((window.start, min(window.densify_to, end)) for window, end in used if window.reset),
        )


_chosen_background: ContextVar[Tensor | None] = ContextVar("chosen_background", default=None)


class Outputs(dict):
    """Outputs of a render of which some are computed on demand.

    nerfstudio reads outputs by key, so an output nobody reads costs nothing.

    Args:
        ready: those that are there.
        lazy: how to compute the others.
        camera: what was rendered.
        image: [H, W, 3] the render itself, whatever it is called.
    """

    def __init__(
        self, ready: Mapping[str, Any], lazy: Mapping[str, Callable[[], Tensor]], camera: Cameras, image: Tensor
    ) -> None:
        super().__init__(ready)
        self.camera = camera
        self.image = image
        self._lazy = dict(lazy)
        for key in lazy:
            super().__setitem__(key, None)

    def __getitem__(self, key: str) -> Any:
        if key in self._lazy:
            super().__setitem__(key, self._lazy[key]())
            del self._lazy[key]  # only now: what failed is tried again
        return super().__getitem__(key)

    def serve(self, compute: Callable[[], Tensor]) -> None:
        """Compute what is not computed yet in another way."""
        self._lazy = dict.fromkeys(self._lazy, compute)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        return ((key, self[key]) for key in self)

    def values(self) -> Iterator[Any]:  # type: ignore[override]
        return (self[key] for key in self)


class SplatModel(SplatfactoModel):
    """Splatfacto with the gaps closed that diffusion-fixed training needs."""

    config: SplatModelConfig
    enhancer: Callable[..., Tensor] | None = None
    """turns a camera and its render [H, W, 3] into the enhanced picture, and of a panorama each face by its number;
    set by the pipeline"""
    enhance: EnhanceMode = "key"
    """how it is shown; set by the pipeline"""
    near_plane: float = 0.01
    """nothing nearer to a camera is drawn, scene units; splatfacto's, until the pipeline knows the scene"""
    larger: LargerViews | None = None
    """held-out photos at the size the splat is meant to be rendered at, if that is larger; set by the pipeline"""
    _windows: Sequence[Window] = ()
    exposures: Exposures | None
    lpips: LazyLPIPS  # type: ignore[assignment]

    def populate_modules(self) -> None:
        colours = None
        if self.seed_points is not None and not self.config.random_init:
            positions, colours = self.seed_points
            # splatfacto puts seed colours on CUDA; and it trains on the very tensor it is given
            self.seed_points = (positions.clone(), colours[:0])

        weights = PerceptualWeights(self.config.lpips_weights, self.config.fetch_lpips)
        with light_metrics(weights):
            super().populate_modules()
        from difix3d_ns.splats.losses.ssim import FusedSSIM

        self.lpips_vgg = LazyLPIPS("vgg", once_per_machine(CONSOLE.log), weights)

        self.ssim = FusedSSIM()
        if colours is not None and colours.shape[0] > 0:
            rgb = colours.float() / 255
            sh = RGB2SH(rgb) if self.config.sh_degree > 0 else torch.logit(rgb, eps=1e-10)
            self.gauss_params["features_dc"] = nn.Parameter(sh)
        if colours is not None:
            self.seed_points = (positions, colours)
        if self.config.strategy == "mcmc":
            self.gauss_params["scales"].data += math.log(INITIAL_SCALE)
            self.gauss_params["opacities"].data[:] = math.log(INITIAL_OPACITY / (1 - INITIAL_OPACITY))
        self._build_strategy()
        self.exposures = Exposures(self.num_train_data) if self.config.exposure else None

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        groups: dict[str, list[nn.Parameter]] = super().get_param_groups()
        return groups | {"exposure": list(self.exposures.parameters())} if self.exposures is not None else groups

    def learn_exposures(self, affine: Tensor) -> None:
        """Learn exposures of the photographs; only before optimizers are built.

        Args:
            affine: [N, 3, 4] they start from; their mean is no change.
        """
        self.exposures = Exposures(self.num_train_data).to(self.device)
        self.exposures.residual.data = affine.to(self.device) - torch.eye(3, 4, device=self.device)

    def set_initial_points(self, positions: Tensor, colours: Tensor) -> None:
        """Start again from these points; only before optimizers hold the parameters.

        Args:
            positions: [N, 3] world.
            colours: [N, 3] uint8.
        """
        device, exposures = self.device, self.exposures
        self.seed_points = (positions.cpu(), colours.cpu())
        self.populate_modules()
        self.exposures = exposures
        self.to(device)

    def set_background(self, background_color: Tensor) -> None:
        """Set the colour [3] chosen in the viewer, for what the calling thread renders.

        The viewer renders in threads of its own: made views, references and metrics never have it.
        """
        _chosen_background.set(background_color)

    def _get_background_color(self) -> Tensor:  # [3]
        own: Tensor = super()._get_background_color()
        chosen = _chosen_background.get()
        return own if self.config.background_color != "random" or self.training or chosen is None else chosen.to(own)

    def get_empty_outputs(self, width: int, height: int, background: Tensor) -> dict[str, Any]:  # type: ignore[override]
        return SplatfactoModel.get_empty_outputs(width, height, self._get_background_color())

    def _build_strategy(self) -> None:
        cap = self.config.max_gs_num or None
        if self.config.strategy == "mcmc":
            self.strategy = build_mcmc(self.config, cap)
            self.strategy_state = self.strategy.initialize_state()
            return
        upstream = self.strategy
        settings = {name: getattr(upstream, name) for name in upstream.__dataclass_fields__}
        settings["verbose"] = False  # one line per densification drowns the progress display
        self.strategy = CappedStrategy(**settings, max_gs_num=cap)
        self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)

    @property
    def opacities(self) -> Tensor:  # [N, 1], logits
        logits = self.gauss_params["opacities"]
        p = self.config.gaussian_dropout
        if not (self.training and p > 0):
            return logits
        kept = (torch.rand_like(logits) >= p).to(logits.dtype)
        return torch.logit(torch.sigmoid(logits) * kept / (1 - p), eps=1e-6)

    def follow_windows(self, windows: Sequence[Window]) -> None:
        """Let Gaussians multiply in these windows instead of splatfacto's own.

        Args:
            windows: in order; none: splatfacto's own.
        """
        self._windows = sorted(windows, key=lambda window: window.start)

    def _enter_window(self, step: int) -> None:
        window = next((window for window in reversed(self._windows) if window.start <= step), None)
        if window is None:
            return
        self.strategy.refine_start_iter = window.densify_from - 1  # gsplat's is the last step before
        self.strategy.refine_stop_iter = window.densify_to
        if hasattr(self.strategy, "reset_every"):
            refine_every, own = self.config.refine_every or 1, self.config.reset_alpha_every or 1
            self.strategy.reset_every = own * refine_every if window.reset else NEVER

    def step_cb(self, optimizers: Optimizers, step: int) -> None:
        super().step_cb(optimizers, step)
        self._enter_window(step)  # before the step: the pause after a reset is set from its numbers

    def step_post_backward(self, step: int) -> None:
        if self.config.strategy != "mcmc":
            super().step_post_backward(step)
            return
        self.strategy.step_post_backward(
            params=self.gauss_params,
            optimizers=self.optimizers,
            state=self.strategy_state,
            step=step,
            info=self.info,
            lr=self.optimizers["means"].param_groups[0]["lr"],
        )

    def remove_gaussians(self, removed: Tensor) -> None:
        """Take Gaussians out, with their optimizer state; between training steps.

        Args:
            removed: [N] bool.
        """
        state = self.strategy_state if self.config.strategy == "default" else {}  # MCMC's has no row per Gaussian
        remove(params=self.gauss_params, optimizers=self.optimizers, state=state, mask=removed)

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        opacity_reg, scale_reg = self.config.mcmc_opacity_reg or 0.0, self.config.mcmc_scale_reg or 0.0
        if self.training and (opacity_reg or scale_reg):
            losses |= regularization(
                self.gauss_params["opacities"], self.gauss_params["scales"], opacity_reg, scale_reg
            )
        if self.training and self.exposures is not None and "image_idx" in batch:  # of a photograph
            losses["exposure_reg"] = EXPOSURE_REG * self.exposures.deviation()
        return losses

    def load_state_dict(self, dict: Mapping[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a checkpoint of this method or of plain splatfacto, into the Parameters the optimizers hold.

        splatfacto replaces them, after which resumed steps train nothing (facts: its ``load_state_dict``).
        """
        state = {key: value for key, value in dict.items() if not key.startswith("lpips.")}
        if self.exposures is not None:  # a checkpoint made without: they start as they are here
            state.setdefault("exposures.residual", self.exposures.residual.detach().clone())
        for name, parameter in self.gauss_params.items():
            if name in state:  # checkpoints of the first splatfacto
                state[f"gauss_params.{name}"] = state.pop(name)
            saved = state[f"gauss_params.{name}"]
            if name == "features_rest":  # of a splat with another number of harmonics
                missing = parameter.shape[1] - saved.shape[1]
                saved = torch.nn.functional.pad(saved, (0, 0, 0, max(0, missing)))[:, : parameter.shape[1]]
                state[f"gauss_params.{name}"] = saved
            parameter.data = torch.zeros(saved.shape, dtype=parameter.dtype, device=self.device)
        self.step = max(30000, (self.config.sh_degree_interval or 1000) * self.config.sh_degree)  # all SH degrees on
        return super(SplatfactoModel, self).load_state_dict(state, **kwargs)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Any]:
        """Render a camera as splatfacto does, but leave it where it is.

        On a GPU splatfacto asks it for ten numbers one by one, and waits for each.
        """
        self.set_crop(obb_box)
        return self.get_outputs(camera)

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:  # type: ignore[override]
        if not isinstance(camera, Cameras):
            return super().get_outputs(camera)
        panorama = None if self.training else panorama_of(camera)
        if panorama is not None:
            return self._panorama_outputs(camera, panorama)
        with near_plane(self.near_plane):
            outputs = self._perspective_outputs(camera)
        if not self.training:
            return self._with_enhanced(camera, outputs, self.enhancer)
        photograph = (camera.metadata or {}).get("cam_idx")  # pseudo-views have none
        if self.exposures is not None and photograph is not None:
            outputs["rgb"] = self.exposures(outputs["rgb"], photograph)
        return outputs

    def as_photographed(self, rgb: Tensor, photograph: int) -> Tensor:
        """Change a render as steps on a photograph change theirs: by its exposure or its bilateral grid.

        Args:
            rgb: [H, W, 3] in [0, 1].
            photograph: its number in the training set.
        """
        if self.config.use_bilateral_grid:
            rgb = self._apply_bilateral_grid(rgb[None], photograph, *rgb.shape[:2])[0]
        return rgb if self.exposures is None else self.exposures(rgb, photograph)

    def _perspective_outputs(self, camera: Cameras) -> dict[str, Any]:
        on_cpu = camera.camera_to_worlds.device.type == "cpu"
        return super().get_outputs(keep_on_cpu(camera) if on_cpu else camera)

    def _panorama_outputs(self, camera: Cameras, panorama: Panorama) -> dict[str, Any]:
        """Render what no perspective camera sees; its depth is the distance along the rays."""
        faces = panorama.faces()
        cameras = [to_cameras(face.camera) for face in faces]
        with near_plane(nearest_in_faces(self.near_plane)), near_sphere(self.near_plane):
            outputs = [self._perspective_outputs(camera) for camera in cameras]
        pictures = [found["rgb"] for found in outputs]
        enhancer = self.enhancer

        def enhanced(camera: Cameras, image: Tensor) -> Tensor:
            assert enhancer is not None
            each = zip(faces, cameras, pictures, strict=True)
            return panorama.blend(faces, [enhancer(seen, render, face.face) for face, seen, render in each]).clamp(0, 1)

        blended = blend_outputs(panorama, faces, outputs)
        return self._with_enhanced(camera, blended, enhanced if enhancer is not None else None)

    @contextmanager
    def depth_in_training(self, requested: bool) -> Iterator[None]:
        """Give training renders an expected depth [H, W, 1] meanwhile; it takes gradients."""
        before = self.config.output_depth_during_training
        self.config.output_depth_during_training = before or requested
        try:
            yield
        finally:
            self.config.output_depth_during_training = before

    def _with_enhanced(
        self, camera: Cameras, outputs: dict[str, Any], enhancer: Callable[[Cameras, Tensor], Tensor] | None
    ) -> dict[str, Any]:
        image = outputs["rgb"]
        if enhancer is None or self.enhance == "off":
            return outputs

        def enhanced() -> Tensor:
            # evaluation between steps holds a lock that others wait for
            return image if self.is_being_trained else enhancer(camera, image)

        # photographs show what was cropped away as well
        lazy = {"enhanced" if self.enhance == "key" else "rgb": enhanced}
        ready = outputs if self.enhance == "key" else {k: v for k, v in outputs.items() if k != "rgb"} | {"raw": image}
        if self.crop_box is not None:
            return ready | dict.fromkeys(lazy, image)
        return Outputs(ready, lazy, camera, image)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what is rendered outside training."""
        more = {"off": (), "key": ("enhanced",), "rgb": ("raw",)}[self.enhance if self.enhancer is not None else "off"]
        return ("rgb", "depth", "accumulation", "background", *more)

    def get_rgba_image(self, outputs: dict[str, Any], output_name: str = "rgb") -> Tensor:
        """Picture [H, W, 4] in [0, 1] with the splat's opacity as alpha, its colours free of the background."""
        alpha, picture = outputs["accumulation"], outputs[output_name]
        colours = (picture - (1 - alpha) * outputs["background"].to(picture)) / alpha.clamp_min(1e-4)
        return torch.cat([colours.clamp(0, 1), alpha], dim=-1)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Splatfacto's metrics and FLIP, and those of the enhanced picture as ``enhanced_*``.

        LPIPS names its network, ``lpips_alex`` and ``lpips_vgg``, and is left out where the weights are missing. VGG
        and the enhancer take too long for evaluation in the middle of a training and are left out there.

        A splat that is meant to be rendered larger than its photos is; that reduced is compared with the photo, and
        where all photos have larger originals and the training is over, it is compared with these as ``full_*``.
        """
        if self.larger is None:
            return self._metrics_and_images(outputs, batch)
        index = int(batch["image_idx"])
        large = self.get_outputs_for_camera(to_cameras(self.larger.camera(index)))
        keys = ["background", "rgb"] if self.is_being_trained else ["background", "rgb", "enhanced"]
        height, width = batch["image"].shape[:2]
        small = reduced_outputs(large, height, width, keys)
        metrics, images = self._metrics_and_images(small, batch)
        original = None if self.is_being_trained else self.larger.original(index)
        if original is not None:
            height, width = original.shape[:2]
            whole = reduced_outputs(large, height, width, keys[:2])
            truth = self.composite_with_background(original.to(self.device), whole["background"])
            metrics |= {f"full_{key}": value for key, value in self._distances(whole["rgb"], truth).items()}
            images["full"] = torch.cat([truth, whole["rgb"]], dim=1)
        return metrics, images

    def _distances(self, picture: Tensor, truth: Tensor) -> dict[str, float]:
        """PSNR, SSIM, FLIP, and LPIPS where weights are there."""
        from difix3d_ns.metrics.image import image_metrics

        lpips = {each.column: each.measure(picture, truth) for each in (self.lpips, self.lpips_vgg)}
        return image_metrics(picture, truth) | {key: value for key, value in lpips.items() if not math.isnan(value)}

    def _metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of pictures at the photo's size."""
        from difix3d_ns.metrics.image import image_metrics, mean_flip

        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        metrics = {key.replace("lpips", column("alex")): value for key, value in metrics.items()}
        truth = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        metrics["flip"] = mean_flip(outputs["rgb"], truth)
        if not self.is_being_trained:
            metrics[self.lpips_vgg.column] = self.lpips_vgg.measure(outputs["rgb"], truth)
        if "enhanced" in outputs and not self.is_being_trained:
            enhanced = outputs["enhanced"]
            metrics |= {f"enhanced_{key}": value for key, value in image_metrics(enhanced, truth).items()}
            for lpips in (self.lpips, self.lpips_vgg):
                metrics[f"enhanced_{lpips.column}"] = lpips.measure(enhanced, truth)
            images["enhanced"] = torch.cat([truth, enhanced], dim=1)
        return {key: value for key, value in metrics.items() if not math.isnan(value)}, images

    @property
    def is_being_trained(self) -> bool:
        """Return whether a trainer steps this model; evaluation in between leaves the enhancer out for speed."""
        return hasattr(self, "optimizers")

    @torch.no_grad()
    def median_depth(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Render the depth where transmittance falls below one half.

        Args:
            camera: OpenCV axes, scene units.

        Returns:
            (depth [H, W, 1] along z, 0 where nothing is; accumulated opacity [H, W, 1]).
        """
        from difix3d_ns.rasterization import median_depth

        depth, alpha = median_depth(
            self.means,
            self.quats,
            torch.exp(self.scales),
            torch.sigmoid(self.gauss_params["opacities"]).squeeze(-1),
            sent(torch.linalg.inv(camera.camera_to_world.cpu()), self.device)[None],  # there it would wait
            sent(camera.intrinsics, self.device)[None],
            camera.width,
            camera.height,
            near_plane=self.near_plane,
            rasterize_mode=self.config.rasterize_mode,
        )
        return depth[0], alpha[0]

    @torch.no_grad()
    def surface_depth(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Render the depth of the splat's surface, on the CPU on every device; see ``rasterization.surface_depth``.

        Args:
            camera: OpenCV axes, scene units.

        Returns:
            (depth [H, W, 1] along z, 0 where nothing is; accumulated opacity [H, W, 1]), on the CPU.
        """
        from difix3d_ns.rasterization import surface_depth

        camera, shape = camera.to("cpu", torch.float32), self.gauss_params
        depth, alpha = surface_depth(
            shape["means"].detach().cpu(),
            shape["quats"].detach().cpu(),
            shape["scales"].detach().cpu().exp(),
            shape["opacities"].detach().cpu().sigmoid().squeeze(-1),
            torch.linalg.inv(camera.camera_to_world)[None],
            camera.intrinsics[None],
            camera.width,
            camera.height,
            self.near_plane,
            self.config.rasterize_mode,
        )
        return depth[0], alpha[0]
