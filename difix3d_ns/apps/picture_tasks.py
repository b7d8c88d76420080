"""Picture files that a command reads and writes: their names, and which of them an earlier run has finished."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.markup import escape

from difix3d_ns.errors import UserError, first_line
from difix3d_ns.io.atomic import write_json
from difix3d_ns.io.images import READABLE, WRITABLE
from difix3d_ns.io.progress import progress_bar


@dataclass(frozen=True)
class PictureTask:
    """A picture to read and where its result goes."""

    source: Path
    target: Path


AnyTask = TypeVar("AnyTask", bound=PictureTask)
Outcome = tuple[AnyTask, str | None]
"""a task that was tried, with its error, if there was one"""


def picture_tasks(inputs: Sequence[Path], output: Path) -> list[PictureTask]:
    """List what is to be made of pictures and folders of pictures; names are kept where they can be written.

    Args:
        inputs: files and folders.
        output: a file if there is a single file in ``inputs``, else a folder.

    Raises:
        UserError: there are no inputs, one is missing or empty, or two would get one name.
    """
    if not inputs:
        raise UserError("no pictures are given; name files or folders of pictures before --output")
    if len(inputs) == 1 and inputs[0].is_file():
        return [PictureTask(inputs[0], output / _name(inputs[0]) if output.is_dir() else output)]
    if output.is_file():
        raise UserError(f"--output {output} is a file; several pictures need a folder")
    tasks: list[PictureTask] = []
    for path in inputs:
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = pictures_of(path)
        else:
            raise UserError(f"{path} does not exist")
        tasks += [PictureTask(file, output / _name(file)) for file in files]
    twice = {target.name for target, count in Counter(task.target for task in tasks).items() if count > 1}
    if twice:
        raise UserError(f"several inputs are named {sorted(twice)[0]}; give them different names or run them apart")
    return tasks


def _name(file: Path) -> str:
    return file.name if file.suffix.lower() in WRITABLE else f"{file.stem}.png"


def pictures_of(folder: Path) -> list[Path]:
    """List the pictures of a folder by name.

    Raises:
        UserError: there are none.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in READABLE and file.name[0] != ".")
    if not files:
        raise UserError(f"{folder} has no pictures (files named .png, .jpg or another ending Pillow knows)")
    return files


class FinishedPictures:
    """Finished pictures of a folder, kept in it, so that an interrupted run goes on.

    Args:
        file: of the record, in that folder.
        settings: what the pictures depend on besides their sources, as JSON has it.
    """

    def __init__(self, file: Path, settings: dict[str, object]) -> None:
        self.file = file
        self.settings = settings
        self.done: dict[str, list[int]] = {}
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            if content["settings"] == settings:
                self.done = dict(content["done"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or none of ours

    def has(self, task: PictureTask) -> bool:
        """Return whether the result is there, made from this very file with these settings."""
        return task.target.is_file() and self.done.get(task.target.name) == _stamp(task.source)

    def add(self, task: PictureTask) -> None:
        """Note that the result has been written."""
        self.done[task.target.name] = _stamp(task.source)
        write_json(self.file, {"settings": self.settings, "done": self.done})


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def left_to_do(tasks: Sequence[AnyTask], output: Path, record: FinishedPictures | None, force: bool) -> list[AnyTask]:
    """Choose the tasks that no earlier run has finished.

    Args:
        tasks: of ``picture_tasks``.
        output: as given, for messages.
        record: of the folder; None for a single file.
        force: all of them, whatever is there.

    Raises:
        UserError: something would be overwritten, or cannot be written by its name.
    """
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
        verb = "exist" if more else "exists"
        raise UserError(f"--output: {there[0]}{more} {verb} already{why}; --force overwrites")
    return left


def usable_device(name: str | None) -> str:
    """Name of the device to work on: the given one, or cuda where there is one.

    Raises:
        UserError: it cannot be used.
    """
    where = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {where}: not usable here ({first_line(error)}); try cpu") from error
    return where


def work_through(
    tasks: Sequence[AnyTask],
    left: Sequence[AnyTask],
    record: FinishedPictures | None,
    verb: str,
    work: Callable[[list[AnyTask], Callable[[str], None]], Iterable[Outcome[AnyTask]]],
    together: int = 1,
) -> list[Path]:
    """Do tasks one after the other, with a progress bar; one that fails does not stop the others.

    Args:
        tasks: all, for the count.
        left: those to do.
        record: of the folder; None for a single file.
        verb: what is done, for people: "Fixing".
        work: does a few tasks, and may say meanwhile what it is at.
        together: tasks handed to it at a time.

    Returns:
        The files written.

    Raises:
        UserError: at the end, if some failed.
    """
    console, written, failed = Console(stderr=True), [], []
    if len(left) < len(tasks):
        console.print(f"{len(tasks) - len(left)} of {len(tasks)} are finished already (--force makes them again)")
    with progress_bar(console, counted=True) as progress:
        bar = progress.add_task(verb, total=len(tasks), completed=len(tasks) - len(left))

        def say(words: str) -> None:
            progress.update(bar, description=f"{verb} {escape(words)}")

        for start in range(0, len(left), together):
            chunk = list(left[start : start + together])
            say(chunk[0].source.name)
            for task, error in work(chunk, say):
                if error is None:
                    written.append(task.target)
                    if record is not None:
                        record.add(task)
                else:
                    failed.append(f"{task.source.name}: {error}")
                    progress.console.print(f"[red]{escape(task.source.name)}[/red]: {escape(error)}", highlight=False)
                progress.advance(bar)
    if failed:
        raise UserError(f"{len(failed)} of {len(tasks)} pictures failed: {'; '.join(failed[:5])}")
    return written
