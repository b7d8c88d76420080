"""Seconds until the first step of a training on the CPU, and peak memory until then, by stage.

    difix3d demo-scene --output demo
    python benchmarks/start.py demo [--before CHECKOUT] [--turns 2] [--steps 1]

Compared are this checkout's ``ns-train difix3d-splatfacto``, an earlier one's, and ``ns-train splatfacto`` of
nerfstudio alone. That one cannot train without CUDA: it gets this package's rasterizer, ``.cuda()`` that does nothing
and an LPIPS without weights, and no plugin is loaded. They take turns, after one that counts for none and fills the
caches; figures are medians. Memory is the resident set's peak, megabytes of 2^20 bytes.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ALONE = "nerfstudio alone"
STARTED = "BENCHMARK_STARTED"  # environment variable: seconds since the epoch
STAGES = ("imports", "settings", "scene", "model", "initial points", "fixer", "viewer, writers", "first step")
LATER = "later steps"
Marks = dict[str, tuple[float, float]]  # by stage: seconds since the start, peak megabytes

marks: Marks = {}


def mark(stage: str) -> None:
    """Note that a stage has ended, once."""
    if stage not in marks:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        marks[stage] = (time.time() - float(os.environ[STARTED]), peak)


def around(owner: Any, name: str, before: str = "", after: str = "") -> None:
    """Let a function end stages where it begins and where it returns; nothing if there is no such function."""
    function = getattr(owner, name, None)
    if function is None:
        return

    @functools.wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        if before:
            mark(before)
        result = function(*args, **kwargs)
        if after:
            mark(after)
        return result

    setattr(owner, name, marked)


def without_plugins() -> None:
    """Hide installed methods from nerfstudio."""
    find = importlib.metadata.entry_points

    def hidden(**which: Any) -> Any:
        found = find(**which)
        return found.select(name="") if which.get("group") == "nerfstudio.method_configs" else found

    importlib.metadata.entry_points = hidden


def train_alone_on_cpu() -> None:
    """Give plain splatfacto what it needs to train on a CPU."""
    import torch
    from nerfstudio.models import splatfacto

    def rasterization(*args: Any, **kwargs: Any) -> Any:
        from difix3d_ns.rasterization import rasterization

        return rasterization(*args, **kwargs)

    populate = splatfacto.SplatfactoModel.populate_modules

    def populate_without_weights(self: Any) -> None:
        from torchmetrics.image import lpip

        lpip.LearnedPerceptualImagePatchSimilarity = lambda **options: torch.nn.Identity()  # type: ignore
        populate(self)

    splatfacto.rasterization = rasterization
    splatfacto.SplatfactoModel.populate_modules = populate_without_weights
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore


def train(alone: bool, steps: int, result: Path) -> None:
    """Train as ns-train does with the arguments that are left, to the last of ``steps``; write the stages there."""
    if alone:
        without_plugins()
    from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
    from nerfstudio.engine.trainer import Trainer
    from nerfstudio.pipelines.base_pipeline import VanillaPipeline
    from nerfstudio.scripts import train as command

    mark("imports")
    if alone:
        train_alone_on_cpu()
    else:
        from difix3d_ns.ns.pipeline import GuidedPipeline

        around(GuidedPipeline, "set_up_guidance", "initial points", "fixer")
    around(command, "train_loop", "settings")
    around(FullImageDatamanager, "__init__", "", "scene")
    around(VanillaPipeline, "__init__", "", "model")
    around(Trainer, "setup", "", "viewer, writers")
    iterate: Callable[..., Any] = Trainer.train_iteration

    def iterate_and_end(self: Any, step: int) -> Any:
        returned = iterate(self, step)
        mark("first step")
        if step + 1 >= steps:
            mark(LATER)
            result.write_text(json.dumps(marks))
            os._exit(0)  # nothing is measured of what comes after
        return returned

    Trainer.train_iteration = iterate_and_end  # type: ignore[method-assign]
    command.entrypoint()


def measure(label: str, checkout: Path, data: Path, steps: int, folder: Path) -> Marks:
    """Run one training in a process of its own."""
    result, log = folder / "stages.json", folder / "log.txt"
    result.unlink(missing_ok=True)
    alone = label == ALONE
    command = [sys.executable, str(Path(__file__).resolve()), "--train", str(result), "--steps", str(steps)]
    command += ["--alone"] * alone + [str(data), "splatfacto" if alone else "difix3d-splatfacto"]
    command += ["--machine.device-type", "cpu", "--data", str(data), "--output-dir", str(folder / "outputs")]
    command += ["--vis", "viewer+tensorboard"]
    if alone:  # in images and cameras what the others fit to a CPU by themselves
        command += ["--pipeline.datamanager.cache-images", "gpu"]
    variables = {"PYTHONPATH": str(checkout), "CUDA_VISIBLE_DEVICES": "", STARTED: repr(time.time())}
    if alone:
        variables["TORCHDYNAMO_DISABLE"] = "1"  # compiling takes half a minute
    with log.open("w") as file:
        subprocess.run(command, env=os.environ | variables, stdout=file, stderr=subprocess.STDOUT, check=False)
    if not result.exists():
        sys.exit(f"{label} has ended before step {steps}:\n{log.read_text()[-3000:]}")
    return {stage: (seconds, peak) for stage, (seconds, peak) in json.loads(result.read_text()).items()}


def table(runs: dict[str, list[Marks]], steps: int) -> str:
    """Lines of a table in Markdown: of each stage its seconds and the peak until its end."""
    stages = [*STAGES, LATER] if steps > 1 else list(STAGES)
    lines = ["| | " + " | ".join(f"{label}, s | MB" for label in runs) + " |", "|---|" + "---:|---:|" * len(runs)]
    for stage in [*stages, "all"]:
        cells = []
        for turns in runs.values():
            mine = [name for name in stages if name in turns[0]]
            if stage != "all" and stage not in mine:
                cells += ["", ""]
                continue
            last = mine[-1] if stage == "all" else stage
            earlier = None if stage == "all" or stage == mine[0] else mine[mine.index(stage) - 1]
            seconds = [turn[last][0] - (turn[earlier][0] if earlier else 0) for turn in turns]
            cells += [f"{statistics.median(seconds):.1f}", f"{statistics.median(turn[last][1] for turn in turns):.0f}"]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="scene that is trained on")
    parser.add_argument("--before", type=Path, help="checkout of an earlier version")
    parser.add_argument("--turns", type=int, default=2, help="that count")
    parser.add_argument("--steps", type=int, default=1, help="of each training; memory is measured to the last")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.train:
        sys.argv[1:] = rest
        train(options.alone, options.steps, options.train)
        return
    checkouts = {ALONE: ROOT} | ({"before": options.before.resolve()} if options.before else {}) | {"now": ROOT}
    runs: dict[str, list[Marks]] = {label: [] for label in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.turns + 1):
            for label, checkout in checkouts.items():
                marks = measure(label, checkout, options.data.resolve(), options.steps, Path(folder))
                if turn:
                    runs[label].append(marks)
    print(table(runs, options.steps))


if __name__ == "__main__":
    main()
