"""Splatfacto's pipeline with a guidance, helps for sparse captures, and the enhancer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.registry import discover_methods
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.enhance.enhancer import Enhancer, EnhancerSettings
from difix3d_ns.enhance.enhancer_config import EnhancerConfig
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resize import resized
from difix3d_ns.guidance.base import Guidance, GuidanceConfig
from difix3d_ns.initialization.depth_points import check_scale, depth_points, seen_through
from difix3d_ns.initialization.depth_records import ABOUT_DEPTHS, record_depth
from difix3d_ns.initialization.estimated_depths import LONG_SIDE, WITHIN, PhotoDepthConfig, estimate_depths, photo_depth
from difix3d_ns.initialization.matched_exposures import MIN_SPREAD, match_exposures
from difix3d_ns.initialization.stereo_points import MIN_POINTS, InitialPointsConfig, stereo_cloud, stereo_room
from difix3d_ns.io.progress import counted_down
from difix3d_ns.io.run import Run
from difix3d_ns.io.transfers import moved
from difix3d_ns.ns.batches import photo_view, to_batch, unit_range
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.cuda_kernels import load_kernels
from difix3d_ns.ns.datamanager import SceneDatamanager, SceneDatamanagerConfig
from difix3d_ns.ns.dataparsers.photo_orbit import is_single_photo
from difix3d_ns.ns.earlier_versions import earlier_version
from difix3d_ns.ns.environment import apply_environment, ignored_in_training
from difix3d_ns.ns.evaluated_pipeline import EvaluatedPipeline
from difix3d_ns.ns.larger_views import LargerViews
from difix3d_ns.ns.loss_means import LossMeans
from difix3d_ns.ns.model import SplatModel, SplatModelConfig
from difix3d_ns.ns.patches.camera_paths import expect_splats
from difix3d_ns.ns.patches.exports import write_frame_beside
from difix3d_ns.ns.patches.held_out_loader import compose_before
from difix3d_ns.ns.reference_views import ReferenceViews
from difix3d_ns.ns.rendering import SplatRenderer
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.ns.viewer.panel import Panel
from difix3d_ns.splats.floaters import FloatersConfig, FreeSpace
from difix3d_ns.splats.losses.log_depth import depth_loss
from difix3d_ns.splats.strategies.capped import CappedStrategy
from difix3d_ns.splats.strategies.fitness import pause_after_reset
from difix3d_ns.views.folders import DEPTHS_FOLDER
from difix3d_ns.views.protocols import PhotoDepth, PointCloud
from difix3d_ns.views.records import ViewRecords
from difix3d_ns.views.view import TrainView

_COMPARED = 64
"""photographs whose exposures are compared, if none is to be learned"""
_SHOWN_AGE = {"cpu": 200, "cuda": 2000}
"""training steps for which the enhancer in the viewer keeps what references show: rendered again every few seconds,
they would slow the training that somebody watches"""


@dataclass
class GuidedPipelineConfig(VanillaPipelineConfig):
    """Splatfacto's pipeline settings and what is added to them."""

    _target: type = field(default_factory=lambda: GuidedPipeline)
    datamanager: SceneDatamanagerConfig = field(default_factory=SceneDatamanagerConfig)
    model: SplatModelConfig = field(default_factory=SplatModelConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    """how a prior teaches the splat"""
    sparse_helps: bool = True
    """helps for captures of few photos: depth that came with them, initial points by stereo, floater pruning, near
    plane; False switches all of them off, which leaves splatfacto as it is"""
    initial_points: InitialPointsConfig = field(default_factory=InitialPointsConfig)
    """points that training starts from"""
    depth: PhotoDepthConfig = field(default_factory=PhotoDepthConfig)
    """depth of training photos"""
    floaters: FloatersConfig = field(default_factory=FloatersConfig)
    """what is done against Gaussians that float in front of the cameras"""
    enhancer: EnhancerConfig = field(default_factory=EnhancerConfig)
    """what repairs finished renders, in the viewer and in ns-render"""

    def fit(self, run: Run) -> None:
        """Switch the helps off if that is requested; before they are fitted themselves."""
        if not self.sparse_helps:
            self.initial_points.stereo, self.floaters.min_depth = 0, 0.0
            self.initial_points.depth, self.depth.weight, self.depth.name = 0, 0.0, "none"

    def check(self, flag: str) -> None:
        """Raise a UserError if a help is requested and switched off, or the scene is one photo for another method."""
        data = self.datamanager.data or getattr(self.datamanager.dataparser, "data", None)
        if is_single_photo(data) and not self.guidance.serves_one_photo:
            raise UserError(
                f"{data} is one photo, and this method learns from photos of several sides: train "
                f"{' or '.join(_methods_of_one_photo())}, which makes frames of the other sides, or give the folder of "
                "a scene"
            )
        if self.sparse_helps:
            return
        given = {
            "initial-points.stereo": self.initial_points.stereo,
            "initial-points.depth": self.initial_points.depth,
            "depth.name": None if self.depth.name == "none" else self.depth.name,
            "depth.weight": self.depth.weight,
            "floaters.min-depth": self.floaters.min_depth,
        }
        for name, value in given.items():
            if value:
                raise UserError(
                    f"{flag}.sparse-helps False switches off what {flag}.{name} {value} requests: leave one of them out"
                )


def _methods_of_one_photo() -> list[str]:
    """Names of the installed methods that a single photograph is enough for."""
    pipelines = {name: config.pipeline for name, config in discover_methods()[0].items()}
    return [
        name
        for name, pipeline in pipelines.items()
        if isinstance(pipeline, GuidedPipelineConfig) and pipeline.guidance.serves_one_photo
    ]


class _Sequence:
    """Caller of the enhancer whose frames follow each other."""


class GuidedPipeline(EvaluatedPipeline):
    """Pipeline in which a guidance decides what each step learns from, and renders are enhanced on demand."""

    config: GuidedPipelineConfig
    datamanager: SceneDatamanager
    model: SplatModel

    def __init__(self, config: GuidedPipelineConfig, device: str, **kwargs: Any) -> None:
        trains = kwargs.get("grad_scaler") is not None  # only a trainer hands one in
        if not trains:
            if hasattr(config.floaters, "clearance"):  # min_depth by its former name: the near plane would be lost
                raise earlier_version()
            if torch.device(device).type == "cuda":
                load_kernels("CUDA_VISIBLE_DEVICES= before the command")
            if config.enhancer.from_environment:
                apply_environment(config.enhancer)
        elif ignored_in_training():  # a training follows its flags alone
            CONSOLE.print(f"[yellow]{', '.join(ignored_in_training())}: no effect on training; give flags instead.")
        super().__init__(config, device, **kwargs)
        self._stand_before_the_scenes_colour()
        self.view_generator = torch.Generator().manual_seed(config.datamanager.train_cameras_sampling_seed + 1)
        """the one guidance draws from"""
        self.guidance: Guidance = config.guidance.setup()
        self.scene = TrainingScene(self.datamanager, self.model)
        self.between_pieces: Callable[[int], None] = lambda step: None
        """called between pieces of work that cannot wait; the trainer's, which lets others have its lock"""
        self.before_steps: Callable[[int], None] = lambda step: None
        """called before each step; the trainer's, which may end there"""
        self.free = FreeSpace([], [])
        """space in front of the cameras in which nothing is"""
        self._last_step, self._estimated_in = 0, 0.0
        self._losses = LossMeans()
        self._made_views: str | None = None
        # its own renderer and references: what is shown must not change what is trained
        self.renderer = SplatRenderer(self.model)
        fixer = config.enhancer.fixer(config.guidance.fixer_config)
        references = ReferenceViews(self.scene, self.renderer, _SHOWN_AGE[self.renderer.device.type])
        self.enhancer = Enhancer(EnhancerSettings(fixer, config.enhancer.strength), self.renderer, references)
        self._sequences: dict[int, _Sequence] = {}
        self.model.enhancer, self.model.enhance = self._enhance, config.enhancer.mode
        self._size_evaluation()
        self.panel = Panel(self.scene, self.renderer, self.enhancer, config.enhancer.mode)
        if not trains:  # else once all settings are fitted
            self._find_free_space()
            compose_before(self.model.background_color)
            expect_splats()
            write_frame_beside(SplatFrame.of(self.datamanager.train_dataparser_outputs))

    def _stand_before_the_scenes_colour(self) -> None:
        """Use the colour on which a scene has its photos laid, as NeRF's synthetic scenes have, unless one is given."""
        colour, model = self.datamanager.train_dataparser_outputs.alpha_color, self.model
        name = {(1.0, 1.0, 1.0): "white", (0.0, 0.0, 0.0): "black"}.get(
            () if colour is None else tuple(colour.tolist())
        )
        if name is not None and model.config.background_color == "random":
            assert colour is not None
            model.config.background_color = name  # type: ignore[assignment]
            model.background_color = colour.to(model.device)

    # ------------------------------------------------------------------ before training

    def begin(self, run: Run, with_points: bool) -> None:
        """Prepare a training, before its optimizers are built.

        Args:
            run: the training.
            with_points: whether initial points are searched and the guidance is set up; not if the splat comes from a
                checkpoint, which is loaded later: see ``set_up_guidance``.

        Raises:
            UserError: the scene cannot be trained on so.
        """
        self._check_enhancer()
        self._find_free_space()
        self._check_measured_depth(run)
        self._estimate_depth(run, with_points)
        self._record_depth(run)
        self._match_exposures(run)
        self.model.follow_windows(self.guidance.windows(run))
        if not with_points:
            return
        if not (self._add_depth_points(run) and self.config.initial_points.stereo_by_default):
            self._add_stereo_points(run)
        self.set_up_guidance(run)

    def set_up_guidance(self, run: Run) -> None:
        """Prepare the guidance for a training, once the splat it starts from is there.

        Raises:
            UserError: the scene cannot be trained on so.
        """
        fitness = self.config.model.fitness(run.last_step, self.guidance.windows(run))
        renderer = SplatRenderer(self.model, fitness.at)
        self.guidance.setup(self.scene, renderer, ReferenceViews(self.scene, renderer), run)
        self._size_evaluation()  # some factors are known only now

    def _size_evaluation(self) -> None:
        """Have held-out photos rendered at the size that the guidance makes the splat for."""
        factor, photos = self.config.guidance.factor or 1.0, self.datamanager.eval_dataset
        self.model.larger = LargerViews(photos, factor) if factor > 1 else None

    def _check_enhancer(self) -> None:
        """Try a fixer of the enhancer's own before training, not after it."""
        config = self.config.enhancer
        if config.mode != "off" and (config.name or config.weights):
            self.enhancer.settings.fixer.load(self.model.device, "--pipeline.enhancer")

    def _check_measured_depth(self, run: Run) -> None:
        """Read the depth that came with the photographs, if it is used, and compare it with the scene's points.

        Raises:
            UserError: it cannot be read, or they disagree.
        """
        if not self._uses_depth() or not self.scene.depths.count:
            return
        for index in range(len(self.scene)):
            self.scene.depth(index)
        if (points := self.scene.given_points()) is not None:
            check_scale(self.scene, points, self.scene.depths.unit, run.tracker.log)

    def _uses_depth(self) -> bool:
        return bool(self.config.initial_points.depth or self.config.depth.weight)

    def _estimate_depth(self, run: Run, with_points: bool) -> None:
        """Have the depth of all photographs estimated, if anything is going to be made of it.

        A resumed training that learns from it has it estimated again, from the same photographs.

        Raises:
            UserError: the prior cannot be loaded.
        """
        self._last_step = run.last_step
        config, brought = self.config.depth, 2 * self.scene.depths.count >= len(self.scene)
        if config.by_default and brought:
            config.name = "none"  # a resumed training takes it over
        drawn = with_points and self.config.initial_points.depth
        matched = self.model.config.exposure and not run.resumed
        if not (drawn or matched or self.config.floaters.see_through or (config.weight and config.fade)):
            return
        prior = config.load(self.model.device)
        if prior is None:
            return
        photos = [
            replace(self.scene.photo(index), camera=self.scene.unoptimized_camera(index)).within(LONG_SIDE)
            for index in range(len(self.scene))
        ]
        started = time.perf_counter()
        with counted_down("Depth of photos", CONSOLE) as on_step:
            found = estimate_depths(photos, self.scene.given_points(), prior, on_step)
        self.scene.estimates = [moved(photo_depth(one), self.model.device) for one in found]
        self._estimated_in = (time.perf_counter() - started) / len(photos)
        mean = torch.cat([one.chance(WITHIN).flatten() for one in found]).mean()
        run.tracker.log(
            f"Depth of {len(photos)} photos estimated; within 2 % with a mean probability of {float(mean):.2f} "
            "(--pipeline.depth.name)"
        )

    def _record_depth(self, run: Run) -> None:
        """Keep pictures of the depth that is used, of photographs evenly."""
        if not self._uses_depth():
            return
        records = ViewRecords(run.folder / DEPTHS_FOLDER, ABOUT_DEPTHS)
        names, count = self.scene.names(), len(self.scene)
        for index in range(0, count, -(-count // ABOUT_DEPTHS.most)):
            if (found := self.scene.depth(index)) is not None:
                photo = self.scene.photo(index).image
                records.write(record_depth(index, names[index], photo, found, self._estimated_in, run.first_step))

    def _match_exposures(self, run: Run) -> None:
        """Start exposures, if they are learned, from what photographs agree on; else say where they differ."""
        config, known = self.model.config, self.scene.estimates or self.scene.depths.count
        if run.resumed or config.use_bilateral_grid or not (self._uses_depth() and known):
            return
        found = match_exposures(self.scene) if config.exposure else match_exposures(self.scene, _COMPARED)
        if found is None:
            return
        if config.exposure:
            self.model.learn_exposures(found.affine)
        if found.spread < MIN_SPREAD:
            return
        learned = "One is learned" if config.exposure else "Give --pipeline.model.exposure True to learn one"
        run.tracker.log(
            f"Exposure differs between photos: the same surface by {100 * found.spread:.1f} % of white. {learned} for "
            "each photo."
        )

    def _add_depth_points(self, run: Run) -> bool:
        """Add points from the depth of the photographs; True if stereo is not needed beside them."""
        photos = len(self.scene)
        found = photos if self.scene.estimates else self.scene.depths.count
        count = self._room(self.config.initial_points.depth or 0)
        if not found or not count or self.model.config.random_init:
            return False
        seeds = self.model.seed_points
        cloud = depth_points(self.scene, count)
        added = 0 if cloud is None else len(cloud.positions)
        if cloud is None or (seeds is None and added < MIN_POINTS):
            run.tracker.log(f"Depth of {found} of {photos} photos gives only {added} points: none is added.")
            return False
        enough = 2 * found >= photos
        stereo = "; stereo is left out" if enough and self.config.initial_points.stereo_by_default else ""
        run.tracker.log(
            f"{added} initial points added to {0 if seeds is None else len(seeds[0])} from the depth of {found} of "
            f"{photos} photos (--pipeline.initial-points.depth){stereo}"
        )
        self._add_points(cloud)
        return enough

    def _room(self, count: int) -> int:
        """Return how many of ``count`` initial points may be added: half of the cap is left to densification."""
        cap, seeds = self.model.config.max_gs_num, self.model.seed_points
        return max(0, min(count, cap // 2 - (0 if seeds is None else len(seeds[0])))) if cap else count

    def _add_points(self, cloud: PointCloud) -> None:
        positions, colours, seeds = cloud.positions, cloud.colours, self.model.seed_points
        if seeds is not None:
            positions = torch.cat([seeds[0].to(positions), positions])
            colours = torch.cat([seeds[1].to(colours), colours])
        self.model.set_initial_points(positions, colours)

    def _add_stereo_points(self, run: Run) -> None:
        if self.model.config.random_init:
            return
        seeds = self.model.seed_points
        given = seeds[0].to(self.model.device) if seeds is not None else None
        number = 0 if given is None else len(given)
        count, reason = stereo_room(
            self.config.initial_points, number, self.model.config.max_gs_num, len(self.scene), run.last_step
        )
        if reason:
            run.tracker.log(reason)
        if not count:
            return
        cloud = stereo_cloud(self.scene, given, count, run.tracker.log)
        if cloud is None:
            return
        self._add_points(cloud)

    def _find_free_space(self) -> None:
        """Find the space in front of the cameras that is taken to be free, for pruning and for the near plane.

        What floats where no photograph looks is still seen from between them, so it is not drawn from near by: on
        castle it turned held-out views black in one training of two, 3 dB of their mean.
        """
        floaters = self.config.floaters
        if not floaters.min_depth or (points := self.scene.given_points()) is None:
            return
        # as the points are given: a resumed training has no other poses
        self.free = FreeSpace.of(points, self.scene.unoptimized_cameras(), floaters.min_depth)
        if floaters.near_plane and (nearest := self.free.nearest) is not None:
            self.model.near_plane = max(self.model.near_plane, nearest)

    # ------------------------------------------------------------------ a step

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        made = self.guidance.next_view(step, self.view_generator)
        if made is None:
            camera, batch = self.datamanager.next_train(step)
        else:
            made = made.to(self.model.device)
            camera, batch = to_batch(made)
        target = self._photo_depth(made, batch, step)
        with self.model.depth_in_training(target is not None or (made is not None and made.depth is not None)):
            outputs = self._model(camera)
        if made is not None and made.alpha is not None:
            # an object cut out stands before the background of this step, as photographs with alpha do
            change = outputs["background"] - self.model.background_color.to(made.image)
            batch["image"] = made.image + (1 - made.alpha) * change
        metrics = self.model.get_metrics_dict(outputs, batch)
        if made is not None and made.confidence is not None:
            # Without confidence it is replaced by the render itself: that teaches nothing, and SSIM sees no cut-out
            # edges as it would under a mask on both pictures.
            height, width = batch["image"].shape[:2]
            render = resized(outputs["rgb"].detach(), height, width, "nearest-exact")
            batch["image"] = torch.lerp(render, batch["image"], made.confidence)
        of_photograph = made is None or made.photo is not None
        if isinstance(self.model.strategy, CappedStrategy):
            self.model.strategy.counting = of_photograph  # its thresholds are made for gradients of photographs
        base = self.model.get_loss_dict(outputs, batch, metrics)
        self._losses.follow("photographs" if of_photograph else self._plural(step), base["main_loss"].detach())
        if not of_photograph:
            # the curve of photographs stays readable: made views have their own
            metrics = {"pseudo_" + key if key == "psnr" else key: value for key, value in metrics.items()}
        losses = self._guided_losses(outputs, batch, made, base)
        if target is not None:
            losses = losses | {"photo_depth_loss": self._photo_depth_loss(outputs, target)}
        return outputs, losses, metrics

    def _plural(self, step: int) -> str:
        """Return how the guidance calls the views it makes."""
        if self._made_views is None:
            self._made_views = self.guidance.status(step).plural
        return self._made_views

    def _photo_depth(self, made: TrainView | None, batch: dict[str, Any], step: int) -> PhotoDepth | None:
        """Return the depth of the photograph a step learns from, if it is learned from."""
        if not self.config.depth.weight or (made is not None and made.photo is None):
            return None
        until = self.config.depth.fade * self._last_step
        return self.scene.depth(int(batch["image_idx"]), 1 - step / until if until else 0.0)

    def _photo_depth_loss(self, outputs: dict[str, Any], photo: PhotoDepth) -> Tensor:
        """Return the weighted loss of a step between the depth that it rendered and the photograph's."""
        height, width = outputs["accumulation"].shape[:2]
        target, confidence = (resized(maps, height, width, "nearest-exact") for maps in (photo.depth, photo.confidence))
        loss = depth_loss(outputs["depth"], outputs["accumulation"], target, confidence)
        return loss * (self.config.depth.weight or 0.0)

    def _guided_losses(
        self, outputs: dict[str, Any], batch: dict[str, Any], made: TrainView | None, base: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the losses of a step as the guidance weighs them."""
        if made is not None:
            return self.guidance.losses(outputs, replace(made, image=batch["image"]), base)
        if not self.guidance.weighs_photographs:
            return base  # nothing of the guidance's is felt on a photograph
        camera = self.scene.unoptimized_camera(int(batch["image_idx"]))
        image = self.model.composite_with_background(unit_range(batch["image"]), outputs["background"])
        return self.guidance.losses(outputs, photo_view(batch, camera, image), base)

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        trainer = attributes.trainer
        if trainer is not None:
            self.renderer.lock = trainer.train_lock
        callbacks = super().get_training_callbacks(attributes)
        # after the model's: its step counter is then right
        callbacks.append(TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._before_step))
        callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self._log_size))
        floaters = self.config.floaters
        if floaters.prune and (self.free.nearest is not None or floaters.see_through):
            every = self.config.model.refine_every
            assert every is not None
            after = [TrainingCallbackLocation.AFTER_TRAIN_ITERATION]
            callbacks.append(TrainingCallback(after, self._prune_floaters, update_every_num_iters=every))
        return callbacks

    def _log_size(self, step: int) -> None:
        CONSOLE.print(f"Trained on {self.datamanager.train_dataset.summary()}.")

    def _before_step(self, step: int) -> None:
        self.before_steps(step)
        while self.guidance.before_step(step):
            self.panel.update(step, self._losses.values)
            self.between_pieces(step)
        self.show_progress(step)
        strategy, rotation = self.model.strategy, self.guidance.rotation()
        if rotation is not None and hasattr(strategy, "pause_refine_after_reset"):
            pause = pause_after_reset(rotation, strategy.refine_every, strategy.reset_every)
            strategy.pause_refine_after_reset = pause

    def _prune_floaters(self, step: int) -> None:
        if step == 0:
            return
        means = self.model.means.detach()
        floating = self.free.floating(means)
        if self.config.floaters.see_through:
            floating = floating | seen_through(means, self.scene)
        if floating.any() and not floating.all():
            self.model.remove_gaussians(floating)

    # ------------------------------------------------------------------ what people see

    def _enhance(self, camera: Cameras, image: Tensor, face: int = 0) -> Tensor:
        """Return the enhanced picture [H, W, 3] of a render; successive calls of a panorama's face are one sequence."""
        return self.enhancer.enhance(to_pinhole(camera), image, self._sequences.setdefault(face, _Sequence()))

    def show_progress(self, step: int, force: bool = False) -> None:
        """Bring viewer and curves up to date; between training steps.

        Args:
            step: of training.
            force: now, even if it was done a moment ago.
        """
        if type(self.guidance) is not Guidance:  # else nerfstudio's own curve says the same
            self._losses.write(step, force)
        self.panel.update(step, self._losses.values, force)

    # ------------------------------------------------------------------ state

    def training_state(self, step: int) -> dict[str, Any]:
        """Return what resuming at ``step`` needs beyond parameters and optimizers, by part: plain values, tensors."""
        return {
            "photographs": self.datamanager.sampling_state(),
            "views": {"generator": self.view_generator.get_state()},
            "strategy": dict(self.model.strategy_state),
            "guidance": self.guidance.state_dict(step),
        }

    def restore_training_state(self, state: dict[str, Any], source: Path, step: int) -> None:
        """Continue where ``training_state`` was taken.

        Args:
            state: what it returned.
            source: the folder of the training it was taken in.
            step: the first one of this training.
        """
        self.datamanager.restore_sampling(state["photographs"])
        self.view_generator.set_state(state["views"]["generator"])
        device = self.model.device
        self.model.strategy_state.update(
            {key: v.to(device) if isinstance(v, torch.Tensor) else v for key, v in state["strategy"].items()}
        )
        self.guidance.load_state_dict(state["guidance"], source, step)
