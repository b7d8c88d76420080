"""The demo of super-resolution: small photos of a procedural scene, and a splat that is looked at four times larger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from difix3d_ns.apps.demo_results import mean_over, spread_out, write_results
from difix3d_ns.evaluation.report.training import read_training
from difix3d_ns.evaluation.runs import HeldOutView, train
from difix3d_ns.geometry.resampling import resample
from difix3d_ns.io.images import read_stored
from difix3d_ns.ns.cameras import to_cameras, to_pinhole
from difix3d_ns.ns.config_paths import find_again

METHOD, BASELINE = "3dsr-splatfacto", "sparse-splatfacto"
CAPTIONS = ("photo, enlarged", "splatfacto", "3DSR", "truth")
SMALL = 0.25
"""sides of the photos trained on over those of the scene's files"""
_TRAIN_VIEWS, _TEST_VIEWS = 16, 8


def run_demo_3dsr(
    output: Path, seed: int = 0, steps: int | None = None, upscaler: str | None = None, pictures: int = 3
) -> dict[str, dict[str, float]]:
    """Make a scene of 480 px, train on its photos at 120 px with and without 3DSR, and compare at 480 px.

    Both trainings have the same photos, helps for sparse captures, number of steps and antialiasing; held-out views are
    compared with the pictures that the small photos were reduced from. Writes ``scene/``, ``outputs/``,
    ``results.json``, ``comparison.png`` and ``report.html`` into ``output``.

    Args:
        output: folder, made if needed.
        seed: of scene and cameras.
        steps: training steps of either; None for the default of 3DSR.
        upscaler: its name; None for the default of 3DSR.
        pictures: held-out views in the comparison.

    Returns:
        {row: {metric: mean over held-out views, "seconds": training time}}.
    """
    from difix3d_ns.data.procedural import demo_scene

    console = Console()
    output.mkdir(parents=True, exist_ok=True)
    scene = output / "scene"
    console.rule("1/3  demo scene")
    demo_scene(scene, seed=seed, train_views=_TRAIN_VIEWS, test_views=_TEST_VIEWS)
    small = ["--pipeline.datamanager.camera-res-scale-factor", str(SMALL)]
    console.rule("2/3  3dsr-splatfacto, then splatfacto, on photos of 120 px")
    chosen = [] if steps is None else ["--max-num-iterations", str(steps)]
    chosen += [] if upscaler is None else ["--pipeline.guidance.upscaler.name", upscaler]
    sharp = train(scene, output / "outputs", "3dsr", [*small, *chosen], method=METHOD)
    same = str(read_training(sharp.config).config.max_num_iterations)
    plainly = ["--pipeline.model.rasterize-mode", "antialiased", "--max-num-iterations", same]
    plain = train(scene, output / "outputs", "splatfacto", [*small, *plainly], method=BASELINE)
    console.rule("3/3  held-out views at 480 px")
    plain_views, lows = full_size_views(plain.config)
    sharp_views, _ = full_size_views(sharp.config)
    results = {
        "splatfacto": mean_over(plain_views) | {"seconds": plain.seconds},
        "3dsr": mean_over(sharp_views) | {"seconds": sharp.seconds},
    }
    rows = [
        [_enlarged(low, p.truth), p.render, s.render, p.truth]
        for low, p, s in spread_out(list(zip(lows, plain_views, sharp_views, strict=True)), pictures)
    ]
    title = "Demo of 3DSR"
    write_results(output, results, rows, CAPTIONS, sharp, sharp_views, plain_views, title, " and go close", console)
    return results


@torch.no_grad()
def full_size_views(config: Path) -> tuple[list[HeldOutView], list[Tensor]]:
    """Render held-out views at the size of the scene's files, whatever size was trained at.

    Args:
        config: config.yml of a finished training on undistorted pictures.

    Returns:
        The views, and the photos [h, w, 3] at the size of training.
    """
    from nerfstudio.utils.eval_utils import eval_setup

    def moved(trainer: Any) -> Any:
        trainer.pipeline.enhancer.from_environment, trainer.pipeline.enhancer.mode = False, "off"
        return find_again(trainer, config)

    _, pipeline, _, _ = eval_setup(config, test_mode="test", update_config_callback=moved)
    datamanager: Any = pipeline.datamanager
    views, lows = [], []
    paths = datamanager.eval_dataset.image_filenames
    for path, (camera, batch) in zip(paths, datamanager.fixed_indices_eval_dataloader, strict=True):
        truth = torch.from_numpy(read_stored(path)[..., :3] / 255.0).float()
        large = to_pinhole(camera).resized(truth.shape[1], truth.shape[0])
        render = pipeline.model.get_outputs_for_camera(to_cameras(large).to(camera.device))["rgb"]
        views.append(HeldOutView(truth, render.cpu(), None, path.name))
        lows.append(pipeline.model.get_gt_img(batch["image"])[..., :3].cpu())
    return views, lows


def _enlarged(low: Tensor, like: Tensor) -> Tensor:
    return resample(low.permute(2, 0, 1)[None], *like.shape[:2]).clamp(0, 1)[0].permute(1, 2, 0)
