"""Time whole training steps on the CPU: as `ns-train` starts against one thread, and against an earlier checkout.

    python benchmarks/threads.py [--before FOLDER] [--json FILE]

1. Wall time of a step with two cores: as a training starts by itself and with one thread, both on an idle machine and
   beside a process that takes one core.
2. With --before, CPU time of a step at 40,000 Gaussians in this checkout and in that one, one thread each.

The trainings of a comparison live beside each other and take turns within one run; a figure is the median of its turns,
a ratio the median of the ratios of turns that follow each other. The exit status is 1 when a bound is missed:

- idle, from 50,000 Gaussians on: at least 1.5 times as fast as one thread; below: not slower;
- one core taken: at most 5 % slower than one thread;
- CPU time: at most two thirds of the earlier checkout's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stepping_training import ONE_THREAD, Case, Training, write_scene

ROOT = Path(__file__).parents[1]
CASES = (Case(20_000, 480, 270), Case(50_000, 480, 270), Case(100_000, 960, 540))
CASE_OF_CPU_TIME = Case(40_000, 480, 270)
WARM_UP = 10  # steps
STEPS = 10  # of a turn
TURNS = 12
CORES = 2

SPEED_UP, FROM = 1.5, 50_000  # times one thread, Gaussians
MOST_BESIDE_ANOTHER = 1.05  # of one thread's time
MOST_CPU_TIME = 2 / 3  # of the earlier checkout's
NOISE = 1.02  # "not slower"


@contextmanager
def another_process() -> Iterator[None]:
    """Keep one core busy meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def compare(trainings: dict[str, Training], turns: int, clock: int) -> dict[str, list[float]]:
    """Let the trainings take turns; milliseconds per step of each turn, wall (clock 0) or CPU time (1)."""
    times: dict[str, list[float]] = {name: [] for name in trainings}
    for turn in range(turns):
        names = list(trainings) if turn % 2 == 0 else list(trainings)[::-1]
        for name in names:
            times[name].append(1e3 * trainings[name].steps(STEPS)[clock])
    return times


def ratio(times: dict[str, list[float]]) -> tuple[float, float]:
    """Median and standard error of the first training's time over the second's."""
    first, second = times.values()
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    return statistics.median(ratios), statistics.stdev(ratios) / len(ratios) ** 0.5


def time_threads(case: Case, folder: Path, turns: int) -> list[dict]:
    scene = write_scene(case, folder / case.name)
    rows = []
    with ExitStack() as stack:
        trainings = {
            name: stack.enter_context(Training(scene, folder / f"{case.name}_{number}", ROOT, variables))
            for number, (name, variables) in enumerate({"as started": {}, "one thread": ONE_THREAD}.items())
        }
        for training in trainings.values():
            training.steps(WARM_UP)
        for beside in (False, True):
            with another_process() if beside else ExitStack():
                times = compare(trainings, turns, clock=0)
            found, error = ratio(times)
            most = MOST_BESIDE_ANOTHER if beside else 1 / SPEED_UP if case.gaussians >= FROM else NOISE
            where = "one core taken" if beside else "idle"
            rows.append(_row(f"{case.name}, {where}", times, found, error, most))
    return rows


def time_cpu(before: Path, folder: Path, turns: int) -> dict:
    scene = write_scene(CASE_OF_CPU_TIME, folder / CASE_OF_CPU_TIME.name)
    with ExitStack() as stack:
        trainings = {
            name: stack.enter_context(Training(scene, folder / f"cpu_{number}", checkout, ONE_THREAD))
            for number, (name, checkout) in enumerate({"this checkout": ROOT, "before": before}.items())
        }
        for training in trainings.values():
            training.steps(WARM_UP)
        times = compare(trainings, turns, clock=1)
    return _row(f"{CASE_OF_CPU_TIME.name}, CPU time", times, *ratio(times), MOST_CPU_TIME)


def _row(name: str, times: dict[str, list[float]], found: float, error: float, most: float) -> dict:
    medians = {key: round(statistics.median(values), 1) for key, values in times.items()}
    shown = ", ".join(f"{key} {value} ms" for key, value in medians.items())
    met = found <= most
    bound = f"at most {most:.2f}: {'met' if met else 'MISSED'}"
    print(f"{name}: {shown}; ratio {found:.3f} +- {error:.3f} ({bound})", flush=True)
    return {"name": name, "ms": medians, "ratio": round(found, 4), "error": round(error, 4), "most": most, "met": met}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="folder of an earlier checkout")
    parser.add_argument("--json", type=Path, help="file the figures are written to")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--cases", nargs="*", default=[case.name for case in CASES])
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # the trainings inherit it; the other process must find no third core
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in CASES:
            if case.name in args.cases:
                rows += time_threads(case, folder, args.turns)
        if args.before:
            rows.append(time_cpu(args.before.absolute(), folder, args.turns))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
