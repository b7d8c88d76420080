"""Rows of a benchmark: one line of JSON per scene, seed, method and evaluation, in every run's folder and on record.

A row has all that it depends on: ``run`` (ID/METHOD), ``scene``, ``seed``, ``method`` (NAME, or NAME@STEP of an earlier
checkpoint), ``evaluation`` (see ``Method.evaluation``), ``metrics``, ``size``, ``ns_method``, ``flags``, ``code``,
``data``, ``commit``, ``command``, ``date``, ``time``, ``hardware`` and ``software``. Where flags have other names by
now, ``flags_now`` has them as they are called today. Where all methods are scored at one size, ``trained_size`` is that
of training. A row without a scene is of many pictures: the FID of the ``runs``
it names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

import difix3d_ns
from difix3d_ns.evaluation.bench.bench_recipe import Recipe
from difix3d_ns.io.atomic import write_text

Row = dict[str, Any]

FID_ROWS = "fid.jsonl"
"""file of an output with the rows of many pictures"""


def row_files(output: Path) -> list[Path]:
    """Files with the rows of an output's trainings."""
    return sorted(output.glob("runs/*/*/seed-*/rows.jsonl"))


def record_folder(output: Path) -> Path:
    """``benchmarks/results`` of the package's checkout; the output where there is no checkout."""
    checkout = Path(difix3d_ns.__file__).parents[1]
    return checkout / "benchmarks" / "results" if (checkout / "benchmarks").is_dir() else output


def read_rows(path: Path) -> list[Row]:
    """Rows of a file; none where there is no file."""
    return [row for _, row in _parsed(path.read_text(encoding="utf-8").splitlines())] if path.is_file() else []


def finished_rows(recipe: Recipe, output: Path) -> list[Row]:
    """Current rows of an output, of earlier calls too."""
    files = [*row_files(output), output / FID_ROWS]
    return current_rows([row for file in files for row in read_rows(file)], recipe)


def add_rows(path: Path, rows: Iterable[Row], digits: int | None = None) -> None:
    """Add rows that a file lacks, and to those it has the metrics they lack; the file is made if needed.

    Args:
        path: of the file.
        rows: to add.
        digits: of metrics after the point; None: all.

    Raises:
        OSError: the file cannot be written; it is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        lines, numbers = list(before), {_key(row): number for number, row in _parsed(before)}
        for row in rows:
            metrics = {k: v if v is None or digits is None else round(v, digits) for k, v in row["metrics"].items()}
            number = numbers.setdefault(_key(row), len(lines))
            if number == len(lines):
                lines.append(json.dumps(row | {"metrics": metrics}))
            else:
                known = json.loads(lines[number])
                known["metrics"] |= {k: v for k, v in metrics.items() if known["metrics"].get(k) is None}
                lines[number] = json.dumps(known)
        if lines != before:
            write_text(path, "\n".join(lines) + "\n")


def current_rows(rows: Sequence[Row], recipe: Recipe) -> list[Row]:
    """Rows that the recipe would make now: of a training's runs the newest, of an evaluation the last.

    An evaluation that the newest run lacks is taken from an earlier one, if code and scene files were the same.
    """
    made = [row for row in rows if _is_of(recipe, row)]
    trained = [row for row in made if row["scene"] is not None]
    newest = {_training(recipe, row): (row["code"], row["data"]) for row in trained}
    kept = [row for row in trained if newest[_training(recipe, row)] == (row["code"], row["data"])]
    last = {(row["scene"], row["seed"], row["method"]): row for row in kept}
    return [*last.values(), *(row for row in made if row["scene"] is None)]


def flags_by_name(flags: Sequence[str]) -> dict[str, str]:
    """Flag -> value."""
    return dict(zip(flags[::2], flags[1::2], strict=True))


def _is_of(recipe: Recipe, row: Row) -> bool:
    method = recipe.methods.get(row["evaluation"]["method"])
    if method is None or row["evaluation"] != method.evaluation:
        return False
    if row["scene"] is None:
        return True
    flags = recipe.training_flags(method.training, row["seed"])
    made_with = row["flags_now"] if "flags_now" in row else row["flags"]
    return (
        flags_by_name(made_with) == flags_by_name(flags)
        and row["ns_method"] == recipe.methods[method.training].ns_method
    )


def _training(recipe: Recipe, row: Row) -> tuple[str, int, str]:
    return row["scene"], row["seed"], recipe.methods[row["evaluation"]["method"]].training


def _key(row: Mapping[str, Any]) -> str:
    """Key of a row: its run and its evaluation; other settings of an evaluation give another key."""
    return json.dumps([row["run"], row["evaluation"]], sort_keys=True)


def _parsed(lines: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Numbers and rows of the lines that are whole: a benchmark may have been killed while it wrote one."""
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
            _key(row)
        except (ValueError, KeyError, TypeError):
            continue
        yield number, row
