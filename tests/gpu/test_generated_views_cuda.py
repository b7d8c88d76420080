"""Generated views on a CUDA machine; skipped without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command

pytestmark = pytest.mark.gpu

FLAGS = (
    *("--vis", "tensorboard", "--max-num-iterations", 400, "--steps-per-save", 100, "--machine.device-type", "cuda"),
    *("--experiment-name", "scene", "--timestamp", "run"),
)


def test_train_resume_and_evaluate_on_cuda(run: Command, tiny_scene: Path, tmp_path: Path) -> None:
    train = ("sparsefusion-splatfacto", "--data", tiny_scene, "--output-dir", tmp_path, *FLAGS)
    run("ns-train", *train)
    folder = tmp_path / "scene" / "sparsefusion-splatfacto" / "run"
    models = folder / "nerfstudio_models"
    (models / "step-000000399.ckpt").unlink()
    result = run("ns-train", *train, "--load-dir", models)
    assert "going on at step 301" in " ".join(result.stdout.split())
    run("ns-eval", "--load-config", folder / "config.yml", "--output-path", tmp_path / "eval.json")
    assert json.loads((tmp_path / "eval.json").read_text())["results"]["psnr"] > 14
