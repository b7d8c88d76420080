"""The commands on a CUDA machine; skipped without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command

pytestmark = pytest.mark.gpu

FLAGS = (
    *("--vis", "tensorboard", "--max-num-iterations", 400, "--steps-per-save", 100, "--machine.device-type", "cuda"),
    *("--pipeline.guidance.rounds", 2, "--pipeline.guidance.targets.count", 6),
    *("--experiment-name", "scene", "--timestamp", "run"),
)


def test_train_resume_evaluate_and_render_on_cuda(run: Command, tiny_scene: Path, tmp_path: Path) -> None:
    train = ("difix3d-splatfacto", "--data", tiny_scene, "--output-dir", tmp_path, *FLAGS)
    run("ns-train", *train)
    folder = tmp_path / "scene" / "difix3d-splatfacto" / "run"
    models = folder / "nerfstudio_models"
    (models / "step-000000399.ckpt").unlink()
    result = run("ns-train", *train, "--load-dir", models)
    assert "going on at step 301" in " ".join(result.stdout.split())
    run("ns-eval", "--load-config", folder / "config.yml", "--output-path", tmp_path / "eval.json")
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr"] > 14
    assert results["enhanced_psnr"] > 14
    run(
        "ns-render",
        *("dataset", "--load-config", folder / "config.yml", "--output-path", tmp_path / "render", "--split", "test"),
        *("--rendered-output-names", "rgb", "enhanced"),
    )
    assert len(list((tmp_path / "render").rglob("enhanced/*"))) == 3
