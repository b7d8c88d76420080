"""The demo: a procedural scene, plain splatfacto beside diffusion-fixed training, a table and a picture."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from difix3d_ns.evaluation.comparison import write_comparison
from difix3d_ns.evaluation.report import write_report
from difix3d_ns.evaluation.runs import HeldOutView, Run, evaluate, train
from difix3d_ns.evaluation.table import metric_table
from difix3d_ns.io.atomic import write_json
from difix3d_ns.metrics.image import image_metrics, mean_metrics


def run_demo(output: Path, seed: int = 0, steps: int | None = None, pictures: int = 3) -> dict[str, dict[str, float]]:
    """Make the demo scene, train it plainly and with pseudo-views, and compare on held-out views.

    Writes ``scene/``, ``outputs/``, ``results.json``, ``comparison.png`` and ``report.html`` into ``output``.

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
        "plain": _mean(plain_views, enhanced=False) | {"seconds": plain.seconds},
        "difix3d": _mean(fixed_views, enhanced=False) | {"seconds": fixed.seconds},
        "difix3d+": _mean(fixed_views, enhanced=True) | {"seconds": fixed.seconds + enhancing},
    }
    write_json(output / "results.json", results)
    step = max(1, len(plain_views) // pictures)
    rows = [
        [p.render, f.render, f.picture(enhanced=True), p.truth]
        for p, f in list(zip(plain_views, fixed_views, strict=True))[step // 2 :: step][:pictures]
    ]
    write_comparison(output / "comparison.png", rows)
    console.print(metric_table(results).terminal())
    page = output / "report.html"
    write_report(fixed.config, page, fixed_views, plain_views, results, title="Demo scene", console=console)
    _print_summary(console, output, fixed)
    return results


def _mean(views: list[HeldOutView], enhanced: bool) -> dict[str, float]:
    return mean_metrics([image_metrics(view.picture(enhanced), view.truth) for view in views])


def _print_summary(console: Console, output: Path, run: Run) -> None:
    console.print(f"Numbers: {output / 'results.json'}   pictures: {output / 'comparison.png'}", highlight=False)
    console.print(f"Open in a browser: [bold]{output / 'report.html'}[/bold]", highlight=False, soft_wrap=True)
    console.print(
        f"Look around in it: [bold]ns-viewer --load-config {run.config}[/bold], open the printed address and choose "
        "the output type [bold]enhanced[/bold].",
        highlight=False,
        soft_wrap=True,
    )
