"""The demo of super-resolution: small photos of a procedural scene, and a splat that is looked at four times larger."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from difix3d_ns.apps.demo_results import mean_over, spread_out, write_results
from difix3d_ns.evaluation.report.training import read_training
from difix3d_ns.evaluation.runs import HeldOutView, evaluate, train
from difix3d_ns.metrics.high_pass import high_pass_correlation

METHOD, BASELINE = "3dsr-splatfacto", "sparse-splatfacto"
CAPTIONS = ("photo, enlarged", "splatfacto", "3DSR", "truth")
LONG_SIDE = 480
"""pixels of the scene's files, at which renders are compared"""
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
    small += ["--pipeline.datamanager.reduction", "bicubic"]
    console.rule("2/3  3dsr-splatfacto, then splatfacto, on photos of 120 px")
    chosen = [] if steps is None else ["--max-num-iterations", str(steps)]
    chosen += [] if upscaler is None else ["--pipeline.guidance.upscaler.name", upscaler]
    sharp = train(scene, output / "outputs", "3dsr", [*small, *chosen], method=METHOD)
    same = str(read_training(sharp.config).config.max_num_iterations)
    plainly = ["--pipeline.model.rasterize-mode", "antialiased", "--max-num-iterations", same]
    plain = train(scene, output / "outputs", "splatfacto", [*small, *plainly], method=BASELINE)
    console.rule("3/3  held-out views at 480 px")
    plain_views = evaluate(plain.config, enhance=False, long_side=LONG_SIDE).views
    sharp_views = evaluate(sharp.config, enhance=False, long_side=LONG_SIDE).views
    results = {
        "splatfacto": mean_over(plain_views) | _detail(plain_views) | {"seconds": plain.seconds},
        "3dsr": mean_over(sharp_views) | _detail(sharp_views) | {"seconds": sharp.seconds},
    }
    rows = [
        [s.truth if s.enlarged is None else s.enlarged, p.render, s.render, s.truth]
        for p, s in spread_out(list(zip(plain_views, sharp_views, strict=True)), pictures)
    ]
    title = "Demo of 3DSR"
    write_results(output, results, rows, CAPTIONS, sharp, sharp_views, plain_views, title, " and go close", console)
    return results


def _detail(views: Sequence[HeldOutView]) -> dict[str, float]:
    """Mean correlation with the truth of what the small photos cannot show."""
    return {"high_pass": statistics.fmean(high_pass_correlation(v.render, v.truth, 1 / SMALL) for v in views)}
