"""Whether two checkouts compute the same bits: ``python tests/same_bits.py BEFORE [--only NAME ...] [--keep FOLDER]``.

Short trainings with the defaults and with what they leave out, ns-eval, curation, the demo scene and the training of a
fixer run in the checkout this file lies in, and beside it in BEFORE, another checkout with its own ``.venv``. A table
says what is equal, and where the first difference is. Ends with 1 on a difference, or where there was nothing to
compare.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
STEPS = 220
CASES = (
    *("demo-scene", "curate", "train-fixer"),
    *("plain", "default", "depth-weight", "mcmc", "exposures", "blend", "resumed"),
)
NEEDS = {"resumed": "default", "train-fixer": "curate"}
"""cases that use what another one wrote"""
WARM_UP = ("demo-scene", "depth-weight")
WARM_UP_STEPS = 60
"""enough for pseudo-views to be made and drawn"""
NOTHING = {("plain", "references"), ("plain", "pool")}
"""what has to be empty"""

Rows = list[list[str]]


def kernel_sources(package: Path) -> set[Path]:
    """Files with numba's kernels, and all of the package that they import: constants are compiled in."""
    todo = [path for path in package.rglob("*.py") if re.search(r"\bn?jit\b", path.read_text(encoding="utf-8"))]
    found: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [f"{names[0]}.{one.name}" for one in node.names] if isinstance(node, ast.ImportFrom) else []
            names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
            for module in (package.parent.joinpath(*name.split(".")) for name in names):
                todo += [module.with_name(f"{module.name}.py"), module / "__init__.py"]
    return {path for path in found if package in path.parents}


