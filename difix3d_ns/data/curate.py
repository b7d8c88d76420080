"""Curation of scenes: reconstruct each badly in several ways, and write renders of that as shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress, TaskID

import difix3d_ns
from difix3d_ns.data.capture import Capture, UnusableScene
from difix3d_ns.data.options import CurationOptions, Strategy
from difix3d_ns.data.orbit_samples import OrbitSamples
from difix3d_ns.data.reconstruct import Schedule
from difix3d_ns.data.samples import UnitSamples
from difix3d_ns.data.scene_names import ReadCapture, Scene, expand, only_procedural
from difix3d_ns.data.shards import CannotWrite, Split, keys_of, read_sidecar, write_shard
from difix3d_ns.data.strategies import Plan, Unit, make_units, plans, steps_of
from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import remove_unfinished, write_json
from difix3d_ns.io.progress import progress_bar

CLAIMS, FINISHED = "claims", "finished"  # folders beside the splits
_MIN_STEPS = 20

OnProgress = Callable[[float], None]  # share of a scene's training steps that are done


@dataclass
class SceneReport:
    """Numbers of samples made of a scene."""

    name: str
    samples: dict[str, int] = field(default_factory=dict)  # by unit
    notes: tuple[str, ...] = ()


def curate(
    scenes: Sequence[str],
    output: Path,
    options: CurationOptions | None = None,
    first_seed: int = 0,
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    console: Console | None = None,
    read: ReadCapture = only_procedural,
) -> dict[str, SceneReport]:
    """Make shards ``output/<split>/<scene>/<unit>.tar`` of scenes.

    Started again it goes on where it stopped; what is finished is not made again. Several processes or machines may
    work on one output: a scene is claimed by one of them at a time, and when it dies by the next.

    Args:
        scenes: see ``difix3d_ns.data.scene_names.expand``.
        output: root folder.
        options: what to make.
        first_seed: of ``procedural:N``.
        executor: local works through the scenes in this process; ray spreads them over a cluster, on which output
            and scenes must be on shared storage.
        address: of a Ray cluster; None starts one on this machine.
        console: where the progress goes.
        read: reads scenes that are folders.

    Returns:
        A report per scene.

    Raises:
        UserError: a scene failed (the others are made first), or the output cannot be written.
    """
    options = options or CurationOptions()
    if options.steps < _MIN_STEPS or options.hold_out < 2:
        raise UserError(f"--steps must be {_MIN_STEPS} or more, and --hold-out 2 or more")
    output, todo = Path(output), expand(scenes, first_seed)
    prepare(output)
    console = console or Console()
    if executor == "ray":
        from difix3d_ns.io.ray_jobs import run_on_ray

        arguments = (output.absolute(), options, read)
        run: Iterator[SceneReport | UserError | None] = run_on_ray(
            attempt, todo, arguments, options.threads, address, console
        )
    else:
        run = _curate_here(todo, output, options, read, console)
    reports, failures, left_out = {}, [], []
    for result in run:
        if isinstance(result, CannotWrite):
            raise result
        if isinstance(result, UnusableScene):
            left_out.append(str(result))
            console.print(f"[yellow]left out: {result}", highlight=False, soft_wrap=True)
            continue
        if isinstance(result, UserError):
            failures.append(str(result))
            console.print(f"[red]{result}", highlight=False, soft_wrap=True)
            continue
        assert result is not None  # nobody gives up waiting
        reports[result.name] = result
        for note in result.notes:
            console.print(f"{result.name}: {note}", highlight=False)
        total = sum(result.samples.values())
        console.print(f"{result.name}: {total} samples in {len(result.samples)} units", highlight=False)
    if left_out and not reports and not failures:
        raise UserError(f"nothing was made: {left_out[0]}" + (f" (and {len(left_out) - 1} more)" * (len(left_out) > 1)))
    if failures:
        raise UserError("; ".join(failures) if len(failures) < 3 else f"{len(failures)} scenes failed, see above")
    return reports


def prepare(output: Path) -> None:
    """Make the folders that several workers share.

    Raises:
        UserError: they cannot be made.
    """
    try:
        for folder in (CLAIMS, FINISHED):
            (output / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"--output {output} cannot be written: {error.strerror or error}") from error


def curate_scene(
    scene: Scene,
    output: Path,
    options: CurationOptions,
    read: ReadCapture = only_procedural,
    on_progress: OnProgress = lambda share: None,
    wait: bool = True,
) -> SceneReport | None:
    """Make all that is missing of one scene.

    Args:
        scene: which.
        output: root folder, prepared.
        options: what to make.
        read: reads scenes that are folders.
        on_progress: called while training.
        wait: for another worker that has the scene.

    Returns:
        What there is of the scene now; None if another worker has it and ``wait`` is off.

    Raises:
        UserError: the scene cannot be read, or the folder has something else of the same name.
    """
    # The system releases the lock when its owner dies, however that happens.
    lock = FileLock(output / CLAIMS / f"{scene.name}.lock")
    try:
        with lock.acquire(timeout=-1 if wait else 0), _threads(options.threads):
            return finished(scene, output, options) or _SceneRun(scene, output, options, read, on_progress).run()
    except Timeout:
        return None


def finished(scene: Scene, output: Path, options: CurationOptions) -> SceneReport | None:
    """The report of a scene of which everything is there; None if something is missing.

    Raises:
        UserError: it was made otherwise.
    """
    path = output / FINISHED / f"{scene.name}.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        units: dict[str, str] = content["units"]
        folder = output / content["split"] / scene.name
        strategies, source = set(content["strategies"]), content["source"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): delete it and run difix3d curate again") from error
    if source != scene.source:
        raise UserError(f"{scene.name} in {output} was made of {source}, not of {scene.source}: rename one of them")
    if not {*options.strategies} <= strategies or content["split"] != split_of(scene, options):
        return None
    wanted = [name for name, strategy in units.items() if strategy in options.strategies]
    if not all(_is_finished(folder / f"{name}.tar", options) for name in wanted):
        return None
    return SceneReport(scene.name, {name: len(keys_of(folder / f"{name}.tar")) for name in wanted})


def split_of(scene: Scene, options: CurationOptions) -> Split:
    """Split that a scene goes to, as a whole; auto draws by its name: more scenes change nothing for the others."""
    if options.split != "auto":
        return options.split
    draw = int.from_bytes(hashlib.sha256(scene.name.encode()).digest()[:4], "big") / 2**32
    return "validation" if draw < options.validation_share else "train"


class _SceneRun:
    """One scene, claimed by this process."""

    def __init__(
        self, scene: Scene, output: Path, options: CurationOptions, read: ReadCapture, on_progress: OnProgress
    ) -> None:
        self.scene, self.output, self.options, self.on_progress = scene, output, options, on_progress
        self.read = read
        self.split = split_of(scene, options)
        self.folder = output / self.split / scene.name
        self.schedule = Schedule(options.steps, options.max_gaussians)

    def run(self) -> SceneReport:
        self._check_split()
        remove_unfinished(self.folder)  # of a worker that was killed
        capture = self.scene.load(self.options, self.read)
        all_plans = plans(capture, self.options.strategies)
        left = [plan for plan in map(self._missing, all_plans) if plan.units]
        total, done = sum(steps_of(plan, self.schedule) for plan in left), 0

        def on_step() -> None:
            nonlocal done
            done += 1
            self.on_progress(done / total)

        for plan in left:
            self._make(capture, plan, on_step)
        units: dict[str, Strategy] = {name: strategy for plan in all_plans for name, strategy in plan.units.items()}
        self._record(units)
        counts = {name: len(keys_of(self.folder / f"{name}.tar")) for name in units}
        return SceneReport(self.scene.name, counts, capture.notes)

    def _check_split(self) -> None:
        other = "train" if self.split == "validation" else "validation"
        folder = self.output / other / self.scene.name
        if any(folder.glob("*.json")):
            raise UserError(
                f"{folder} exists: a scene is in one split only; give --split {other}, or delete that folder first"
            )

    def _missing(self, plan: Plan) -> Plan:
        units = {n: s for n, s in plan.units.items() if not _is_finished(self.folder / f"{n}.tar", self.options)}
        return replace(plan, units=units)

    def _make(self, capture: Capture, plan: Plan, on_step: Callable[[], None]) -> None:
        options = self.options
        for unit in make_units(capture, plan, self.schedule, options.seed, on_step):
            provenance = self._provenance(unit)
            samples: UnitSamples | OrbitSamples
            if unit.strategy in ("orbit", "sides"):
                samples = OrbitSamples(capture, unit, provenance)
            else:
                samples = UnitSamples(capture, unit, options.references, options.samples, provenance)
            write_shard(self.folder / f"{unit.name}.tar", samples, partial(_notes, samples, plan))

    def _provenance(self, unit: Unit) -> dict[str, Any]:
        return {
            "scene": self.scene.name,
            "unit": unit.name,
            "strategy": unit.strategy,
            "split": self.split,
            "steps": unit.steps,
            "gaussians": len(unit.splat.means),
            "seed": self.options.seed,
            "settings": self.options.settings(),
            "version": difix3d_ns.__version__,
        }

    def _record(self, units: dict[str, Strategy]) -> None:
        path = self.output / FINISHED / f"{self.scene.name}.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if before.get("split") != self.split:
            before = {}
        content = {
            "source": self.scene.source,
            "split": self.split,
            "strategies": sorted({*before.get("strategies", ()), *self.options.strategies}),
            "units": before.get("units", {}) | units,
        }
        try:
            write_json(path, content)
        except OSError as error:
            raise CannotWrite(f"{path} cannot be written: {error.strerror or error}") from error


def _notes(samples: UnitSamples | OrbitSamples, plan: Plan) -> dict[str, Any]:
    """Notes of the sidecar besides the keys."""
    kept = samples.kept
    return {
        "provenance": samples.provenance,
        "dropped": len(samples.scores) - len(kept),  # renders that show nothing
        "psnr": round(float(np.mean(kept)), 3) if kept else None,
        "train_views": len(plan.views),
    }


def _is_finished(shard: Path, options: CurationOptions) -> bool:
    sidecar = shard.with_suffix(".json")
    if not sidecar.is_file():
        return False
    content = read_sidecar(sidecar)
    made, wanted = content.get("provenance", {}).get("settings", {}), options.settings()
    if differing := [
        f"{name} {made.get(name)}, now {value}" for name, value in wanted.items() if made.get(name) != value
    ]:
        raise UserError(f"{shard} was made with other settings ({'; '.join(differing)}): give another --output")
    return shard.is_file() or not content["keys"]


def _curate_here(
    scenes: Sequence[Scene], output: Path, options: CurationOptions, read: ReadCapture, console: Console
) -> Iterator[SceneReport | UserError]:
    """Make the scenes one after the other: those nobody works on first, then what others left or have finished."""
    with progress_bar(console) as progress:
        task = progress.add_task("Curating", total=len(scenes))
        done, waiting = 0, list(scenes)
        for wait in (False, True):
            turn, waiting = waiting, []
            for scene in turn:
                progress.update(task, description=scene.name)
                result = attempt(scene, output, options, read, partial(_advance, progress, task, done), wait)
                if result is None:
                    waiting.append(scene)
                    continue
                done += 1
                progress.update(task, completed=done)
                yield result


def _advance(progress: Progress, task: TaskID, before: int, share: float) -> None:
    progress.update(task, completed=before + share)


def attempt(
    scene: Scene,
    output: Path,
    options: CurationOptions,
    read: ReadCapture = only_procedural,
    on_progress: OnProgress = lambda share: None,
    wait: bool = True,
) -> SceneReport | UserError | None:
    """``curate_scene`` with its UserError as a result: one bad scene does not keep the others from being made."""
    try:
        return curate_scene(scene, output, options, read, on_progress, wait)
    except UserError as error:
        return error


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, before[1]))
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
