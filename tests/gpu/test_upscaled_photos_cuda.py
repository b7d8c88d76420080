"""Upscaled photographs on a CUDA machine; skipped without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from difix3d_ns.priors.registry import load_upscaler
from tests.conftest import Command
from tests.unit.known_scenes import picture

pytestmark = pytest.mark.gpu

FLAGS = (
    *("--vis", "tensorboard", "--max-num-iterations", 400, "--steps-per-save", 100, "--machine.device-type", "cuda"),
    *("--experiment-name", "scene", "--timestamp", "run"),
)


@pytest.mark.parametrize("name", ["residual", "backprojection"])
def test_results_are_those_of_the_cpu(name: str) -> None:
    pictures = []
    for device in ("cpu", "cuda"):
        upscaler = load_upscaler(name, device=device, dtype=torch.float32)
        state = upscaler.start([picture(40, 60, 0)], [(160, 240)], [3])
        while upscaler.steps_left(state):
            state = upscaler.step(state)
        pictures.append(upscaler.result(state)[0].cpu())
    torch.testing.assert_close(*pictures, atol=5e-3, rtol=0)  # convolutions in TF32


def test_train_resume_and_evaluate_on_cuda(run: Command, tiny_scene: Path, tmp_path: Path) -> None:
    train = ("3dsr-splatfacto", "--data", tiny_scene, "--output-dir", tmp_path, *FLAGS)
    run("ns-train", *train)
    folder = tmp_path / "scene" / "3dsr-splatfacto" / "run"
    models = folder / "nerfstudio_models"
    (models / "step-000000399.ckpt").unlink()
    result = run("ns-train", *train, "--load-dir", models)
    assert "going on at step 301" in " ".join(result.stdout.split())
    run("ns-eval", "--load-config", folder / "config.yml", "--output-path", tmp_path / "eval.json")
    assert json.loads((tmp_path / "eval.json").read_text())["results"]["psnr"] > 14
    assert len(list((folder / "upscaled").glob("*.png"))) > 2