@dataclass
class Side:
    """A checkout.

    Args:
        name: for people.
        checkout: its folder.
        python: with what it needs.
        work: folder for what is written.
    """

    name: str
    checkout: Path
    python: Path
    work: Path

    @property
    def cache(self) -> Path:
        """Of its kernels: numba does not notice that what a kernel calls has changed in another file."""
        digest = hashlib.sha256(str(self.python).encode())
        for path in sorted(kernel_sources(self.checkout / "difix3d_ns")):
            digest.update(f"{path.relative_to(self.checkout)}\n".encode() + path.read_bytes())
        place = hashlib.sha256(str(self.checkout).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / "difix3d_same_bits" / place / digest.hexdigest()[:12]

    def forget_older(self) -> None:
        """Delete the caches of other versions of this checkout."""
        for folder in self.cache.parent.glob("*"):
            if folder != self.cache:
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def is_warm(self) -> bool:
        return (self.cache / "warm").exists()

    def start(self, scene: Path, cases: Sequence[str], steps: int, makes_scene: bool) -> subprocess.Popen[bytes]:
        """Run cases in a process of their own; see ``answer``."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        order = {
            **{"checkout": str(self.checkout), "scene": str(scene), "makes_scene": makes_scene},
            **{"output": str(self.work / "outputs"), "answer": str(self.work / "answer.json")},
            **{"cases": list(cases), "steps": steps},
        }
        (self.work / "order.json").write_text(json.dumps(order))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DIFIX3D_", "NUMBA_"))}
        threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        paths = {"NUMBA_CACHE_DIR": str(self.cache), "PYTHONPATH": str(self.checkout)}
        with open(self.work / "log.txt", "wb") as log:
            return subprocess.Popen(
                [self.python, "-P", HERE / "tests" / "bits_probe.py", self.work / "order.json"],
                **{"cwd": self.checkout, "env": {**kept, **threads, **paths, "COLUMNS": "200"}},
                **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT},
            )

    def answer(self) -> dict[str, Any]:
        """What the process told.

        Raises:
            SystemExit: it ended without telling anything.
        """
        try:
            return json.loads((self.work / "answer.json").read_text())
        except FileNotFoundError:
            lines = (self.work / "log.txt").read_text(errors="replace").splitlines()[-25:]
            raise SystemExit("\n".join([*lines, f"{self.name} ended early, see above"])) from None


def run(sides: Sequence[Side], scene: Path, cases: Sequence[str], steps: int) -> None:
    """Run cases in checkouts beside each other."""
    processes = [side.start(scene, cases, steps, side.name == "BEFORE") for side in sides]
    try:
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            process.kill()


def first_difference(before: Rows, here: Rows) -> str:
    """Where two lists of labels and values part, in words; empty if nowhere."""
    for old, new in zip_longest(before, here):
        if old is None or new is None:
            label, side = (new[0], "HERE") if old is None else (old[0], "BEFORE")
            return f"{label}: only {side} ({len(before)} values BEFORE, {len(here)} HERE)"
        if old[0] != new[0]:
            return f"{old[0]} BEFORE is {new[0]} HERE"
        if old[1] != new[1]:
            return f"{old[0]}: {_short(old[1])} BEFORE, {_short(new[1])} HERE"
    return ""


def compare(before: dict[str, Any], here: dict[str, Any], cases: Sequence[str]) -> list[tuple[str, str, int, str]]:
    """Case, what was compared, how many values, and what is wrong with it: nothing if it is equal."""
    table = []
    for case in cases:
        for name, answer in (("BEFORE", before), ("HERE", here)):
            if case in answer["failed"]:
                table.append((case, f"run {name}", 0, f"FAILED: {answer['failed'][case]}"))
        old, new = before["told"].get(case, {}), here["told"].get(case, {})
        for what in old | new if old and new else ():
            rows = old.get(what, []), new.get(what, [])
            wrong = first_difference(*rows)
            if not wrong and bool(rows[0]) == ((case, what) in NOTHING):
                wrong = "nothing to compare" if not rows[0] else "not empty"
            table.append((case, what, len(rows[0]), wrong))
    for name, answer in (("BEFORE", before), ("HERE", here)):
        if answer["compiled"]:
            names = ", ".join(answer["compiled"])
            table.append(("kernels", f"cache {name}", len(answer["compiled"]), f"compiled while measured: {names}"))
    return table


def _short(value: str) -> str:
    return value if len(value) <= 24 else f"{value[:12]}…"


def _with_needed(names: Sequence[str]) -> list[str]:
    wanted = {*names, *(NEEDS[name] for name in names if name in NEEDS)}
    return [case for case in CASES if case in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, metavar="BEFORE", help="another checkout, with .venv")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where what was written stays")
    arguments = parser.parse_args()
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes end as well
    with tempfile.TemporaryDirectory(prefix="same_bits_") as temporary:
        work = (arguments.keep or Path(temporary)).resolve()
        old_checkout = arguments.before.resolve()
        old = Side("BEFORE", old_checkout, old_checkout / ".venv" / "bin" / "python", work / "before")
        new = Side("HERE", HERE, Path(sys.executable), work / "here")
        sys.exit(measure(old, new, _with_needed(arguments.only), started))


def measure(old: Side, new: Side, cases: Sequence[str], started: float) -> int:
    """Print the table of both checkouts; returns the exit status."""
    sides = [old, new]
    for side in sides:
        side.forget_older()
    scene = old.cache / "scene"
    # First a process that compiles: kernels it compiled round differently from the same ones read from numba's cache.
    if cold := [side for side in sides if not side.is_warm or not scene.exists()]:
        run(cold, scene, WARM_UP, WARM_UP_STEPS)
        for side in cold:
            if failed := side.answer()["failed"]:
                print(f"warming up {side.name}: {failed}")
            (side.cache / "warm").touch()
        print(f"warmed up: {time.monotonic() - started:.0f} s", flush=True)
    left = sides
    for _ in range(2):  # again where the warm-up missed a kernel
        run(left, scene, cases, STEPS)
        left = [side for side in left if side.answer()["compiled"]]
        if not left:
            break
        for side in left:
            print(f"{side.name} compiled {', '.join(side.answer()['compiled'])}", flush=True)
    table = compare(old.answer(), new.answer(), cases)
    wide = [max(map(len, column)) for column in zip(*((case, what) for case, what, _, _ in table), strict=True)]
    for case, what, count, wrong in table:
        print(f"{case:{wide[0]}}  {what:{wide[1]}}  {count:6}  {wrong or 'equal'}")
    bad = sum(bool(wrong) for *_, wrong in table)
    result = f"{bad} of {len(table)} comparisons DIFFER, FAILED or were EMPTY" if bad else f"all {len(table)} are equal"
    print(f"{result}: {sum(count for _, _, count, _ in table)} values, {time.monotonic() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    main()
