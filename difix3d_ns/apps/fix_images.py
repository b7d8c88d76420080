"""Repair of picture files outside of any training."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
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
from difix3d_ns.apps.picture_views import (
    MAX_CANDIDATES,
    MatchedViews,
    SceneViews,
    TrainingViews,
    UnalignedViews,
    Views,
)
from difix3d_ns.errors import UserError
from difix3d_ns.io.images import Picture, read_picture, write_picture
from difix3d_ns.priors.base import Fixer, FixRequest
from difix3d_ns.priors.registry import fixer_of, load_fixer

RECORD = ".difix3d_fix.json"
"""in a folder of results: which of them are finished, and with which settings"""


@dataclass(frozen=True)
class Sources:
    """Photographs or cameras by which pictures are repaired."""

    references: tuple[Path, ...] = ()
    """photographs, or folders of them, whose cameras are not known"""
    scene: Path | None = None
    """what ns-train reads"""
    config: Path | None = None
    """config.yml of a finished training"""
    nearest: int | None = None
    """photographs chosen from each folder of references for each picture; None: the fixer's own number"""

    def check(self) -> None:
        """Raise a UserError if more than one is given, or one is not there."""
        given = [name for name in ("references", "scene", "config") if getattr(self, name)]
        if len(given) > 1:
            raise UserError("give one of --reference, --scene and --config")
        if self.nearest is not None and self.nearest < 1:
            raise UserError(f"--nearest {self.nearest}: at least 1 is needed")
        if self.nearest is not None and not self.references:
            raise UserError("--nearest chooses photos of a folder of references: give --reference as well")
        for flag, path in (("--scene", self.scene), ("--config", self.config)):
            if path is not None and not path.exists():
                raise UserError(f"{flag} {path} does not exist")

    def settings(self) -> dict[str, object]:
        """Return what results depend on, as JSON has it."""
        content: dict[str, object] = {
            "references": sorted({str(path.absolute()) for path in self.references}),
            "nearest": self.nearest,
        }
        for name in ("scene", "config"):
            if (path := getattr(self, name)) is not None:
                content[name] = [str(path.absolute()), _newest(path)]
        return content


def _newest(path: Path) -> int:
    """Time in nanoseconds of the last change to a scene's description or to a training's checkpoints."""
    places = [path, path / "transforms.json", *(path.parent / "nerfstudio_models").glob("*.ckpt")]
    return max(place.stat().st_mtime_ns for place in places if place.is_file() or place == path)


def fix_pictures(
    inputs: Sequence[Path],
    output: Path,
    sources: Sources,
    weights: str,
    device: str | None,
    dtype: torch.dtype | None = None,
    force: bool = False,
    compile: bool = False,
) -> list[Path]:
    """Repair picture files; those of an earlier run that was interrupted are not made again.

    Args:
        inputs: pictures or folders of pictures.
        output: a file if there is a single file in ``inputs``, else a folder (same names).
        sources: what shows the same.
        weights: the name of a fixer, a file or folder of weights, or a hub id.
        device: None for CUDA where there is one.
        dtype: None for the fastest the device handles well.
        force: overwrite what is there.
        compile: compile the networks first.

    Returns:
        The files written.

    Raises:
        UserError: nothing was begun, since an input is missing, two would get one name, something would be
            overwritten, or nothing shows what the pictures show; or, at the end, some pictures failed.
    """
    sources.check()
    tasks = picture_tasks(inputs, output)
    for task in tasks:
        _choose(task.source, sources.references, 1)  # one that is missing is reported before the work begins
    single = len(tasks) == 1 and inputs[0].is_file()
    record = None if single else FinishedPictures(output / RECORD, {"weights": weights, **sources.settings()})
    left = left_to_do(tasks, output, record, force)
    where = usable_device(device)
    if not left:
        return work_through(tasks, left, record, "Fixing", lambda chunk, _: [])
    for path in sources.references:
        if path.is_file():
            read_picture(path)
    fixer = load_named_fixer(weights, where, dtype, compile)
    views = views_of(sources, fixer, weights, where, [task.source for task in left])
    try:
        together = 4 if where.startswith("cuda") else 1
        return work_through(tasks, left, record, "Fixing", lambda chunk, _: _fix(chunk, fixer, views, where), together)
    finally:
        if where.startswith("cuda"):
            Console(stderr=True).print(f"Peak memory: {torch.cuda.max_memory_allocated(where) / 2**30:.1f} GiB")


def views_of(sources: Sources, fixer: Fixer, weights: str, where: str, pictures: Sequence[Path]) -> Views:
    """Find out what a fixer is told of pictures, and say what becomes of the references.

    Args:
        sources: what was given.
        fixer: which.
        weights: as given, for messages.
        where: the device.
        pictures: files, for the number of references.

    Raises:
        UserError: the fixer can do nothing with what was given.
    """
    count = sources.nearest or fixer.default_references
    if sources.scene is not None:
        return SceneViews(sources.scene, count, where)
    if sources.config is not None:
        return TrainingViews(sources.config, count, where)
    if fixer.aligns:
        if not sources.references:
            raise UserError(
                f"--weights {weights} repairs pictures by what photos show: give photos of the same things "
                "(--reference), or, for pictures that are named after its photos, a scene (--scene) or the config.yml "
                "of a training (--config)"
            )
        return MatchedViews(lambda source: _choose(source, sources.references, max(MAX_CANDIDATES, count)), count)
    own = sources.nearest or (1 if fixer.trained_references is None else count)

    def choose(source: Path) -> tuple[Path, ...]:
        return _choose(source, sources.references, max(1, own))

    shown = max((len(choose(picture)) for picture in pictures), default=0)
    if sentence := fixer.describe(shown):
        console = Console(stderr=True)
        console.print(f"[yellow]--weights {escape(weights)}: {sentence}[/yellow]", highlight=False, soft_wrap=True)
    return UnalignedViews(choose, where)


def _fix(tasks: Sequence[PictureTask], fixer: Fixer, views: Views, where: str) -> list[Outcome[PictureTask]]:
    """Repair a few pictures; returns each task with its error, if there was one."""
    ready: list[tuple[PictureTask, Picture, FixRequest]] = []
    outcome: list[Outcome[PictureTask]] = []
    for task in tasks:
        try:
            picture = read_picture(task.source)
            ready.append((task, picture, views.request(task.source, picture.image.to(where))))
        except (UserError, RuntimeError, ValueError, cv2.error, np.linalg.LinAlgError) as error:
            outcome.append((task, str(error)))
    try:
        results = fixer.fix([request for _, _, request in ready])
    except (RuntimeError, ValueError) as error:
        if len(tasks) == 1:
            return [*outcome, (tasks[0], str(error))]
        return [pair for task in tasks for pair in _fix([task], fixer, views, where)]
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


def load_named_fixer(weights: str, where: str, dtype: torch.dtype | None = None, compile: bool = False) -> Fixer:
    """Load a fixer by one word.

    Args:
        weights: its name, a file or folder of weights, or a hub id.
        where: the device.
        dtype: None for the fastest the device handles well.
        compile: compile the networks.

    Raises:
        UserError: there is none, or it cannot be read; the message names --weights.
    """
    try:
        name, path = fixer_of(weights)
        return load_fixer(name, path, where, dtype, compile)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"--weights {weights}: {error}") from error
