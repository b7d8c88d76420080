"""Interruptions, bad inputs, full disks and busy viewers, and what became of each: `python -m benchmarks.reliability`.

    python -m benchmarks.reliability kill --method difix3d-splatfacto --kills 20
    python -m benchmarks.reliability inputs
    python -m benchmarks.reliability disk --method difix3d-splatfacto
    python -m benchmarks.reliability viewers --seconds 30

Each part adds a row per trial to benchmarks/results/reliability.jsonl, of which `python docs/quality.py` makes the
tables of docs/reliability.md, and ends with 1 if a trial went wrong. Trainings are short: 150 steps on six photos of
128 x 96 pixels, with a checkpoint every 30 steps.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import random
import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from safetensors.torch import load_file

import difix3d_ns.methods.base  # noqa: F401  (registers what torch.load may read)
from benchmarks.bad_inputs import CASES, Place, message_of
from difix3d_ns.data.procedural import demo_scene
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench.provenance import commit
from difix3d_ns.io import checkpoints
from difix3d_ns.ns.trainer import STATE_KEY
from tests.commands import forked, run_forked
from tests.conftest import command_line, with_compiled_kernels
from tests.full_disk import can_mount, mount
from tests.live_training import live_training
from tests.states import first_difference
from tests.viewer_stress import assert_nothing_went_wrong, stress, threads_but_pools

RECORD = Path(__file__).parent / "results" / "reliability.jsonl"
STEPS = 150
SMALL = (
    *("--vis", "tensorboard", "--max-num-iterations", STEPS, "--steps-per-save", 30),
    *("--pipeline.model.max-gs-num", 3000, "--machine.device-type", "cpu"),
)
OF_METHOD: dict[str, tuple[object, ...]] = {
    "difix3d-splatfacto": ("--pipeline.guidance.rounds", 2, "--pipeline.guidance.targets.count", 4),
    "sparse-splatfacto": (),
    "3dsr-splatfacto": ("--pipeline.guidance.factor", 2),
    "sparsefusion-splatfacto": (),
    "hi3d-splatfacto": ("--pipeline.guidance.frames", 8),
}
"""flags that make a method's own work fit into so short a training"""
TIMEOUT = 600  # seconds


class Trainings:
    """Short trainings of one method on one scene.

    Args:
        method: of ns-train.
        work: folder for scene and trainings.
    """

    def __init__(self, method: str, work: Path) -> None:
        if method not in OF_METHOD:
            raise UserError(f"--method {method}: one of {', '.join(OF_METHOD)} is needed")
        self.method, self._work = method, work
        self._scene = tiny_scene(work / "scene")

    def command(self, output: Path, *flags: object) -> list[str]:
        """Command line of a training that writes into a folder."""
        where = ("--data", self._scene, "--output-dir", output, "--experiment-name", "scene", "--timestamp", "run")
        return command_line("ns-train", self.method, *where, *SMALL, *OF_METHOD[self.method], *flags)

    def folder(self, output: Path) -> Path:
        """Folder that nerfstudio makes of these flags."""
        return output / "scene" / self.method / "run"

    def models(self, output: Path) -> Path:
        """Folder of the checkpoints."""
        return self.folder(output) / "nerfstudio_models"

    def unbroken(self) -> tuple[Path, float]:
        """Output of a training that nothing ended, and its seconds."""
        output = self._work / "unbroken"
        seconds = 0.0
        run_forked(command_line("difix3d", "--version"), {}, None)  # imports what all trainings are forked from

        def train() -> None:
            nonlocal seconds
            shutil.rmtree(output, ignore_errors=True)
            started = time.monotonic()
            self.finish(output)
            seconds = time.monotonic() - started

        with_compiled_kernels(train)
        return output, seconds

    def finish(self, output: Path, *flags: object) -> str:
        """Train to the end and return what the command wrote.

        Raises:
            UserError: it failed.
        """
        status, text = run_forked(self.command(output, *flags), {}, None)
        if status:
            raise UserError(f"{self.method} ended with {status}: {text[-3000:]}")
        return text

    def go_on(self, output: Path, models: Path) -> int | None:
        """Do what a user does after an interruption; return the step that training went on from, None for its start."""
        steps = checkpoints.checkpoint_steps(models) if models.is_dir() else []
        if not steps:
            self.finish(output)
            return None
        text = " ".join(self.finish(output, "--load-dir", models).split())
        found = re.search(r"going on at step (\d+)", text)
        return int(found[1]) if found else max(steps) + 1  # the last one: already trained

    def difference(self, a: Path, b: Path) -> str:
        """Place where the last checkpoints or the files beside them differ; empty where all bits are equal.

        Views are compared in place of the numbers of their files: after a kill the next number is another one.
        """
        found = first_difference(self._end(a), self._end(b), "checkpoint")
        return found or first_difference(self._others(a), self._others(b), "files")

    def leftovers(self, output: Path) -> list[str]:
        """Parts of files that were being written."""
        return sorted(str(path.relative_to(output)) for path in output.rglob("*.part*"))

    def _end(self, output: Path) -> Any:
        """The last checkpoint, with the views of its pool in it."""
        state = torch.load(self.models(output) / f"step-{STEPS - 1:09d}.ckpt", weights_only=True)
        guidance = state[STATE_KEY]["parts"].get("guidance", {})
        if "pool" in guidance:
            file = str(self.folder(output) / "pseudo_views" / "view_{:08d}.safetensors")
            guidance["pool"] = [(key, load_file(file.format(number))) for key, number in guidance["pool"]]
        return state

    def _others(self, output: Path) -> dict[str, Any]:
        """Number of files of views, and contents of all other files of tensors."""
        folder = self.folder(output)
        files = sorted(folder.rglob("*.safetensors"))
        views = [file for file in files if file.name.startswith("view_")]
        kept = {str(file.relative_to(folder)): load_file(file) for file in files if file not in views}
        return {"views": len(views), **kept}


