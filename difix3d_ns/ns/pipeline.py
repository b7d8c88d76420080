"""Splatfacto's pipeline with the fix rounds and the enhancer attached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.enhance.enhancer import Enhancer, FixerSettings
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.guidance.schedule import pause_refine_after_reset
from difix3d_ns.ns.datamanager import SceneDatamanager, SceneDatamanagerConfig
from difix3d_ns.ns.environment import Overrides, ignored_in_training
from difix3d_ns.ns.model import SplatModel, SplatModelConfig
from difix3d_ns.ns.reference_views import ReferenceViews, to_cameras, to_pinhole
from difix3d_ns.ns.viewer.panel import Panel
from difix3d_ns.splats.losses.depth import depth_loss
from difix3d_ns.splats.strategies.capped import CappedStrategy
from difix3d_ns.views.folders import POOL_FOLDER, RECORDS_FOLDER
from difix3d_ns.views.records import FixRecord, FixRecords

ENOUGH_POINTS = 1000
"""fewer, found by stereo alone, cover a scene worse than splatfacto's random ones"""
CLEARANCE = 0.5
"""Took away 0, 3 and some 100 Gaussians of finished captures (fox, demo scene, fountain), the last worth 1 dB; 0.9
takes surfaces away. Captures of many photographs do not need it, and have more cameras that could err."""
CLEARED_UP_TO = 64
"""photographs"""
LEAST_TRUST = 0.02
"""mean confidence of a pseudo-view below which its step goes to a photograph: a fixer that nobody can trust must not
take half of the training away either"""
_SHOWN_EVERY = 10
"""steps between updates of curves and viewer, as nerfstudio's own"""
_LOSS_MEMORY = 0.95
"""of the running means that are shown: some twenty steps"""


@dataclass
class TargetSettings:
    """Poses the rounds lead to."""

    kind: Literal["auto", "camera-path", "eval"] = "auto"
    """auto: between and somewhat beyond the training cameras; camera-path: a path saved in the viewer;
    eval: the evaluation poses, the paper's protocol (their pictures are not used, their poses are)"""
    camera_path: Path | None = None
    """JSON file saved in the viewer's Render tab, for kind camera-path"""
    count: int = 16
    """how many; measured on sparse captures, gains flatten between 12 and 24 and every view costs a fix per round"""
    beyond: float = 0.25
    """how far outside the outermost targets lie, in units of the training cameras' spacing"""


@dataclass
class GuidedPipelineConfig(VanillaPipelineConfig):
    """What diffusion-fixed training adds to splatfacto."""

    _target: type = field(default_factory=lambda: GuidedPipeline)
    datamanager: SceneDatamanagerConfig = field(default_factory=SceneDatamanagerConfig)
    model: SplatModelConfig = field(default_factory=SplatModelConfig)
    rounds: int | None = None
    """how often new pseudo-views are made; 0 = plain splatfacto (unset: 8 with CUDA, 2 on a CPU)"""
    stereo_points: int | None = None
    """points added to the initial ones before training, found by stereo among the training photographs
    (unset: 12000 on a CPU, 50000 with CUDA; 0 = none, as with --pipeline.rounds 0)"""
    clearance: float | None = None
    """Gaussians in a training camera's view and nearer to it than this share of the nearest given points it sees are
    removed throughout training: few photographs cannot tell them from what is behind; and no view, of any camera, shows
    what is nearer than that is for the nearest photograph
    (unset: 0.5 with up to 64 photographs; 0 = none, as with --pipeline.rounds 0)"""
    targets: TargetSettings = field(default_factory=TargetSettings)
    """where pseudo-views are wanted"""
    fixer: FixerSettings = field(default_factory=FixerSettings)
    """what repairs them"""
    enhance_rgb: bool = False
    """make the output rgb itself the enhanced picture; the plain render is then called raw"""
    pseudo_probability: float = 0.5
    """share of training steps that use a pseudo-view; half: on sparse captures they show most of what is missing"""
    pseudo_weight: float = 1.0
    """loss weight of a pseudo-view against 1 for a photograph; confidence already weighs it per pixel"""
    depth_weight: float = 0.0
    """loss weight of a pseudo-view's depth, as the fixer corrected it, against pseudo-weight for its picture;
    0 = depth is not taught"""
    pool_capacity: int = 256
    """most pseudo-views kept; at 960 x 640 one takes about 5 MB of memory"""


