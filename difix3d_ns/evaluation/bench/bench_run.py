"""``difix3d bench``: from scenes and a recipe to results.json and table.md."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench import record
from difix3d_ns.evaluation.bench.bench_recipe import Recipe, load_recipe
from difix3d_ns.evaluation.bench.html import report
from difix3d_ns.evaluation.bench.job import Changed, CodeChanged, Job, Scene, State, made_by, missing_parts, run_job
from difix3d_ns.evaluation.bench.kept_pictures import write_scene_comparison
from difix3d_ns.evaluation.bench.results import Scores, compare, gather, results
from difix3d_ns.evaluation.bench.tables import document, page
from difix3d_ns.io.atomic import write_json, write_text
from difix3d_ns.ns.scene_checks import check_transforms
from difix3d_ns.ns.trainer import CPU_ITERATIONS, CUDA_ITERATIONS

_SHOWN = ("plain", "plain-tuned", "fix-only", "difix3d", "difix3d+")
"""Columns of the pictures, where a recipe has them; else all its methods."""


def bench(
    data: Sequence[Path],
    output: Path,
    seeds: Sequence[int] = (),
    methods: Sequence[str] = (),
    recipe: str | Path = "default",
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    changed: Changed = "refuse",
    folder: Path | None = None,
    console: Console | None = None,
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Train and compare methods on scenes; started again it goes on where it stopped.

    Writes ``results.json``, ``comparisons.json``, ``table.md``, ``report.html``, ``comparison/SCENE.png`` and, per
    training, ``runs/SCENE/METHOD/seed-N/`` into ``output``.

    Args:
        data: scenes with evaluation views.
        output: folder, made if needed.
        seeds: instead of the recipe's.
        methods: only these of the recipe.
        recipe: name or path.
        executor: local trains one after the other; ray spreads scenes over a cluster, on which scenes and output must
            be on shared storage.
        address: of a Ray cluster; None starts one on this machine.
        changed: what becomes of finished runs that the recipe, the scene or the code would now make otherwise: refuse
            ends with a list of them, redo makes them again, keep keeps those of which only the code has changed.
        folder: where finished runs are put on record; None for ``benchmarks/results`` of the checkout.
        console: for progress and table.

    Returns:
        What results.json holds (see ``results``).

    Raises:
        UserError: a scene or recipe cannot be used, or a training failed; the others are finished first.
    """
    console = console or Console(file=sys.stdout)  # evaluations send what is printed to their log
    plan = load_recipe(recipe).chosen(methods)
    steps = plan.steps or (CUDA_ITERATIONS if torch.cuda.is_available() else CPU_ITERATIONS)
    plan = dataclasses.replace(plan, steps=steps, seeds=tuple(dict.fromkeys(seeds)) or plan.seeds)
    scenes = _scenes(data)
    output = output.absolute()
    jobs = [Job(scene, training, seed) for scene in scenes for seed in plan.seeds for training in plan.trainings()]
    _check_unchanged(jobs, plan, output, changed)
    output.mkdir(parents=True, exist_ok=True)
    folder = record.default_folder(output) if folder is None else folder
    command = _command(scenes, plan, methods, seeds)

    def write(last: bool = False) -> Scores:
        return _write(plan, _finished(plan, scenes, output), output, folder, command, last)

    failures = []
    if executor == "ray":
        from difix3d_ns.io.ray_jobs import run_on_ray

        arguments = (plan, output, changed)
        for result in run_on_ray(run_scene, scenes, arguments, plan.cpus, address, console, gpus=1):
            failures += [str(result)] if isinstance(result, UserError) else result
            write()
    else:
        for failure in _run_here(jobs, plan, output, changed, console):
            if failure:
                failures.append(failure)
                console.print(f"[red]{failure}", highlight=False, soft_wrap=True)
            write()
    scores = write(last=True)
    told = f"Report: {output / 'report.html'}   table: {output / 'table.md'}   numbers: {output / 'results.json'}"
    console.print(told, highlight=False, soft_wrap=True)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(jobs)} trainings failed (start again to try them again): " + "; ".join(failures)
        )
    return results(scores)


def run_scene(scene: Scene, recipe: Recipe, output: Path, changed: Changed) -> list[str]:
    """All jobs of one scene, on whatever machine this is; returns what failed."""
    failures: list[str] = []
    for seed in recipe.seeds:
        for training in recipe.trainings():
            try:
                run_job(Job(scene, training, seed), recipe, output, changed)
            except CodeChanged as error:
                return [*failures, str(error)]
            except UserError as error:
                failures.append(str(error))
    return failures