def tiny_scene(folder: Path) -> Path:
    """Write the scene of all trials, if it is not there."""
    if not (folder / "transforms.json").is_file():
        demo_scene(folder, seed=3, width=128, height=96, train_views=6, test_views=3)
    return folder


def kill(
    method: str = "difix3d-splatfacto",
    kills: int = 20,
    seed: int = 0,
    work: Path | None = None,
    record: Path | None = RECORD,
) -> None:
    """Kill trainings at random moments with SIGKILL, go on, and compare with an unbroken training bit by bit.

    Args:
        method: of ns-train.
        kills: number of trainings that are killed.
        seed: of the moments, drawn evenly over the time that the unbroken training took.
        work: folder for the trainings (unset: a temporary one).
        record: file that rows are added to; None writes none.
    """
    with _folder(work) as place:
        trainings = Trainings(method, place)
        reference, seconds = trainings.unbroken()
        draw = random.Random(seed)
        record_of = _Record("kill", record, method=method, seed=seed, steps=STEPS, unbroken_seconds=round(seconds, 1))
        number = 0
        while number < kills:
            share = draw.random()
            output = place / "killed"
            shutil.rmtree(output, ignore_errors=True)
            with forked(trainings.command(output), place / "log") as process:
                process.join(share * seconds)
                ended = not process.is_alive()
            if ended:  # the machine was faster this time
                continue
            models = trainings.models(output)
            went_on = trainings.go_on(output, models)
            difference = trainings.difference(reference, output)
            left = trainings.leftovers(output)
            row = {"number": number, "share": round(share, 4), "at_seconds": round(share * seconds, 2)}
            row |= {"went_on_at": went_on, "difference": difference, "leftovers": left}
            record_of.add(row, not difference and not left)
            number += 1
        record_of.end()


def disk(
    method: str = "difix3d-splatfacto",
    moments: int = 5,
    seed: int = 0,
    work: Path | None = None,
    record: Path | None = RECORD,
) -> None:
    """Let the disk be full at random moments, go on with room, and compare with an unbroken training bit by bit.

    Each training has a disk of its own, with room for a random share of what the unbroken one wrote. Needs the right to
    mount.

    Args:
        method: of ns-train.
        moments: number of trainings.
        seed: of the moments.
        work: folder for the trainings (unset: a temporary one).
        record: file that rows are added to; None writes none.
    """
    with _folder(work) as place:
        small = place / "disk"
        small.mkdir(exist_ok=True)
        if not can_mount(small):
            raise UserError("disk needs the right to mount a file system: run it as root")
        trainings = Trainings(method, place)
        reference, _ = trainings.unbroken()
        size = sum(path.stat().st_size for path in reference.rglob("*") if path.is_file())
        size += 4 * next(trainings.models(reference).iterdir()).stat().st_size  # earlier checkpoints were deleted
        draw = random.Random(seed)
        record_of = _Record("disk", record, method=method, seed=seed, steps=STEPS, bytes=size)
        for number in range(moments):
            share = draw.random()
            saved, output = place / "saved", place / "went_on"
            for folder in (saved, output):
                shutil.rmtree(folder, ignore_errors=True)
            before = functools.partial(mount, small, round(share * size), saved)
            flags = ("--save-only-latest-checkpoint", "False")
            status, text = run_forked(trainings.command(small, *flags), {}, None, before)
            kept = checkpoints.checkpoint_steps(trainings.models(saved)) if trainings.models(saved).is_dir() else []
            for folder in trainings.folder(saved).glob("*"):  # views of the checkpoint lie beside it
                target = trainings.folder(output) / folder.name
                (shutil.copytree if folder.is_dir() else _copy)(folder, target)
            went_on = trainings.go_on(output, trainings.models(output)) if status else STEPS
            row = {"number": number, "share": round(share, 4), "disk_bytes": round(share * size), "status": status}
            row |= {"message": message_of(text, {small: "DISK"}), "kept": sorted(kept), "went_on_at": went_on}
            row["difference"] = trainings.difference(reference, output)
            fine = status == 1 and "Traceback" not in text and not row["difference"]
            record_of.add(row, fine)
        record_of.end()


