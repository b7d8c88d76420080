"""Trainings by the real commands, and evaluations of them on held-out views."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation import process
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.io.file_names import distinct_names
from difix3d_ns.ns.cameras import to_cameras, to_pinhole
from difix3d_ns.ns.config_paths import find_again
from difix3d_ns.ns.finished_splat import show_as_exported
from difix3d_ns.ns.larger_views import reduced_outputs

DEFAULT_METHOD = "difix3d-splatfacto"


@dataclass(frozen=True)
class Run:
    """A finished training."""

    config: Path  # its config.yml
    seconds: float  # wall clock of the whole command
    peak_mb: float  # most memory it had, see ``process.run``


@dataclass(frozen=True)
class HeldOutView:
    """One evaluation view of a finished training."""

    truth: Tensor  # [H, W, 3] in [0, 1]
    render: Tensor  # [H, W, 3] in [0, 1]
    enhanced: Tensor | None  # [H, W, 3] in [0, 1]
    name: str = ""  # of the photograph's file
    seconds: float | None = None  # the enhancer took, the first time with loading it
    problem: str = ""  # why there is no enhanced picture, if one was requested
    low: Tensor | None = None  # [h, w, 3] in [0, 1], the photo at the size of training if that is smaller than truth
    enlarged: Tensor | None = None  # [H, W, 3] in [0, 1], the same, enlarged bicubically to the size of truth

    def picture(self, enhanced: bool) -> Tensor:
        """The enhanced picture, which has to be there, or the render: [H, W, 3] in [0, 1]."""
        if not enhanced:
            return self.render
        assert self.enhanced is not None, self.problem
        return self.enhanced


@dataclass(frozen=True)
class Evaluation:
    """All evaluation views of a finished training."""

    views: list[HeldOutView]
    gaussians: int  # 0 of a model that has none
    seconds: float  # the enhancer's, over all views
    trained_size: tuple[int, int]  # width and height of the largest photo at the size of training


def config_of(output: Path, name: str, method: str = DEFAULT_METHOD) -> Path:
    """Path of the config.yml that ``train`` writes."""
    return output / name / method / "run" / "config.yml"


def train(
    data: Path,
    output: Path,
    name: str,
    flags: Sequence[str] = (),
    log: Path | None = None,
    method: str = DEFAULT_METHOD,
) -> Run:
    """Run ``ns-train METHOD`` on a scene, in a process of its own.

    Args:
        data: the scene.
        output: folder of nerfstudio's outputs; the training goes to ``output/NAME/METHOD/run``.
        name: experiment name.
        flags: further flags.
        log: file that its output is appended to; None shows it.
        method: of ns-train.

    Raises:
        UserError: it failed; the message names the log.
    """
    arguments = [
        method,
        *("--data", str(data), "--output-dir", str(output), "--experiment-name", name, "--timestamp", "run"),
        *("--vis", "tensorboard", *flags),
    ]
    output.mkdir(parents=True, exist_ok=True)
    peak_file = output / f".{name}.peak.json"
    started = time.perf_counter()
    with log.open("a", encoding="utf-8") if log is not None else nullcontext() as file:
        code, peak = process.run(arguments, peak_file, file)
    seconds = time.perf_counter() - started
    peak_file.unlink(missing_ok=True)
    if code != 0:
        raise UserError(f"training {name} on {data} failed" + (f"; see {log}" if log else ""))
    return Run(config_of(output, name, method), seconds, peak)


@torch.no_grad()
def evaluate(
    config: Path,
    enhance: bool,
    strength: float | None = None,
    step: int | None = None,
    weights: str | None = None,
    long_side: int | Literal["photos"] | None = None,
    exported: str | None = None,
    reduced: int = 1,
) -> Evaluation:
    """Render all evaluation views of a finished training, and measure the enhancer's time.

    A splat that is meant to be rendered larger than its photos is: compared with their originals, or reduced with the
    photos. Environment variables change nothing here.

    Args:
        config: its config.yml.
        enhance: whether to run the enhancer as well.
        strength: of the enhancer, from 0 to 1; None: as in the training.
        step: of the checkpoint; None: the last.
        weights: of the enhancer; None: as in the training.
        long_side: of truth and render in pixels, whatever size the training had; photos: that of the photos' files;
            None: see above.
        exported: ending of a file (.ply, .compressed.ply, .spz): render what difix3d export writes, read back, as other
            viewers do; None: the splat as it is.
        reduced: sides of the photos of training over those of truth and render, where ``long_side`` is None.

    Raises:
        UserError: a photo's file is smaller than ``long_side``.
    """
    from nerfstudio.utils.eval_utils import eval_setup

    def with_settings(trainer: Any) -> Any:
        trainer.load_step = step
        enhancer = trainer.pipeline.enhancer
        enhancer.from_environment, enhancer.mode = False, "key"
        enhancer.strength = enhancer.strength if strength is None else strength
        enhancer.weights = weights or enhancer.weights
        return find_again(trainer, config)

    _, pipeline, _, _ = eval_setup(config, test_mode="test", update_config_callback=with_settings)
    if exported is not None:
        show_as_exported(pipeline, exported)
    views, whole = [], 0.0
    datamanager: Any = pipeline.datamanager
    model: Any = pipeline.model
    for name, (camera, batch) in zip(_names(datamanager), datamanager.fixed_indices_eval_dataloader, strict=True):
        photo = model.get_gt_img(batch["image"])
        index = int(batch["image_idx"])
        side = _side(datamanager.eval_dataset, photo, index, long_side, reduced)
        truth = _truth(pipeline, photo, index, side)
        height, width = truth.shape[:2]
        outputs = model.get_outputs_for_camera(_rendered_camera(pipeline, camera, index, truth, side))
        enhanced, problem = None, ""
        started = time.perf_counter()
        if enhance:
            try:
                enhanced = resampled(outputs["enhanced"], height, width).cpu()
            except Exception as error:  # whatever a fixer does, the render can be shown all the same
                problem = str(error) or type(error).__name__
        seconds = time.perf_counter() - started
        whole += seconds
        took = seconds if enhanced is not None else None
        laid = [_laid(model, picture, outputs) for picture in (truth, photo)]
        low = laid[1] if photo.shape[0] < height and photo.shape[1] < width else None
        render = resampled(outputs["rgb"], height, width).cpu()
        enlarged = None if low is None else resampled(low, height, width)
        views.append(HeldOutView(laid[0], render, enhanced, name, took, problem, low, enlarged))
    cameras = datamanager.train_dataset.cameras
    size = int(cameras.width.max()), int(cameras.height.max())
    return Evaluation(views, len(getattr(model, "means", ())), whole if enhance else 0.0, size)


def _side(
    dataset: Any, photo: Tensor, index: int, long_side: int | Literal["photos"] | None, reduced: int
) -> int | None:
    """Return the long side in pixels at which a held-out view is compared; None: as large as its splat is made for."""
    if long_side == "photos":
        return max(dataset.original_size(index) or photo.shape[:2])
    return round(max(photo.shape[:2]) / reduced) if long_side is None and reduced > 1 else long_side


def _truth(pipeline: Any, photo: Tensor, index: int, long_side: int | None) -> Tensor:
    """Return what a held-out view is compared with [H, W, 3 or 4]: the photo, or larger or smaller than that."""
    dataset, larger = pipeline.datamanager.eval_dataset, pipeline.model.larger
    if long_side is None:
        original = None if larger is None else larger.original(index)
        return photo if original is None else original.to(photo)
    height, width = photo.shape[:2]
    factor = long_side / max(height, width)
    size = round(width * factor), round(height * factor)
    if factor <= 1:
        return resampled(photo, size[1], size[0])
    original = dataset.original(index, size)
    found = max(height, width) if original is None else max(original.shape[:2])
    if original is None or found < long_side - 1:
        raise UserError(
            f"{dataset.image_filenames[index]} has a long side of {found} pixels where the recipe's long_side is "
            f"{long_side}: give larger photos, or a recipe with a smaller long_side"
        )
    return original.to(photo)


def _rendered_camera(pipeline: Any, camera: Any, index: int, truth: Tensor, long_side: int | None) -> Any:
    """Return a held-out view's camera at the size that it is rendered at."""
    height, width = truth.shape[:2]
    if long_side is None:
        larger = pipeline.model.larger
        return camera if larger is None else to_cameras(larger.camera(index))
    if (int(camera.width), int(camera.height)) == (width, height):
        return camera
    return to_cameras(to_pinhole(camera).resized(width, height))


def _laid(model: Any, picture: Tensor, outputs: Any) -> Tensor:
    """Return a picture [H, W, 3 or 4] before the background of a render."""
    found = reduced_outputs(outputs, picture.shape[0], picture.shape[1], ["background"])
    behind = found.get("background", model.background_color)
    laid: Tensor = model.composite_with_background(picture, behind)
    return laid.cpu()


def _names(datamanager: Any) -> list[str]:
    """Names of the evaluation photos, as they are told from all others of the scene."""
    held_out, trained = datamanager.eval_dataset.image_filenames, datamanager.train_dataset.image_filenames
    return distinct_names([*held_out, *trained])[: len(held_out)]
