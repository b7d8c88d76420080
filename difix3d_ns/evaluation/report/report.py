"""One page about a training."""

from __future__ import annotations

import datetime
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich.console import Console

import difix3d_ns
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.report.flags import settings
from difix3d_ns.evaluation.report.held_out import HeldOut, measure
from difix3d_ns.evaluation.report.parts import Figure, Section, facts, fold, page, results_table
from difix3d_ns.evaluation.report.pseudo_views import fixes_section
from difix3d_ns.evaluation.report.training import Training, duration, read_training
from difix3d_ns.evaluation.report.training_curves import curves_section
from difix3d_ns.evaluation.runs import HeldOutView, held_out_views
from difix3d_ns.evaluation.table import Results
from difix3d_ns.io.atomic import write_text
from difix3d_ns.ns import presets
from difix3d_ns.ns.trainer import GuidedTrainerConfig


def write_report(
    training: Path,
    output: Path | None = None,
    views: Sequence[HeldOutView] | None = None,
    plain: Sequence[HeldOutView] | None = None,
    results: Results | None = None,
    title: str | None = None,
    console: Console | None = None,
) -> Path:
    """Write a page about a training, finished or not, that opens without a network. Only the page is written.

    Args:
        training: its folder, its config.yml, or a folder above exactly one.
        output: the page; None for report.html in the training's folder.
        views: its held-out views; None to render them here.
        plain: the same views of plain splatfacto, to compare with.
        results: method -> metric -> mean over held-out views, for a table of methods.
        title: of the page; None for the name of the scene.
        console: where progress is told.

    Returns:
        Path of the page.

    Raises:
        UserError: there is no such training, or the page cannot be written.
    """
    console = console or Console()
    read = read_training(training)
    problem, weights = "", None
    if views is None:
        weights = os.environ.get("DIFIX3D_WEIGHTS") or None
        views, problem = _render(read, weights, console)
    held_out = measure(views, plain)
    target = output or read.folder / "report.html"
    _write(target, report_page(read, held_out, problem, results, title, weights))
    return target


def report_page(
    training: Training,
    held_out: HeldOut,
    problem: str = "",
    results: Results | None = None,
    title: str | None = None,
    weights: str | None = None,
) -> str:
    """The page as HTML.

    Args:
        training: what its folder tells.
        held_out: views and what they score; may be empty.
        problem: why there are none.
        results: as of ``write_report``.
        title: as of ``write_report``.
        weights: of the enhancer, if they are other ones than in training.
    """
    now = datetime.datetime.now(datetime.UTC)
    return page(
        title or training.scene,
        [
            Section(
                "Views kept out of training", held_out.parts(problem, _table_of_methods(results)), "Held-out views"
            ),
            fixes_section(training),
            curves_section(training),
            Section("Time", [facts(_times(training, held_out))]),
            Section("Settings", _settings(training)),
        ],
        _subtitle(training),
        [*held_out.figures(), *_figures(training)],
        _notices(training, weights),
        f"Made by difix3d report {difix3d_ns.__version__} on {now:%Y-%m-%d at %H:%M} UTC from the folder "
        f"{'/'.join(training.folder.resolve().parts[-3:])}. FLIP is at 67 pixels per degree.",
    )


def _render(training: Training, weights: str | None, console: Console) -> tuple[list[HeldOutView], str]:
    """Held-out views of the newest checkpoint, or why there are none."""
    if not training.checkpoints:
        return [], "No checkpoint has been saved yet, so there is nothing to render."
    console.print(f"Rendering held-out views of {training.folder} and enhancing them ...", highlight=False)
    try:
        return held_out_views(training.path, enhance=True, weights=weights), ""
    except (
        Exception,
        SystemExit,
    ) as error:  # a moved scene, a damaged checkpoint: the rest of the page is worth having
        reason = str(error) or type(error).__name__
        console.print(f"[yellow]The held-out views could not be rendered: {reason}", highlight=False)
        return [], f"The held-out views could not be rendered here: {reason}"


