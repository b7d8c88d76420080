"""One page about a training."""

from __future__ import annotations

import datetime
import functools
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
from difix3d_ns.evaluation.report.made_views import depths_section, made_views_section
from difix3d_ns.evaluation.report.mesh_section import mesh_section
from difix3d_ns.evaluation.report.parts import Figure, Section, facts, fold, page, results_table
from difix3d_ns.evaluation.report.training import Training, read_training
from difix3d_ns.evaluation.report.training_curves import curves_section
from difix3d_ns.evaluation.runs import HeldOutView, evaluate
from difix3d_ns.evaluation.table import Results
from difix3d_ns.io.atomic import write_text
from difix3d_ns.io.durations import duration
from difix3d_ns.metrics.perceptual import NETS, LazyLPIPS, PerceptualWeights
from difix3d_ns.ns.trainer import GuidedTrainerConfig
from difix3d_ns.views.records import describe_numbers, mean_numbers, newest


def write_report(
    training: Path,
    output: Path | None = None,
    views: Sequence[HeldOutView] | None = None,
    plain: Sequence[HeldOutView] | None = None,
    results: Results | None = None,
    title: str | None = None,
    console: Console | None = None,
    perceptual: PerceptualWeights | None = None,
) -> Path:
    """Write a page about a training, finished or not, that opens without a network. Only the page is written.

    Args:
        training: its folder, its config.yml, or a folder above exactly one.
        output: the page; None for report.html in the training's folder.
        views: its held-out views; None to render them here.
        plain: the same views of plain splatfacto, to compare with.
        results: method -> metric -> mean over held-out views, for a table of methods.
        title: of the page; None for the name of the scene.
        console: for messages, also on weights of LPIPS that are missing.
        perceptual: weights of LPIPS; None: it is not measured.

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
    notify = functools.partial(console.print, highlight=False, soft_wrap=True)
    distances = [LazyLPIPS(net, notify, perceptual) for net in NETS] if perceptual is not None else []
    held_out = measure(views, plain, distances)
    methods = results_table(results) if results else ""
    now = datetime.datetime.now(datetime.UTC)
    html = page(
        title or read.scene,
        [
            Section("Views kept out of training", held_out.parts(problem, methods), "Held-out views"),
            made_views_section(read),
            depths_section(read),
            mesh_section(read),
            curves_section(read),
            Section("Time", [facts(_times(read, held_out))]),
            Section("Settings", _settings(read)),
        ],
        _subtitle(read),
        [*held_out.figures(), *_figures(read)],
        _notices(read, weights),
        f"Made by difix3d report {difix3d_ns.__version__} on {now:%Y-%m-%d at %H:%M} UTC from the folder "
        f"{'/'.join(read.folder.resolve().parts[-3:])}. FLIP is at 67 pixels per degree.",
    )
    target = output or read.folder / "report.html"
    try:
        write_text(target, html)
    except OSError as error:
        raise UserError(f"the page {target} cannot be written: {error}; choose another with --output") from error
    return target


def _render(training: Training, weights: str | None, console: Console) -> tuple[list[HeldOutView], str]:
    """Held-out views of the newest checkpoint, or why there are none."""
    if not training.checkpoints:
        return [], "No checkpoint has been saved yet, so there is nothing to render."
    console.print(f"Rendering held-out views of {training.folder} and enhancing them ...", highlight=False)
    try:
        return evaluate(training.path, enhance=True, weights=weights).views, ""
    # a moved scene, a damaged checkpoint: the rest of the page is worth having
    except (Exception, SystemExit) as error:
        reason = str(error) or type(error).__name__
        console.print(f"[yellow]The held-out views could not be rendered: {reason}", highlight=False)
        return [], f"The held-out views could not be rendered here: {reason}"


def _subtitle(training: Training) -> str:
    config = training.config
    return ", ".join(
        part
        for part in (
            str(config.method_name),
            f"{training.steps:,} steps",
            "on a CPU" if config.machine.device_type == "cpu" else f"on {config.machine.device_type}",
            *_guidance_settings(config),
            "" if training.dataset is None else training.dataset.summary(),
            "" if config.pipeline.sparse_helps else "no helps for sparse captures",
            _began(str(config.timestamp)),
        )
        if part
    )


def _guidance_settings(config: GuidedTrainerConfig) -> list[str]:
    """Settings of the guidance itself, not of its prior, that a resumed training keeps: "2 rounds"."""
    guidance = config.pipeline.guidance
    kept = {name: getattr(guidance, name) for name in guidance.kept}
    return [f"{value or 'no'} {name.replace('_', ' ')}" for name, value in kept.items() if type(value) is int]


def _began(timestamp: str) -> str:
    """Return when the training began, by the name of its folder; empty if somebody chose another name."""
    try:
        return f"begun {datetime.datetime.strptime(timestamp, '%Y-%m-%d_%H%M%S'):%Y-%m-%d at %H:%M}"
    except ValueError:
        return ""


def _notices(training: Training, weights: str | None) -> list[str]:
    notices = []
    if training.dataset is not None and (about := training.dataset.metadata.get("generated_about")):
        notices.append(about)
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
    if training.made:
        latest = list(newest(training.made).values())
        numbers = describe_numbers(mean_numbers(latest))
        figures.append(Figure(str(len(latest)), training.records.about.short.lower(), numbers))
    if training.seconds:
        figures.append(Figure(duration(training.seconds), "training time", f"{training.steps:,} steps"))
    return figures


def _times(training: Training, held_out: HeldOut) -> list[tuple[str, str]]:
    rows = []
    if training.seconds:
        starts = [int(curve.steps[0]) for curve in training.curves.values() if len(curve.steps)]
        since = f", since step {min(starts):,}" if min(starts) > 0 else ""
        rows.append((f"Training, first to last step{since}", duration(training.seconds)))
    if "Train Iter (time)" in training.curves:
        rows.append(("A step, median", duration(float(statistics.median(training.curves["Train Iter (time)"].values)))))
    groups: dict[str, list[float]] = {}
    for head in training.made:
        groups.setdefault(head.group, []).append(head.seconds)
    for group, seconds in groups.items():
        rows.append((f"{group}: making its {len(seconds)} views once", duration(sum(seconds))))
    if training.made:
        rows.append(("Making a view, median", duration(statistics.median(head.seconds for head in training.made))))
    return [*rows, *held_out.times()]


def _settings(training: Training) -> list[str]:
    rows = settings(training.config, training.photos)
    both = Markup("{} <small>default {}</small>")
    changed = [(row.flag, both.format(row.value, row.default)) for row in rows if row.default is not None]
    return [
        facts(changed) or "Nothing differs from the method's defaults.",
        fold(f"All {len(rows)} settings", [facts([(row.flag, row.value) for row in rows])]),
    ]
