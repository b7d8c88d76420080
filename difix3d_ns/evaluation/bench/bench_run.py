"""``difix3d bench``: from scenes and a recipe to results.json, table.md and report.html."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench.bench_page import html_page, markdown_page, show_pictures
from difix3d_ns.evaluation.bench.bench_recipe import Recipe, load_recipe
from difix3d_ns.evaluation.bench.job import Changed, CodeChanged, Job, Scene, run_job
from difix3d_ns.evaluation.bench.perceptual_columns import FILLED, fill_columns
from difix3d_ns.evaluation.bench.quoted_rows import quoted_sources, quoted_table
from difix3d_ns.evaluation.bench.results import compare, gather, results
from difix3d_ns.evaluation.bench.rows import add_rows, finished_rows, record_folder
from difix3d_ns.evaluation.protocols.protocol import Protocol, load_protocol, write_scenes
from difix3d_ns.io.atomic import write_json, write_text
from difix3d_ns.io.progress import progress_bar
from difix3d_ns.metrics.perceptual import PerceptualWeights
from difix3d_ns.ns.dataparsers.scene_parser import check_folder
from difix3d_ns.ns.trainer import CPU_ITERATIONS, CUDA_ITERATIONS

PRINT_OPTIONS: dict[str, Any] = {"highlight": False, "soft_wrap": True}  # as consoles print messages

Means = dict[str, dict[str, dict[str, float | None]]]  # see ``results``


def bench(
    data: Sequence[Path],
    output: Path,
    seeds: Sequence[int] = (),
    methods: Sequence[str] = (),
    recipe: str | Path = "default",
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    changed: Changed = "refuse",
    record: Path | None = None,
    weights: PerceptualWeights | None = None,
    fill: Sequence[str] = (),
    console: Console | None = None,
    protocol: str | Path | None = None,
) -> Means:
    """Train and compare methods on scenes; started again it goes on where it stopped.

    Writes ``results.json``, ``comparisons.json``, ``table.md``, ``report.html``, ``comparison/SCENE.png``, all held-out
    pictures in ``pictures/`` and, per training, ``runs/SCENE/METHOD/seed-N/`` into ``output``.

    Args:
        data: scenes with evaluation views.
        output: folder, made if needed.
        seeds: instead of the recipe's.
        methods: only these of the recipe.
        recipe: name or path of what is trained and compared.
        executor: local trains one after the other; ray spreads scenes over a cluster, on which scenes and output must
            be on shared storage.
        address: of a Ray cluster; None starts one on this machine.
        changed: what becomes of finished runs that the recipe, the scene or the code would now make otherwise: refuse
            ends with a list of them, redo makes them again, keep keeps those of which only the code has changed.
        record: where rows are put on record; None for ``benchmarks/results`` of the checkout.
        weights: of the networks of LPIPS and FID; None for those in torch's hub folder.
        fill: of an output that is there compute these columns, lpips or fid, from its kept pictures, and write its
            pages again; nothing is trained and no scene is needed.
        console: for progress and messages.
        protocol: name or path, instead of a recipe: ``data`` are folders of its data set.

    Returns:
        The contents of results.json (see ``results``).

    Raises:
        UserError: a scene or recipe cannot be used, there is nothing to fill, or a training failed; the others are
            finished first.
    """
    console = console or Console(file=sys.stdout)  # evaluations send what is printed to their log
    plan = (load_recipe(recipe) if protocol is None else load_protocol(protocol)).chosen(methods)
    steps = plan.steps or (CUDA_ITERATIONS if torch.cuda.is_available() else CPU_ITERATIONS)
    plan = dataclasses.replace(plan, steps=steps, seeds=tuple(dict.fromkeys(seeds)) or plan.seeds)
    output = output.absolute()
    notify = functools.partial(console.print, **PRINT_OPTIONS)
    if isinstance(plan, Protocol) and not fill:
        data = write_scenes(plan, data, output, notify)
    scenes = [] if fill else _scenes(data)
    jobs = _jobs(scenes, plan)
    _check_unchanged(jobs, plan, output, changed)
    names = [scene.name for scene in scenes] or sorted(gather(plan, finished_rows(plan, output)).scenes)
    if not names:
        raise UserError(
            f"{output} has no finished runs of the {plan.kind} {plan.name}: give its folder and its --{plan.kind}"
        )
    output.mkdir(parents=True, exist_ok=True)
    flags = [*(["--seeds", *map(str, seeds)] if seeds else []), *(["--methods", *methods] if methods else [])]
    given = ["FOLDER"] if plan.kind == "protocol" else names
    command = shlex.join(["difix3d", "bench", *given, "--output", "DIR", f"--{plan.kind}", plan.name, *flags])
    write = functools.partial(_write, plan, output, record or record_folder(output), command, names)
    failures = []
    for failure in _run(executor, jobs, scenes, plan, output, changed, address, console):
        failures += failure
        write()
    fill_columns(output, plan, fill or FILLED, weights or PerceptualWeights(), notify, console)
    means = write(pictures=True)
    _print_quoted(plan, output, console)
    notify(f"Report: {output / 'report.html'}   table: {output / 'table.md'}   numbers: {output / 'results.json'}")
    if failures:
        raise UserError(
            f"{len(failures)} of {len(jobs)} trainings failed (start again to try them again): " + "; ".join(failures)
        )
    return means


def _print_quoted(recipe: Recipe, output: Path, console: Console) -> None:
    """Print published rows beside ours, where the recipe has some."""
    table = quoted_table(recipe, gather(recipe, finished_rows(recipe, output)))
    if table is not None:
        console.print(table.terminal())
        for line in (*quoted_sources(recipe), *recipe.remarks):
            console.print(line, **PRINT_OPTIONS, markup=False)


def _run(
    executor: Literal["local", "ray"],
    jobs: Sequence[Job],
    scenes: Sequence[Scene],
    recipe: Recipe,
    output: Path,
    changed: Changed,
    address: str | None,
    console: Console,
) -> Iterator[list[str]]:
    """Run all jobs; yield what failed, after each here, or after each scene on a cluster."""
    if executor == "ray":
        from difix3d_ns.io.ray_jobs import run_on_ray

        for result in run_on_ray(run_scene, scenes, (recipe, output, changed), recipe.cpus, address, console, gpus=1):
            yield [str(result)] if isinstance(result, UserError) else result
        return
    with progress_bar(console, counted=True) as progress:
        todo = [job for job in jobs if changed == "redo" or job.missing(output, recipe)]
        task = progress.add_task("Trainings", total=len(jobs), completed=len(jobs) - len(todo))
        for job in todo:
            progress.update(task, description=str(job))
            if failure := run_job(job, recipe, output, changed):
                console.print(f"[red]{failure}", **PRINT_OPTIONS)
            progress.advance(task)
            yield [failure] if failure else []


def run_scene(scene: Scene, recipe: Recipe, output: Path, changed: Changed) -> list[str]:
    """Run all jobs of one scene, on whatever machine this is; return what failed."""
    failures: list[str] = []
    try:
        for job in _jobs([scene], recipe):
            failures.append(run_job(job, recipe, output, changed))
    except CodeChanged as error:
        failures.append(str(error))
    return [failure for failure in failures if failure]


def _jobs(scenes: Sequence[Scene], recipe: Recipe) -> list[Job]:
    return [Job(scene, training, seed) for scene in scenes for seed in recipe.seeds for training in recipe.trainings()]


def _write(
    recipe: Recipe, output: Path, record: Path, command: str, scenes: Sequence[str], pictures: bool = False
) -> Means:
    """Write all files about the finished runs, these scenes first; the report and sheets only with ``pictures``."""
    rank = {scene: number for number, scene in enumerate(scenes)}
    rows = finished_rows(recipe, output)
    rows.sort(key=lambda row: (rank.get(row["scene"], len(rank)), row["scene"] or "", row["seed"] or 0))
    scores = gather(recipe, rows)
    compared = [entry for comparison in recipe.compare if (entry := compare(scores, comparison)) is not None]
    means, entries = results(scores), [dataclasses.asdict(entry) for entry in compared]
    write_json(output / "results.json", means)
    comparisons = {"chosen": scores.chosen, "counted": scores.counted, "compared": entries}
    write_json(output / "comparisons.json", comparisons)
    write_text(output / "table.md", markdown_page(scores, compared, rows, command))
    if recipe.on_record:
        add_rows(record / f"bench-{recipe.name}.jsonl", rows, digits=5)
    if pictures:
        measured = [name for name in recipe.methods if scores.rows(name)]
        galleries = show_pictures(scores, output, [name for name in recipe.shown if name in measured] or measured)
        write_text(output / "report.html", html_page(scores, compared, rows, command, galleries))
    return means


def _scenes(data: Sequence[Path]) -> list[Scene]:
    scenes: dict[str, Scene] = {}
    for path in data:
        check_folder(path)
        whole = path.absolute()
        name = (whole.parent if whole.suffix == ".json" else whole).name
        if name in scenes:
            raise UserError(f"{path} and {scenes[name].path} have the same name, by which results are distinguished")
        scenes[name] = Scene(whole, name)
    if not scenes:
        raise UserError("no scene given: difix3d bench SCENE... --output DIR")
    return list(scenes.values())


def _check_unchanged(jobs: Sequence[Job], recipe: Recipe, output: Path, changed: Changed) -> None:
    if changed == "redo":
        return
    scenes = {job.scene.name: job.scene for job in jobs}
    others = [  # in the same table
        Job(scenes[row["scene"]], recipe.methods[row["evaluation"]["method"]].training, row["seed"])
        for row in finished_rows(recipe, output)
        if row["scene"] in scenes
    ]
    found = {job: job.differences(output, recipe) for job in dict.fromkeys([*jobs, *others])}
    if changed == "keep":  # what another recipe made would stand in a wrong row
        found = {job: [why for why in reasons if not why.startswith("code:")] for job, reasons in found.items()}
    lines = [f"{job}: {'; '.join(reasons)}" for job, reasons in found.items() if reasons]
    if lines:
        more = f"\nand {len(lines) - 5} more" if len(lines) > 5 else ""
        listed = "\n".join(lines[:5]) + more
        raise UserError(
            f"{len(lines)} finished runs in {output} would now be made otherwise:\n{listed}\n"
            "Give --changed redo to make them again, --changed keep to keep those of which only the code has changed, "
            "or another --output."
        )
