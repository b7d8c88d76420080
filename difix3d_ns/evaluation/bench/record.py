"""The table that grows: every finished run is a line of ``benchmarks/results/*.jsonl``, written once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

import difix3d_ns
from difix3d_ns.evaluation.bench.bench_recipe import Recipe
from difix3d_ns.evaluation.bench.job import Job, Scene, State, look_identity, made_by


def default_folder(output: Path) -> Path:
    """``benchmarks/results`` of the package's checkout; the output where there is no checkout."""
    checkout = Path(difix3d_ns.__file__).parents[1]
    return checkout / "benchmarks" / "results" if (checkout / "benchmarks").is_dir() else output


_SHARED = ("scene", "seed", "date", "commit", "code", "data", "hardware", "software", "size")
"""of a line, what is the run's; the first lines on record lack ``data``, ``ns_method`` (all are of difix3d-splatfacto),
and have ``flags_now`` where the flags they were run with are called otherwise by now"""


def append(states: Iterable[State], recipe: Recipe, folder: Path) -> int:
    """Add what is not there yet to ``folder/bench-RECIPE.jsonl``.

    Args:
        states: of jobs.
        recipe: they are of.
        folder: made if needed.

    Returns:
        How many lines were added.

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"bench-{recipe.name}.jsonl"
    with FileLock(folder / f".{path.name}.lock"):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        known = {_key(entry) for entry in _entries(text)}
        lines = [line for state in states for line in _lines(state, recipe) if _key(line) not in known]
        with path.open("a", encoding="utf-8") as file:
            if lines and text and not text.endswith("\n"):  # of a benchmark killed while it wrote
                file.write("\n")
            file.writelines(json.dumps(line) + "\n" for line in lines)
    return len(lines)


def read(recipe: Recipe, folder: Path) -> list[State]:
    """What is on record of a recipe as it is now: of each training the newest run with its flags.

    What nobody looked at in that run is taken from an earlier one, if code and scene files were the same.

    Args:
        recipe: whose lines.
        folder: as ``append`` has it.

    Returns:
        States as ``gather`` wants them; none where there is no file.
    """
    path = folder / f"bench-{recipe.name}.jsonl"
    runs: dict[str, State] = {}
    for entry in _entries(path.read_text(encoding="utf-8") if path.is_file() else ""):
        method = recipe.methods.get(entry["look"]["method"])
        if method is None or entry["look"] != look_identity(method):
            continue
        job = Job(Scene(Path(entry["scene"]), entry["scene"]), method.training, entry["seed"])
        made = {**entry, "flags": entry.get("flags_now", entry["flags"])}
        if not made_by({"identity": made}, job, recipe):
            continue
        shared = {key: entry.get(key) for key in _SHARED}
        run = runs.setdefault(entry["run"].rpartition("/")[0], {**shared, "training": job.training, "parts": {}})
        run["parts"][entry["method"]] = {"look": entry["look"], "metrics": entry["metrics"]}
    newest: dict[tuple[str, str, int], State] = {}
    for run in runs.values():
        key = run["scene"], run["training"], run["seed"]
        before = newest.get(key)
        if before is not None and all(before[name] == run[name] for name in ("code", "data")):
            run["parts"] = before["parts"] | run["parts"]
        newest[key] = run
    return list(newest.values())


def _key(line: dict[str, Any]) -> str:
    """Of a look at a run; a look that has changed is another one."""
    return json.dumps([line["run"], line["look"]], sort_keys=True)


def _entries(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            _key(entry)
        except (ValueError, KeyError, TypeError):  # half a line, of a benchmark killed while it wrote
            continue
        yield entry


def _lines(state: State, recipe: Recipe) -> Iterable[dict[str, Any]]:
    for name, part in state["parts"].items():
        method = part["look"]["method"]
        if method not in recipe.methods:  # of another recipe, for which the same training served
            continue
        yield {
            "run": f"{state['id']}/{name}",
            "date": state["date"],
            "commit": state["commit"],
            "command": f"difix3d bench {state['scene']} --output DIR --recipe {recipe.name} --methods {method} "
            f"--seeds {state['seed']}",
            "hardware": state["hardware"],
            "scene": state["scene"],
            "method": name,
            "seed": state["seed"],
            "metrics": {key: None if value is None else round(value, 5) for key, value in part["metrics"].items()},
            "size": state["size"],
            "ns_method": state["identity"]["ns_method"],
            "flags": state["identity"]["flags"],
            "look": part["look"],
            "software": state["software"],
            "code": state["identity"]["code"],
            "data": state["identity"]["data"],
            "time": state.get("time"),
        }
