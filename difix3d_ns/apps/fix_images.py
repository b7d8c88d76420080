"""Repair of picture files without a scene."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from difix3d_ns.apps.picture_tasks import (
    FinishedPictures,
    Outcome,
    PictureTask,
    left_to_do,
    picture_tasks,
    pictures_of,
    usable_device,
    work_through,
)
from difix3d_ns.errors import UserError
from difix3d_ns.io.images import Picture, read_picture, write_picture
from difix3d_ns.priors.base import Fixer, FixRequest, PosedImage, default_references, describe_references
from difix3d_ns.priors.registry import fixer_of, load_fixer

RECORD = ".difix3d_fix.json"
"""in a folder of results: which of them are finished, and with which settings"""


@dataclass(frozen=True)
class _Task(PictureTask):
    references: tuple[Path, ...]


def fix_pictures(
    inputs: Sequence[Path],
    output: Path,
    references: Sequence[Path],
    weights: str,
    device: str | None,
    dtype: torch.dtype | None = None,
    force: bool = False,
    nearest: int | None = None,
    compile: bool = False,
) -> list[Path]:
    """Repair picture files; those of an earlier run that was interrupted are not made again.

    Args:
        inputs: pictures or folders of pictures.
        output: a file if there is a single file in ``inputs``, else a folder (same names).
        references: photographs shown to the fixer, unaligned; of a folder the ``nearest`` by name.
        weights: the name of a fixer, a file or folder of weights, or a hub id.
        device: None for CUDA where there is one.
        dtype: None for the fastest the device handles well.
        force: overwrite what is there.
        nearest: photographs chosen from each folder of references for each picture; None: the fixer's own number.
        compile: compile the networks first.

    Returns:
        The files written.

    Raises:
        UserError: nothing was begun, since an input is missing, two would get one name, or something would be
            overwritten; or, at the end, some pictures failed.
    """
    tasks = [
        _Task(task.source, task.target, _choose(task.source, references, nearest or 1))
        for task in picture_tasks(inputs, output)
    ]
    shown = sorted({str(path.absolute()) for path in references})
    settings: dict[str, object] = {"weights": weights, "references": shown, "nearest": nearest}
    single = len(tasks) == 1 and inputs[0].is_file()
    record = None if single else FinishedPictures(output / RECORD, settings)
    left = left_to_do(tasks, output, record, force)
    where = usable_device(device)
    read_reference = functools.lru_cache(maxsize=64)(lambda path: PosedImage(read_picture(path).image.to(where)))
    for path in references:
        if path.is_file():
            read_reference(path)  # one that cannot be read is reported before the work begins
    fixer = _load(weights, where, dtype, compile)
    if nearest is None and (own := _own_number(fixer)) > 1:
        left = [replace(task, references=_choose(task.source, references, own)) for task in left]
    console = Console(stderr=True)
    if sentence := describe_references(fixer, max((len(task.references) for task in left), default=0)):
        console.print(f"[yellow]--weights {escape(weights)}: {sentence}[/yellow]", highlight=False, soft_wrap=True)
    try:
        together = 4 if where.startswith("cuda") else 1
        return work_through(
            tasks, left, record, "Fixing", lambda chunk, _: _fix(chunk, fixer, read_reference, where), together
        )
    finally:
        if where.startswith("cuda"):
            console.print(f"Peak memory: {torch.cuda.max_memory_allocated(where) / 2**30:.1f} GiB")


def _fix(
    tasks: Sequence[_Task], fixer: Fixer, read_reference: functools._lru_cache_wrapper[PosedImage], where: str
) -> list[Outcome[_Task]]:
    """Repair a few pictures; returns each task with its error, if there was one."""
    ready: list[tuple[_Task, Picture, FixRequest]] = []
    outcome: list[Outcome[_Task]] = []
    for task in tasks:
        try:
            picture = read_picture(task.source)
            shown = [read_reference(path) for path in task.references]
            ready.append((task, picture, FixRequest(picture.image.to(where), shown)))
        except UserError as error:
            outcome.append((task, str(error)))
    try:
        results = fixer.fix([request for _, _, request in ready])
    except (RuntimeError, ValueError) as error:
        if len(tasks) == 1:
            return [*outcome, (tasks[0], str(error))]
        return [pair for task in tasks for pair in _fix([task], fixer, read_reference, where)]
    for (task, picture, _), result in zip(ready, results, strict=True):
        try:
            write_picture(task.target, picture.repaired(result.image))
            outcome.append((task, None))
        except OSError as error:
            outcome.append((task, f"--output: {task.target} cannot be written: {error}"))
    return outcome


def _choose(source: Path, references: Sequence[Path], nearest: int) -> tuple[Path, ...]:
    """Files as they are given; of each folder the nearest by name, the picture itself left out."""
    chosen: list[Path] = []
    for path in references:
        if path.is_dir():
            others = [file for file in pictures_of(path) if not file.samefile(source)]
            chosen += sorted(others, key=lambda file: (*_distance(source.stem, file.stem), file.name))[:nearest]
        elif path.is_file():
            chosen.append(path)
        else:
            raise UserError(f"--reference: {path} does not exist")
    return tuple(chosen)


def _distance(one: str, other: str) -> tuple[float, float]:
    """Distance of two names: between their last numbers, if both have one, then the share of letters that differ."""
    numbers = [re.findall(r"\d+", name) for name in (one, other)]
    apart = abs(int(numbers[0][-1]) - int(numbers[1][-1])) if all(numbers) else float("inf")
    return apart, 1 - difflib.SequenceMatcher(None, one, other).ratio()


def _own_number(fixer: Fixer) -> int:
    """References unless somebody says otherwise; without cameras one is enough for a fixer that does not know."""
    return 1 if getattr(fixer, "trained_references", None) is None else default_references(fixer)


def _load(weights: str, where: str, dtype: torch.dtype | None, compile: bool) -> Fixer:
    try:
        name, path = fixer_of(weights)
        return load_fixer(name, path, where, dtype, compile)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"--weights {weights}: {error}") from error