class GuidedPipeline(VanillaPipeline):
    """Draws photographs and pseudo-views, makes the latter in rounds, and enhances renders on demand."""

    config: GuidedPipelineConfig
    datamanager: SceneDatamanager
    model: SplatModel

    def __init__(self, config: GuidedPipelineConfig, device: str, **kwargs: Any) -> None:
        overrides = Overrides()
        if kwargs.get("grad_scaler") is None:  # only a trainer hands one in, and a training follows its flags alone
            overrides = Overrides.from_environment()
            config.fixer = overrides.of(config.fixer)
        elif ignored_in_training():
            CONSOLE.print(f"[yellow]{', '.join(ignored_in_training())}: no effect on training; give flags instead.")
        super().__init__(config, device, **kwargs)
        self.rounds: Any = None  # FixRounds while training with pseudo-views
        self._nearest: tuple[list[Pinhole], list[float]] | None = None
        self._photographs = ReferenceViews(self.datamanager, self.model)
        # its own: what somebody looks at must not change what is trained
        self._enhancer = Enhancer(config.fixer, ReferenceViews(self.datamanager, self.model), self.model)
        self.model.enhancer = self._enhancer
        self.model.enhance = overrides.enhance or ("rgb" if config.enhance_rgb else "key")
        self.panel = Panel(self._enhancer, self.model.enhance, self._photographs)
        self._fit_near_plane()
        self._losses: dict[str, torch.Tensor] = {}
        self._records: FixRecords | None = None

    def add_stereo_points(self) -> None:
        """Make the initial points denser by what photographs show of each other; before optimizers are built."""
        count = self.config.stereo_points
        if not count or self.model.config.random_init:
            return
        given = self.model.seed_points[0].to(self.model.device) if self.model.seed_points is not None else None
        if cap := self.model.config.max_gaussians:  # half of it is left to densification
            count = max(0, min(count, cap // 2 - (0 if given is None else len(given))))
        from rich.progress import track

        from difix3d_ns.geometry.stereo import LONG_SIDE, stereo_depths, stereo_points

        photographs = self._photographs.pictures(LONG_SIDE)
        depths = stereo_depths(photographs, given, lambda views: track(list(views), "Stereo among photographs"))
        positions, colours = stereo_points(photographs, depths, count)
        if given is None and len(positions) < ENOUGH_POINTS:
            CONSOLE.log(f"Stereo found only {len(positions)} points: training starts from random ones.")
            return
        CONSOLE.log(
            f"{len(positions)} initial points added to {0 if given is None else len(given)} by stereo "
            "(--pipeline.stereo-points)"
        )
        if len(positions):
            self.model.add_initial_points(positions, colours)

    def plan_rounds(self, first_step: int, total_steps: int, folder: Path) -> None:
        """Prepare the fix rounds of a training.

        Args:
            first_step: 0, or where a checkpoint of another method ended.
            total_steps: the step at which training ends.
            folder: where the pool is kept.

        Raises:
            UserError: the scene cannot have pseudo-views.
        """
        if not self.config.rounds:
            return
        from difix3d_ns.guidance.rounds import FixRounds
        from difix3d_ns.guidance.schedule import VIEWS_AT_ONCE, plan_rounds
        from difix3d_ns.views.pool import Pool

        model = self.config.model
        assert model.refine_every and model.reset_alpha_every and model.warmup_length is not None
        assert model.stop_split_at is not None and model.resolution_schedule
        if len(self.datamanager.train_dataset) < 2:
            raise UserError("pseudo-views need at least two training images; add some, or give --pipeline.rounds 0")
        if self.config.targets.kind == "camera-path" and self.config.targets.camera_path is None:
            raise UserError("--pipeline.targets.kind camera-path needs --pipeline.targets.camera-path FILE")
        reset_every = model.reset_alpha_every * model.refine_every
        schedule = plan_rounds(
            total_steps=total_steps,
            rounds=self.config.rounds,
            first_densification=model.warmup_length + model.refine_every,
            reset_every=reset_every if reset_every < total_steps and model.densification == "default" else 0,
            refine_stop=model.stop_split_at,
            resolution_full_step=model.resolution_schedule * model.num_downscales,
            views_per_round=self.config.targets.count * self.config.rounds,  # the last one refreshes all earlier views
            probability=self.config.pseudo_probability,
            weight=self.config.pseudo_weight,
            first_step=first_step,
            views_at_once=VIEWS_AT_ONCE[self.model.device.type],
        )
        if schedule.rounds < schedule.asked:
            CONSOLE.print(
                f"[yellow]Training has room for {schedule.rounds} of {schedule.asked} rounds "
                "(--pipeline.rounds, --max-num-iterations)."
            )
        targets = self._find_targets()  # a scene that cannot have any is told of now, not in the middle of training
        self.rounds = FixRounds(
            schedule,
            targets,
            self._photographs,
            self.model,
            self.config.fixer,
            Pool(self.config.pool_capacity, folder / POOL_FOLDER),
            keep_depth=self.config.depth_weight > 0,
            on_fix=self._remember,
        )
        self._records = FixRecords(folder / RECORDS_FOLDER)
        self.panel.attach(self.rounds, self.config.targets.count)
        self.config.fixer.load(self.model.device)  # unreadable weights are told of now as well
        self.datamanager.draw_pseudo_view = self._draw

    def _find_targets(self) -> list[Pinhole]:
        from difix3d_ns.views.targets import auto_targets, camera_path_targets

        targets = self.config.targets
        try:
            if targets.kind == "camera-path":
                assert targets.camera_path is not None
                return self._no_larger(camera_path_targets(targets.camera_path, targets.count))
            if targets.kind == "eval":
                CONSOLE.log("[yellow]Targets are the evaluation poses (--pipeline.targets.kind eval).")
                if not self.datamanager.eval_dataset:
                    raise UserError("--pipeline.targets.kind eval: the scene has no evaluation images; use kind auto")
                return [to_pinhole(camera) for camera in self._eval_cameras()]
            points = self.model.seed_points[0] if self.model.seed_points is not None else None
            return auto_targets(self._photographs.cameras(), points, targets.count, targets.beyond)
        except (ValueError, FileNotFoundError) as error:
            raise UserError(f"no poses for pseudo-views: {error} (--pipeline.rounds 0 trains without)") from error

    def _no_larger(self, targets: list[Pinhole]) -> list[Pinhole]:
        """A path is saved at the size of the video; training gains nothing from more pixels than photographs have."""
        bound = max(max(camera.width, camera.height) for camera in self._photographs.cameras())
        return [target.within(bound) for target in targets]

    def _eval_cameras(self) -> Sequence[Cameras]:
        assert self.datamanager.cached_eval is not None  # undistorting fixes the intrinsics
        cameras = self.datamanager.eval_dataset.cameras
        return [cameras[i : i + 1] for i in range(len(cameras))]

    def _remember(self, record: FixRecord) -> None:
        assert self._records is not None
        self._records.write(record)
        self.panel.remember(record)

    def _draw(self, step: int, generator: torch.Generator) -> tuple[Cameras, dict[str, Any]] | None:
        pool, schedule = self.rounds.pool, self.rounds.schedule
        if len(pool) == 0 or float(torch.rand((), generator=generator)) >= schedule.probability:
            return None
        view = pool.sample(generator)
        if float(view.confidence.float().mean()) < LEAST_TRUST:
            return None
        device = self.model.device
        batch = {"image": view.image, "confidence": view.confidence}
        if view.depth is not None and self.config.depth_weight > 0:
            trust = view.confidence if view.depth_confidence is None else view.depth_confidence
            batch |= {"depth": view.depth, "depth_confidence": trust}
        batch = {name: values.to(device, torch.float32) for name, values in batch.items()}
        return to_cameras(view.camera, device), {
            **batch,
            "pseudo_weight": schedule.weight(step, self.rounds.first_view),
        }

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        camera, batch = self.datamanager.next_train(step)
        with self.model.depth_in_training("depth" in batch):
            outputs = self._model(camera)
        weight = batch.get("pseudo_weight")
        metrics = self.model.get_metrics_dict(outputs, batch)
        if weight is not None:
            # What is not trusted is replaced by the render itself: it teaches nothing, and SSIM sees no cut-out edges
            # as it would under a mask on both pictures.
            batch["image"] = torch.lerp(outputs["rgb"].detach(), batch["image"], batch["confidence"])
        if isinstance(self.model.strategy, CappedStrategy):
            # densification is judged by photographs: its thresholds are made for their gradients
            self.model.strategy.counting = weight is None
        losses = self.model.get_loss_dict(outputs, batch, metrics)
        self._follow_loss("photographs" if weight is None else "pseudo-views", losses["main_loss"].detach())
        if weight is not None:
            # the curve of photographs stays readable: pseudo-views have their own
            metrics = {"pseudo_" + key if key == "psnr" else key: value for key, value in metrics.items()}
            losses["main_loss"] = losses["main_loss"] * weight
            if "depth" in batch:
                rendered = outputs["depth"], outputs["accumulation"]
                error = depth_loss(*rendered, batch["depth"], batch["depth_confidence"])
                losses["depth_loss"] = error * weight * self.config.depth_weight
        return outputs, losses, metrics

    def _follow_loss(self, name: str, loss: torch.Tensor) -> None:
        before = self._losses.get(name, loss)
        self._losses[name] = torch.lerp(loss, before, _LOSS_MEMORY)

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        trainer = attributes.trainer
        if trainer is not None:
            self._enhancer.training_lock = trainer.train_lock
        callbacks = super().get_training_callbacks(attributes)
        # after the model's: its step counter is then right
        callbacks.append(TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._before_step))
        if self._clearance() > 0:
            every = self.config.model.refine_every
            assert every is not None
            after = [TrainingCallbackLocation.AFTER_TRAIN_ITERATION]
            callbacks.append(TrainingCallback(after, self._clear_view, update_every_num_iters=every))
        return callbacks

    def _clearance(self) -> float:
        if self.config.clearance is not None:
            return self.config.clearance
        few = len(self.datamanager.train_dataset) <= CLEARED_UP_TO
        return CLEARANCE if self.config.rounds and few else 0.0

    def _free_depths(self) -> tuple[list[Pinhole], list[float]]:
        """Cameras of the photographs, and how deep the space in front of each is taken to be free; 0: not known."""
        if self._nearest is None:
            from difix3d_ns.splats.floaters import nearest_depths

            points = self.datamanager.train_dataparser_outputs.metadata.get("points3D_xyz")
            if points is None:
                return [], []
            cameras = self._photographs.given_cameras()  # as the points are given: a resumed training has no others
            self._nearest = cameras, [self._clearance() * depth for depth in nearest_depths(points, cameras)]
        return self._nearest

    def _fit_near_plane(self) -> None:
        """What floats where no photograph looks is still seen from between them, so it is not drawn from near by.

        On castle it turned held-out views black in one training of two: 3 dB of their mean.
        """
        if self._clearance() > 0 and (known := [depth for depth in self._free_depths()[1] if depth > 0]):
            self.model.near_plane = max(self.model.near_plane, min(known))

    def _clear_view(self, step: int) -> None:
        if step == 0:
            return
        from difix3d_ns.splats.floaters import floating_in_front

        floating = floating_in_front(self.model.means.detach(), *self._free_depths())
        if floating.any() and not floating.all():
            self.model.remove_gaussians(floating)

    def _before_step(self, step: int) -> None:
        if self.rounds is None:
            return
        self.rounds.before_step(step)
        self.show_progress(step)
        strategy = self.model.strategy
        if hasattr(strategy, "pause_refine_after_reset"):
            strategy.pause_refine_after_reset = pause_refine_after_reset(
                len(self.datamanager.train_dataset), len(self.rounds.pool), strategy.refine_every, strategy.reset_every
            )

    def show_progress(self, step: int, force: bool = False) -> None:
        """Bring viewer and curves up to date; between training steps.

        Args:
            step: of training.
            force: now, even if it was done a moment ago.
        """
        if self.rounds is None:
            return
        regular = step % _SHOWN_EVERY == 0 or force
        if not regular and not self.panel.has_news:
            return
        losses = {name: float(loss) for name, loss in self._losses.items()}
        if regular and losses and writer.is_initialized():
            writer.put_dict(name="Loss of", scalar_dict=losses, step=step)
        self.panel.update(step, losses, force)

    def training_state(self, step: int) -> dict[str, Any]:
        """What resuming at ``step`` needs beyond parameters and optimizers, as plain values and tensors."""
        state: dict[str, Any] = {
            "sampling": self.datamanager.sampling_state(),
            "strategy": dict(self.model.strategy_state),
        }
        if self.rounds is not None:
            state["rounds"] = self.rounds.state()
            self._photographs.forget()  # a resumed training renders them here, so this one does too
            state["pool"] = self.rounds.pool.state(checkpoint=step)
        return state

    def restore_training_state(self, state: dict[str, Any], source: Path, step: int) -> None:
        """Go on where ``training_state`` was taken.

        Args:
            state: what it returned.
            source: the folder of the training it was taken in; its pool is read from there.
            step: the first one of this training.
        """
        self.datamanager.restore_sampling(state["sampling"])
        self.model.strategy_state.update(
            {
                key: value.to(self.model.device) if isinstance(value, torch.Tensor) else value
                for key, value in state["strategy"].items()
            }
        )
        if self.rounds is not None and "rounds" in state:
            self.rounds.restore(state["rounds"])
            self.rounds.pool.restore(source / POOL_FOLDER, state["pool"])
            assert self._records is not None
            self._records.adopt(source / RECORDS_FOLDER, step)
            self.panel.recall(self._records)

    def forget_before(self, steps: Sequence[int]) -> None:
        """Let go of pool files that no kept checkpoint needs."""
        if self.rounds is not None:
            self.rounds.pool.prune(steps)