def _write(path: Path, content: str) -> None:
    """Whole or not at all."""
    try:
        write_text(path, content)
    except OSError as error:
        raise UserError(f"the page {path} cannot be written: {error}; choose another with --output") from error


def _subtitle(training: Training) -> str:
    config = training.config
    return ", ".join(
        part
        for part in (
            str(config.method_name),
            f"{training.steps:,} steps",
            "on a CPU" if config.machine.device_type == "cpu" else f"on {config.machine.device_type}",
            *_of_guidance(config),
            "" if config.pipeline.sparse_helps else "no helps for sparse captures",
            _began(str(config.timestamp)),
        )
        if part
    )


def _of_guidance(config: GuidedTrainerConfig) -> list[str]:
    """What a resumed training keeps of its guidance: "2 rounds"."""
    flag = "--pipeline.guidance."
    kept = {name.removeprefix(flag): value for name, value in presets.kept(config).items() if name.startswith(flag)}
    return [f"{value or 'no'} {name.replace('-', ' ')}" for name, value in kept.items() if value is not None]


def _began(timestamp: str) -> str:
    """Nothing, if somebody chose another name for the training's folder."""
    try:
        return f"begun {datetime.datetime.strptime(timestamp, '%Y-%m-%d_%H%M%S'):%Y-%m-%d at %H:%M}"
    except ValueError:
        return ""


def _notices(training: Training, weights: str | None) -> list[str]:
    notices = []
    if not training.finished:
        planned = f" of {training.planned:,}" if training.planned else ""
        saved = f"The held-out views are of step {training.checkpoints[0]:,}." if training.checkpoints else ""
        notices.append(
            f"This training is not finished: it is at step {training.steps:,}{planned}, or stopped there. {saved} "
            "Make the page again later for the rest."
        )
    if weights:
        notices.append(f"The enhancer's weights were other ones than in training: DIFIX3D_WEIGHTS={weights}.")
    return notices


def _figures(training: Training) -> list[Figure]:
    figures = []
    if training.fixes:
        trust = statistics.fmean(fix.mean_confidence for fix in training.fixes)
        figures.append(Figure(str(len(training.fixes)), "pseudo-views", f"trusted at {trust:.0%}"))
    if training.seconds:
        figures.append(Figure(duration(training.seconds), "of training", f"{training.steps:,} steps"))
    return figures


def _times(training: Training, held_out: HeldOut) -> list[tuple[str, str]]:
    rows = []
    if training.seconds:
        starts = [int(curve.steps[0]) for curve in training.curves.values() if len(curve.steps)]
        since = f", since step {min(starts):,}" if min(starts) > 0 else ""
        rows.append((f"Training, first to last step{since}", duration(training.seconds)))
    if "Train Iter (time)" in training.curves:
        rows.append(("A step, median", duration(float(statistics.median(training.curves["Train Iter (time)"].values)))))
    for number in sorted({fix.round for fix in training.fixes}):
        seconds = [fix.seconds for fix in training.fixes if fix.round == number]
        rows.append((f"Fixing the {len(seconds)} views of round {number} once", duration(sum(seconds))))
    if training.fixes:
        rows.append(("A fixed view, median", duration(statistics.median(fix.seconds for fix in training.fixes))))
    return [*rows, *held_out.times()]


def _settings(training: Training) -> list[str]:
    rows = settings(training.config, training.photographs)
    both = Markup("{} <small>default {}</small>")
    changed = [(row.flag, both.format(row.value, row.default)) for row in rows if row.default is not None]
    return [
        facts(changed) or "Nothing differs from the method's defaults.",
        fold(f"All {len(rows)} settings", [facts([(row.flag, row.value) for row in rows])]),
    ]


def _table_of_methods(results: Results | None) -> str:
    return results_table(results) if results else ""