def inputs(only: tuple[str, ...] = (), work: Path | None = None, record: Path | None = RECORD) -> None:
    """Run commands on inputs that cannot work, and keep the message that each got.

    A trial is passed if the command ends with an error, without a traceback, and its message names what is wrong.

    Args:
        only: beginnings of the names of cases (unset: all).
        work: folder for the inputs (unset: a temporary one).
        record: file that rows are added to; None writes none.
    """
    with _folder(work) as folder:
        place = Place(folder, tiny_scene(folder / "scene"))
        record_of = _Record("inputs", record)
        for name, case in CASES.items():
            if only and not name.startswith(only):
                continue
            program, *arguments = case.command(place)
            started = time.monotonic()
            status, text = run_forked(command_line(program, *map(str, arguments)), {}, folder)
            message = case.message(text, {folder: "."})
            row = {"name": name, "tried": place.shown([program, *arguments]), "status": status, "message": message}
            row["seconds"] = round(time.monotonic() - started, 1)
            record_of.add(row, case.passed(status, text, message))
        record_of.end()


def viewers(seconds: float = 30.0, work: Path | None = None, record: Path | None = RECORD) -> None:
    """Look at a training with two browser tabs that move, rest, close and open again, while it runs and after it.

    Args:
        seconds: while it runs, and again after it.
        work: folder for the training (unset: a temporary one).
        record: file that rows are added to; None writes none.
    """
    with _folder(work) as place, socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        steps = round(20 * seconds)
        scene = ("--data", tiny_scene(place / "scene"), "--output-dir", place / "outputs", "--experiment-name", "scene")
        flags = ("--max-num-iterations", steps, "--pipeline.model.max-gs-num", 3000, "--machine.device-type", "cpu")
        flags = (*flags, *OF_METHOD["difix3d-splatfacto"])
        record_of = _Record("viewers", record, method="difix3d-splatfacto", tabs=2, on_for=seconds)
        with live_training(place / "log", port, "difix3d-splatfacto", *scene, *flags) as training:
            while_training = stress(training, seconds)
            training.wait_for("status", lambda status: status["state"] == "completed", seconds=TIMEOUT)
            done = training.ask("count_steps")
            stress(training, 10)  # every kernel, thread pool and network is there now
            before, threads = training.ask("memory"), threads_but_pools(training.ask("status"))
            afterwards = stress(training, seconds)
            after, left = training.ask("memory"), sorted(set(threads_but_pools(training.ask("status"))) - set(threads))
            assert_nothing_went_wrong(training)
        lost = sorted(set(range(steps)) - set(done))
        row = {"steps": steps, "lost": len(lost), "frames": while_training, "frames_after": afterwards}
        row |= {"mib_before": round(before, 1), "mib_after": round(after, 1), "threads_left": left}
        record_of.add(row, done == list(range(steps)) and after < 1.05 * before and not left)
        record_of.end()


class _Record:
    """Rows of one part.

    Args:
        part: its name.
        path: file that rows are added to; None for none.
        facts: entries of all its rows.
    """

    def __init__(self, part: str, path: Path | None, **facts: object) -> None:
        words = ["python", "-m", "benchmarks.reliability", *sys.argv[1:]]
        self._facts = {
            "part": part,
            **facts,
            "commit": commit(),
            "date": str(date.today()),
            "command": shlex.join(words),
        }
        self._facts |= {"hardware": f"{os.cpu_count()} CPU cores", "python": platform.python_version()}
        self._path, self._failed, self._count = path, 0, 0
        self._console = Console()

    def add(self, row: dict[str, object], fine: bool) -> None:
        """Keep and show a trial."""
        self._count += 1
        self._failed += not fine
        colour = "green" if fine else "red"
        self._console.print(f"[{colour}]{'passed' if fine else 'FAILED'}[/]", json.dumps(row), highlight=False)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                print(json.dumps({**self._facts, **row, "passed": fine}), file=file)

    def end(self) -> None:
        """Say how many passed.

        Raises:
            SystemExit: one failed, or there was none.
        """
        print(f"{self._count - self._failed} of {self._count} passed")
        if self._failed or not self._count:
            raise SystemExit(1)


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """A folder that is given and kept, or a temporary one that is deleted at the end."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="reliability_") as made:
        yield Path(made)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


PARTS: dict[str, Callable[..., None]] = {"kill": kill, "inputs": inputs, "disk": disk, "viewers": viewers}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part."""
    try:
        tyro.extras.subcommand_cli_from_dict(PARTS, prog="python -m benchmarks.reliability", args=arguments)
    except UserError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
