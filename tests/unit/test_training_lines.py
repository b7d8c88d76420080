"""Progress of a training in plain lines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nerfstudio.configs.base_config  # noqa: F401  (nerfstudio's writer cannot be imported before it)
import pytest
from nerfstudio.utils import writer

from difix3d_ns.ns import training_lines
from difix3d_ns.ns.training_lines import TrainingLines, TrainingLinesConfig
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import write_scene


def test_the_time_left_counts_what_is_done_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 160.0])  # made; after the first step, which compiles; after the eleventh
    # not the module's own function: other threads ask it as well
    monkeypatch.setattr(training_lines, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setitem(writer.GLOBAL_BUFFER, "max_iter", 21)
    lines = TrainingLines(TrainingLinesConfig())
    monkeypatch.setattr(writer, "EVENT_STORAGE", [{"name": "Train Loss", "event": 0.25, "step": 0}])
    lines.write_stats_log(0)
    lines.write_stats_log(10)
    assert lines.line(10, 21, 160.0) == "Step 11 of 21 (52%), 1 min 00 s left, loss 0.2500"
    assert lines.line(20, 21, 220.0) == "Step 21 of 21 (100%), 0 s left, loss 0.2500"


def test_a_training_shows_lines_and_no_control_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_lines, "SECONDS", {True: 0.0, False: 0.0})
    train(short_config(write_scene(tmp_path / "scene"), steps=4))
    said = capsys.readouterr().out
    assert "Step 4 of 4 (100%), 0 s left" in said
    assert "\x1b[" not in said and "Step (% Done)" not in said


def test_a_training_that_goes_on_counts_from_its_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_lines, "SECONDS", {True: 0.0, False: 0.0})
    scene = write_scene(tmp_path / "scene")
    first = train(short_config(scene, steps=4, name="first"))
    capsys.readouterr()
    config = short_config(scene, steps=6, name="second")
    config.load_dir = first.checkpoint_dir
    train(config)
    said = capsys.readouterr().out
    assert "Step 5 of 6 (83%)" in said and "Step 6 of 6 (100%)" in said
