"""A training on generated views as its user runs it: killed and gone on, evaluated, exported."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from plyfile import PlyData

import difix3d_ns.methods.sparsefusion  # noqa: F401  (registers what a checkpoint may hold)
from difix3d_ns.io import checkpoints
from tests.commands import forked
from tests.conftest import Command, command_line
from tests.unit.method_cases import assert_same
from tests.unit.tiny_views import write_sparsefusion

STEPS, VIEWS = 60, 3
METHOD = "sparsefusion-splatfacto"
SMALL = (
    *("--vis", "tensorboard", "--max-num-iterations", STEPS, "--steps-per-save", 4, "--machine.device-type", "cpu"),
    *("--pipeline.guidance.view-generator.name", "sparsefusion", "--pipeline.guidance.count", VIEWS),
    *("--pipeline.model.max-gs-num", 3000, "--pipeline.initial-points.stereo", 0, "--pipeline.depth.name", "none"),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparsefusion(tmp_path_factory.mktemp("weights"))


def _train(output: Path, scene: Path, weights: Path, *flags: object) -> list[object]:
    return [
        *(METHOD, "--data", scene, "--output-dir", output, "--experiment-name", "scene", "--timestamp", "run"),
        *(*SMALL, "--pipeline.guidance.view-generator.weights", weights, *flags),
    ]


@pytest.fixture(scope="module")
def generated(run: Command, tiny_scene: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted training."""
    output = tmp_path_factory.mktemp("generated")
    said = " ".join(run("ns-train", *_train(output, tiny_scene, weights)).stdout.split())
    assert f"{VIEWS} views" in said and "are predicted from 6 photos" in said
    return output / "scene" / METHOD / "run"


def test_what_it_leaves(run: Command, generated: Path, tmp_path: Path) -> None:
    run("ns-eval", "--load-config", generated / "config.yml", "--output-path", tmp_path / "eval.json")
    results = json.loads((tmp_path / "eval.json").read_text())
    assert results["method_name"] == METHOD and results["results"]["psnr"] > 10
    run("ns-export", "gaussian-splat", "--load-config", generated / "config.yml", "--output-dir", tmp_path)
    assert len(PlyData.read(str(tmp_path / "splat.ply"))["vertex"]) > 100
    run("difix3d", "report", generated)
    page = (generated / "report.html").read_text()
    assert "Views predicted from the photos" in page and "no photo shows" in page


def test_killed_and_resumed_to_the_same_splat(
    run: Command, generated: Path, tiny_scene: Path, weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "scene" / METHOD / "run"
    models, pool = folder / "nerfstudio_models", folder / "pseudo_views"
    with forked(command_line("ns-train", *_train(tmp_path, tiny_scene, weights)), tmp_path / "log") as process:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and process.is_alive():
            numbers = [int(path.stem[5:]) for path in pool.glob("view_*.safetensors")] if pool.exists() else []
            if max(numbers, default=-1) > 2 * VIEWS and any(models.glob("*.ckpt")):
                break
            time.sleep(0.005)
        assert process.is_alive(), "training ended before it could be killed"
    said = run("ns-train", *_train(tmp_path, tiny_scene, weights, "--load-dir", models)).stdout
    assert "going on at step" in said
    expected, found = (checkpoints.load_newest(path / "nerfstudio_models")[1] for path in (generated, folder))
    for name in ("step", "pipeline", "optimizers", "schedulers"):
        assert_same(found[name], expected[name], name)
    ours = [state["difix3d_ns"]["parts"]["guidance"] for state in (expected, found)]
    for state in ours:
        state["pool"] = [key for key, _ in state["pool"]]
    assert_same(ours[1], ours[0])
