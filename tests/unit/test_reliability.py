"""What the reliability benchmark compares, reads and writes; its trials run trainings and are no tests."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.bad_inputs import CASES, Case, message_of
from tests.states import first_difference

ROOT = Path(__file__).parents[2]


def _state() -> dict[str, Any]:
    return {
        "means": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "adam": [{"step": torch.tensor(3.0)}, (1, "two", None, float("nan"))],
        "random": np.arange(4, dtype=np.uint32),
        "empty": torch.zeros(0, 3),
    }


def test_equal_states_have_no_difference() -> None:
    assert first_difference(_state(), _state()) == ""


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda s: s["means"].__setitem__((1, 2), 5.0000005), "/means: 1 of 6 values differ"),
        (lambda s: s["means"].__setitem__((0, 0), -0.0), "/means: 0 of 6 values differ"),  # other bits all the same
        (lambda s: s.update(means=s["means"].double()), "/means: torch.float64"),
        (lambda s: s.update(empty=torch.zeros(1, 3)), "/empty: torch.float32 (1, 3)"),
        (lambda s: s["adam"].append(1), "/adam/2"),
        (lambda s: s["adam"][0].update(step=3.0), "/adam/0/step: float and Tensor"),
        (lambda s: s["random"].__setitem__(3, 4), "/random"),
        (lambda s: s.pop("random"), "keys ['random']"),
    ],
)
def test_differences_are_named(change: Any, place: str) -> None:
    state = _state()
    change(state)
    assert place in first_difference(state, _state())


def test_messages_are_read_from_what_a_command_writes() -> None:
    text = "[10:00] loading\nError: /tmp/x/input_03/a.png cannot be\nread; replace it\n"
    assert message_of(text, {Path("/tmp/x"): "."}) == "a.png cannot be read; replace it"
    assert "two" in message_of("╭─ Parsing error ─╮\n│ invalid choice 'two' │\n╰──╯", {})


def test_verdicts() -> None:
    fails = Case(lambda place: ["difix3d"], "--output")
    assert fails.passed(1, "Error: --output x", "--output x")
    assert not fails.passed(0, "", "--output x")
    assert not fails.passed(1, "Traceback (most recent call last)", "--output x")
    assert not fails.passed(1, "Error: oh", "oh")
    goes_on = Case(lambda place: ["difix3d"], "No initial points", goes_on=True)
    text = "  No initial points: a.ply is missing;   scene_parser.py:401\n   starting from random points.   \nmore"
    assert goes_on.message(text, {}).startswith("No initial points: a.ply is missing; starting from random points")
    assert goes_on.passed(0, text, goes_on.message(text, {})) and not goes_on.passed(1, text, "No initial points")
    assert len(CASES) >= 40


def test_the_page_follows_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("quality", ROOT / "docs" / "quality.py")
    assert spec is not None and spec.loader is not None
    quality = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quality)
    monkeypatch.setattr(quality, "RECORD", tmp_path)
    assert quality.kills() == quality.bad_inputs() == quality.viewers() == quality.full_disks() == "Not run yet."
    facts = {"date": "2026-12-01", "commit": "abc", "hardware": "2 CPU cores", "command": "python -m x", "seed": 0}
    kill = facts | {"part": "kill", "method": "m", "share": 0.5, "went_on_at": 31, "difference": "", "leftovers": []}
    rows = [
        kill | {"number": 0, "passed": False},
        kill | {"number": 1, "passed": True, "went_on_at": None},
        kill | {"number": 0, "passed": True},  # tried again: the last counts
        facts | {"part": "inputs", "name": "a video", "message": "pose `it`", "status": 1, "passed": True},
        facts | {"part": "inputs", "name": "a fax", "message": "word " * 99, "status": 0, "passed": False},
    ]
    (tmp_path / "reliability.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "| `m` | 2 | 2 | 0.50, 0.50 | 31, start |" in quality.kills()
    assert "2026-12-01, 2 CPU cores, commit abc" in quality.kills() and "python -m x" in quality.kills()
    listed = quality.bad_inputs()
    assert "1 of 2 passed" in listed and "- **a video**: `Error: pose it`" in listed
    assert "- **a fax** **(failed)**: `word" in listed and "word ...`" in listed