def _run_here(jobs: Sequence[Job], recipe: Recipe, output: Path, changed: Changed, console: Console) -> Iterator[str]:
    """What failed of each job, empty if nothing."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        todo = [job for job in jobs if missing_parts(job, recipe, job.state(output)) or changed == "redo"]
        whole = progress.add_task("Trainings", total=len(jobs), completed=len(jobs) - len(todo))
        for job in todo:
            progress.update(whole, description=str(job))
            failure = ""
            try:
                run_job(job, recipe, output, changed)
            except CodeChanged:
                raise
            except UserError as error:
                failure = str(error)
            progress.advance(whole)
            yield failure


def _scenes(data: Sequence[Path]) -> list[Scene]:
    scenes: dict[str, Scene] = {}
    for path in data:
        check_transforms(path)
        whole = path.absolute()
        name = (whole.parent if whole.suffix == ".json" else whole).name
        if name in scenes:
            raise UserError(f"{path} and {scenes[name].path} have the same name, by which results are told apart")
        scenes[name] = Scene(whole, name)
    if not scenes:
        raise UserError("no scene given: difix3d bench SCENE... --output DIR")
    return list(scenes.values())


def _finished(recipe: Recipe, scenes: Sequence[Scene], output: Path) -> list[State]:
    """States of all jobs in the output that are the recipe's, of earlier calls too: these scenes first, then others."""
    found, trainings = [], set(recipe.trainings())
    for path in sorted(output.glob("runs/*/*/seed-*/job.json")):
        scene, training, seed = path.parts[-4], path.parts[-3], path.parts[-2].removeprefix("seed-")
        if training in trainings and seed.isdecimal():
            job = Job(Scene(Path(scene), scene), training, int(seed))
            state = job.state(output)
            if state is not None and state["parts"] and made_by(state, job, recipe):
                found.append(state)
    rank = {scene.name: number for number, scene in enumerate(scenes)}
    return sorted(found, key=lambda state: (rank.get(state["scene"], len(rank)), state["scene"], state["seed"]))


def _check_unchanged(jobs: Sequence[Job], recipe: Recipe, output: Path, changed: Changed) -> None:
    if changed == "redo":
        return
    scenes = {job.scene.name: job.scene for job in jobs}
    states = [state for state in _finished(recipe, list(scenes.values()), output) if state["scene"] in scenes]
    others = [Job(scenes[state["scene"]], state["training"], state["seed"]) for state in states]  # in the same table
    found = {job: job.differences(output, recipe) for job in dict.fromkeys([*jobs, *others])}
    if changed == "keep":  # what another recipe made would stand in a wrong row
        found = {job: [why for why in reasons if not why.startswith("code:")] for job, reasons in found.items()}
    told = [f"{job}: {'; '.join(reasons)}" for job, reasons in found.items() if reasons]
    if told:
        more = f"\nand {len(told) - 5} more" if len(told) > 5 else ""
        raise UserError(
            f"{len(told)} finished runs in {output} would now be made otherwise:\n" + "\n".join(told[:5]) + more + "\n"
            "Give --changed redo to make them again, --changed keep to keep those of which only the code has changed, "
            "or another --output."
        )


def _command(scenes: Sequence[Scene], recipe: Recipe, methods: Sequence[str], seeds: Sequence[int]) -> str:
    words = ["difix3d", "bench", *(scene.name for scene in scenes), "--output", "DIR", "--recipe", recipe.name]
    words += ["--seeds", *map(str, seeds)] if seeds else []
    words += ["--methods", *methods] if methods else []
    return shlex.join(words)


def _write(recipe: Recipe, states: Sequence[State], output: Path, folder: Path, command: str, last: bool) -> Scores:
    scores = gather(recipe, states)
    compared = [entry for comparison in recipe.compare if (entry := compare(scores, comparison)) is not None]
    write_json(output / "results.json", results(scores))
    told = {"chosen": scores.chosen, "counted": scores.counted, "compared": [entry.as_json() for entry in compared]}
    write_json(output / "comparisons.json", told)
    parts = document(scores, compared, states, command)
    write_text(output / "table.md", page(parts))
    if recipe.on_record:
        record.append(states, recipe, folder)
    if last:
        methods = [name for name in _SHOWN if name in recipe.methods] or list(recipe.methods)
        columns = {name: scores.chosen.get(name, name) for name in methods if scores.rows(name)}
        for scene in scores.scenes:
            write_scene_comparison(output / "comparison" / f"{scene}.png", output / "pictures" / scene, columns)
        write_text(output / "report.html", report(parts, scores, compared, output / "pictures", columns))
    return scores
