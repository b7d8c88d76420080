"""The table that grows: every finished run is a line of ``benchmarks/results/*.jsonl``, written once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

import difix3d_ns
from difix3d_ns.evaluation.bench.job import Job, Scene, State
from difix3d_ns.evaluation.bench.recipe import Recipe


def default_folder(output: Path) -> Path:
    """``benchmarks/results`` of the package's checkout; the output where there is no checkout."""
    checkout = Path(difix3d_ns.__file__).parents[1]
    return checkout / "benchmarks" / "results" if (checkout / "benchmarks").is_dir() else output


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
        known = {run for line in text.splitlines() if (run := _run_of(line))}
        lines = [line for state in states for line in _lines(state, recipe) if line["run"] not in known]
        with path.open("a", encoding="utf-8") as file:
            if lines and text and not text.endswith("\n"):  # of a benchmark killed while it wrote
                file.write("\n")
            file.writelines(json.dumps(line) + "\n" for line in lines)
    return len(lines)


def read(recipe: Recipe, folder: Path) -> list[State]:
    """What is on record of a recipe as it is now: of each training the newest run with its flags.

    Args:
        recipe: whose lines.
        folder: as ``append`` has it.

    Returns:
        States as ``gather`` wants them; none where there is no file.

    Raises:
        ValueError: a line is not one of ours.
    """
    path = folder / f"bench-{recipe.name}.jsonl"
    states: dict[str, State] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        entry = json.loads(line)
        method = recipe.methods.get(entry["look"]["method"])
        job = Job(Scene(Path(entry["scene"]), entry["scene"]), method.training, entry["seed"]) if method else None
        if job is None or entry["flags"] != job.flags(recipe):
            continue
        shared = ("scene", "seed", "date", "commit", "hardware", "software", "size")
        state = states.setdefault(
            entry["run"].rpartition("/")[0],
            {key: entry[key] for key in shared} | {"training": job.training, "parts": {}},
        )
        state["parts"][entry["method"]] = {"look": entry["look"], "metrics": entry["metrics"]}
    newest = {(state["scene"], state["training"], state["seed"]): state for state in states.values()}
    return list(newest.values())


def _run_of(line: str) -> str | None:
    try:
        return str(json.loads(line)["run"])
    except (ValueError, KeyError, TypeError):
        return None


def _lines(state: State, recipe: Recipe) -> Iterable[dict[str, Any]]:
    for name, part in state["parts"].items():
        method = part["look"]["method"]
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
            "flags": state["identity"]["flags"],
            "look": part["look"],
            "software": state["software"],
            "code": state["identity"]["code"],
        }
