"""Repair of picture files without a scene."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import write_json
from difix3d_ns.io.images import READABLE, WRITABLE, Picture, read_picture, write_picture
from difix3d_ns.io.progress import progress_bar
from difix3d_ns.priors.base import Fixer, FixRequest, PosedImage, default_references, describe_references
from difix3d_ns.priors.registry import fixer_of, load_fixer

RECORD = ".difix3d_fix.json"
"""in a folder of results: which of them are finished, and with which settings"""


@dataclass(frozen=True)
class _Task:
    source: Path
    target: Path
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
    pairs = _pair(inputs, output)
    tasks = [_Task(source, target, _choose(source, references, nearest or 1)) for source, target in pairs]
    shown = sorted({str(path.absolute()) for path in references})
    record = (
        _Record(output, {"weights": weights, "references": shown, "nearest": nearest})
        if (len(tasks) > 1 or not inputs[0].is_file())
        else None
    )
    left = _left_to_do(tasks, output, record, force)
    where = _device(device)
    read_reference = functools.lru_cache(maxsize=64)(lambda path: PosedImage(read_picture(path).image.to(where)))
    for path in references:
        if path.is_file():
            read_reference(path)  # one that cannot be read is reported before the work begins
    fixer = _load(weights, where, dtype, compile)
    if nearest is None and (own := _own_number(fixer)) > 1:
        left = [replace(task, references=_choose(task.source, references, own)) for task in left]
    console, written, failed = Console(stderr=True), [], []
    if sentence := describe_references(fixer, max((len(task.references) for task in left), default=0)):
        console.print(f"[yellow]--weights {escape(weights)}: {sentence}[/yellow]", highlight=False, soft_wrap=True)
    if len(left) < len(tasks):
        console.print(f"{len(tasks) - len(left)} of {len(tasks)} are finished already (--force makes them again)")
    with progress_bar(console, counted=True) as progress:
        bar = progress.add_task("Fixing", total=len(tasks), completed=len(tasks) - len(left))
        together = 4 if where.startswith("cuda") else 1
        for start in range(0, len(left), together):
            chunk = left[start : start + together]
            progress.update(bar, description=f"Fixing {chunk[0].source.name}")
            for task, error in _fix(chunk, fixer, read_reference, where):
                if error is None:
                    written.append(task.target)
                    if record is not None:
                        record.add(task)
                else:
                    failed.append(f"{task.source.name}: {error}")
                    progress.console.print(f"[red]{task.source.name}[/red]: {error}", highlight=False)
                progress.advance(bar)
    if where.startswith("cuda"):
        console.print(f"Peak memory: {torch.cuda.max_memory_allocated(where) / 2**30:.1f} GiB")
    if failed:
        raise UserError(f"{len(failed)} of {len(tasks)} pictures failed: {'; '.join(failed[:5])}")
    return written


def _fix(
    tasks: Sequence[_Task], fixer: Fixer, read_reference: functools._lru_cache_wrapper[PosedImage], where: str
) -> list[tuple[_Task, str | None]]:
    """Repair a few pictures; returns each task with its error, if there was one."""
    ready: list[tuple[_Task, Picture, FixRequest]] = []
    outcome: list[tuple[_Task, str | None]] = []
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


class _Record:
    """Finished pictures of a folder, kept in it, so that an interrupted run goes on."""

    def __init__(self, folder: Path, settings: dict[str, object]):
        self.file = folder / RECORD
        self.settings = settings
        self.done: dict[str, list[int]] = {}
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            if content["settings"] == settings:
                self.done = dict(content["done"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or none of ours

    def has(self, task: _Task) -> bool:
        return task.target.is_file() and self.done.get(task.target.name) == _stamp(task.source)

    def add(self, task: _Task) -> None:
        self.done[task.target.name] = _stamp(task.source)
        write_json(self.file, {"settings": self.settings, "done": self.done})


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _left_to_do(tasks: Sequence[_Task], output: Path, record: _Record | None, force: bool) -> list[_Task]:
    for task in tasks:
        if task.target.suffix.lower() not in WRITABLE:
            raise UserError(f"--output {task.target}: the name must end in one of {', '.join(sorted(WRITABLE))}")
        if task.target.exists() and task.target.samefile(task.source):
            raise UserError(f"--output {output} would overwrite {task.source}; choose another place")
    if force:
        return list(tasks)
    left = [task for task in tasks if record is None or not record.has(task)]
    there = [task.target for task in left if task.target.exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        why = "" if record is None else ", not made from these pictures with these settings"
        raise UserError(f"--output: {there[0]}{more} exists already{why}; --force overwrites")
    return left


def _pair(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    if len(inputs) == 1 and inputs[0].is_file():
        return [(inputs[0], output / _name(inputs[0]) if output.is_dir() else output)]
    if output.is_file():
        raise UserError(f"--output {output} is a file; several pictures need a folder")
    pairs: list[tuple[Path, Path]] = []
    for path in inputs:
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = _pictures_of(path)
        else:
            raise UserError(f"{path} does not exist")
        pairs += [(file, output / _name(file)) for file in files]
    targets = [target for _, target in pairs]
    twice = {target.name for target in targets if targets.count(target) > 1}
    if twice:
        raise UserError(f"several inputs are named {sorted(twice)[0]}; give them different names or run them apart")
    return pairs


def _name(file: Path) -> str:
    return file.name if file.suffix.lower() in WRITABLE else f"{file.stem}.png"


def _pictures_of(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in READABLE and file.name[0] != ".")
    if not files:
        raise UserError(f"{folder} has no pictures (files named .png, .jpg or another ending Pillow knows)")
    return files


def _choose(source: Path, references: Sequence[Path], nearest: int) -> tuple[Path, ...]:
    """Files as they are given; of each folder the nearest by name, the picture itself left out."""
    chosen: list[Path] = []
    for path in references:
        if path.is_dir():
            others = [file for file in _pictures_of(path) if not file.samefile(source)]
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


def _device(name: str | None) -> str:
    where = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {where}: not usable here ({str(error).splitlines()[0]}); try cpu") from error
    return where


def _load(weights: str, where: str, dtype: torch.dtype | None, compile: bool) -> Fixer:
    try:
        name, path = fixer_of(weights)
        return load_fixer(name, path, where, dtype, compile)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"--weights {weights}: {error}") from error
