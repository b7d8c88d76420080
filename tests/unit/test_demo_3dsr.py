"""The demo of super-resolution: what it compares, and that neither side has an advantage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from difix3d_ns.apps import demo_3dsr, demo_results
from difix3d_ns.apps.demo_3dsr import CAPTIONS, run_demo_3dsr
from difix3d_ns.evaluation.runs import Evaluation, HeldOutView, Run, config_of
from difix3d_ns.geometry.resampling import resampled

STEPS = 4000  # of 3dsr-splatfacto, by itself


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """Flags of the trainings that would be run; a splat of the baseline shows the small photos, ours half the truth."""
    found: dict[str, dict[str, str]] = {}
    truth = torch.rand(8, 32, 48, 3, generator=torch.Generator().manual_seed(0))

    def train(data: Path, output: Path, name: str, flags: Sequence[str], method: str) -> Run:
        found[method] = dict(zip(flags[::2], flags[1::2], strict=True))
        return Run(config_of(output, name, method), 60.0, 0.0)

    def evaluate(config: Path, enhance: bool, long_side: int) -> Evaluation:
        assert long_side == 480 and not enhance
        views = []
        for number, picture in enumerate(truth):
            low = resampled(picture, 8, 12)
            blurred = resampled(low, 32, 48)
            render = blurred if "sparse" in str(config) else (blurred + picture) / 2
            views.append(HeldOutView(picture, render, None, f"{number}.png", low=low))
        return Evaluation(views, 10, 0.0, (12, 8))

    def write_report(config: Path, page: Path, *_: Any, **__: Any) -> None:
        page.write_text(str(config))

    monkeypatch.setattr("difix3d_ns.data.procedural.demo_scene", lambda *_, **__: None)
    monkeypatch.setattr(demo_3dsr, "train", train)
    monkeypatch.setattr(demo_3dsr, "evaluate", evaluate)
    monkeypatch.setattr(demo_results, "write_report", write_report)
    config = SimpleNamespace(max_num_iterations=STEPS)
    monkeypatch.setattr(demo_3dsr, "read_training", lambda _: SimpleNamespace(config=config))
    return found


def test_both_have_the_same_photos_and_steps(tmp_path: Path, trainings: dict[str, dict[str, str]]) -> None:
    run_demo_3dsr(tmp_path)
    ours, theirs = trainings["3dsr-splatfacto"], trainings["sparse-splatfacto"]
    assert ours["--pipeline.datamanager.camera-res-scale-factor"] == "0.25"
    assert "--max-num-iterations" not in ours and theirs.pop("--max-num-iterations") == str(STEPS)
    assert theirs.pop("--pipeline.model.rasterize-mode") == "antialiased"  # which is 3DSR's own default
    assert ours == theirs
    run_demo_3dsr(tmp_path, steps=90, upscaler="bicubic")
    ours = trainings["3dsr-splatfacto"]
    assert ours["--max-num-iterations"] == "90" and ours["--pipeline.guidance.upscaler.name"] == "bicubic"


def test_numbers_pictures_and_page(tmp_path: Path, trainings: dict[str, dict[str, str]]) -> None:
    results = run_demo_3dsr(tmp_path, pictures=2)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    plain, ours = results["splatfacto"], results["3dsr"]
    assert ours["psnr"] > plain["psnr"] + 5 and ours["high_pass"] > 0.9 > 0.5 > plain["high_pass"]
    assert plain["seconds"] == ours["seconds"] == 60.0
    sheet = Image.open(tmp_path / "comparison.png")
    assert sheet.width == len(CAPTIONS) * (48 + 4) - 4 and sheet.height > 2 * 32
    assert "3dsr-splatfacto" in (tmp_path / "report.html").read_text()
