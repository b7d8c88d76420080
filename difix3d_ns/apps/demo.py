"""The demo: a procedural scene, plain splatfacto beside diffusion-fixed training, a table and a picture."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from difix3d_ns.apps.demo_results import mean_over, spread_out, write_results
from difix3d_ns.evaluation.comparison import CAPTIONS, close_ups, write_comparison
from difix3d_ns.evaluation.runs import evaluate, train

_CLOSE_UP = 360  # pixels of a close-up's width


def run_demo(output: Path, seed: int = 0, steps: int | None = None, pictures: int = 3) -> dict[str, dict[str, float]]:
    """Make the demo scene, train it plainly and with pseudo-views, and compare on held-out views.

    Writes ``scene/``, ``outputs/``, ``results.json``, ``comparison.png``, ``close_ups.png`` and ``report.html`` into
    ``output``.

    Args:
        output: folder, made if needed.
        seed: of scene and cameras.
        steps: training steps of either; None for the defaults.
        pictures: held-out views in the comparison.

    Returns:
        {row: {metric: mean over held-out views, "seconds": training time}}; the enhancer's time per view is in its row.
    """
    from difix3d_ns.data.procedural import demo_scene

    console = Console()
    output.mkdir(parents=True, exist_ok=True)
    scene = output / "scene"
    console.rule("1/3  demo scene")
    demo_scene(scene, seed=seed)
    flags = [] if steps is None else ["--max-num-iterations", str(steps)]
    console.rule("2/3  plain splatfacto, then difix3d-splatfacto")
    plainly = ["--pipeline.guidance.rounds", "0", "--pipeline.sparse-helps", "False"]
    plain = train(scene, output / "outputs", "plain", [*flags, *plainly])
    fixed = train(scene, output / "outputs", "difix3d", flags)
    console.rule("3/3  held-out views")
    started = time.perf_counter()
    fixed_views = evaluate(fixed.config, enhance=True).views
    enhancing = time.perf_counter() - started
    plain_views = evaluate(plain.config, enhance=False).views
    results = {
        "plain": mean_over(plain_views) | {"seconds": plain.seconds},
        "difix3d": mean_over(fixed_views) | {"seconds": fixed.seconds},
        "difix3d+": mean_over(fixed_views, enhanced=True) | {"seconds": fixed.seconds + enhancing},
    }
    every = [
        [p.render, f.render, f.picture(enhanced=True), p.truth] for p, f in zip(plain_views, fixed_views, strict=True)
    ]
    rows = spread_out(every, pictures)
    write_comparison(output / "close_ups.png", close_ups(every), CAPTIONS, _CLOSE_UP)
    look = " and choose the output type [bold]enhanced[/bold]"
    write_results(output, results, rows, CAPTIONS, fixed, fixed_views, plain_views, "Demo scene", look, console)
    return results
