"""The commands on a pretended CUDA device, from end to end."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from plyfile import PlyData

import difix3d_ns.methods.difix3d
import difix3d_ns.methods.sparsefusion
import difix3d_ns.methods.threedsr  # noqa: F401  (registers what a checkpoint may hold)
from difix3d_ns.io import checkpoints
from tests.commands import TIMEOUT, can_fork, run_forked
from tests.conftest import execute
from tests.unit.tiny_views import write_sparsefusion
from tests.unit.training_samples import write_shards

SMOKE = Path(__file__).parents[2] / "configs" / "prior" / "smoke.yaml"
STEPS, SAVED = 40, 20
COMMON = (
    *("--vis", "tensorboard", "--max-num-iterations", STEPS, "--steps-per-save", SAVED),
    *("--save-only-latest-checkpoint", False, "--machine.device-type", "cuda"),
    *("--pipeline.initial-points.depth", 100, "--pipeline.initial-points.stereo", 100),
    *("--pipeline.model.max-gs-num", 5000, "--pipeline.model.exposure", True),
    *("--experiment-name", "scene", "--timestamp", "run"),
)
TRAINING = (
    *COMMON,
    *("--pipeline.guidance.rounds", 1, "--pipeline.guidance.targets.count", 2, "--pipeline.guidance.depth-weight", 0.1),
)


def run(name: str, *arguments: object) -> str:
    """Run a console script on the pretended device, in a process of its own, and return what it wrote."""
    command = ["-m", "tests.pretended_command", name, *map(str, arguments)]
    if can_fork({}):
        status, output = run_forked(command, {}, None)
    else:
        environment = {"PYTHONPATH": os.pathsep.join([str(SMOKE.parents[2]), os.environ.get("PYTHONPATH", "")])}
        done = execute([sys.executable, *command], environment)
        status, output = done.returncode, done.stdout
    assert status == 0, f"{name} ended with {status} (within {TIMEOUT} s):\n{output[-6000:]}"
    return " ".join(output.split())


@pytest.fixture(scope="module")
def trained(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training with estimated depth, stereo, a round of the embedded prior, exposures and depth."""
    output = tmp_path_factory.mktemp("pretended")
    said = run("ns-train", "difix3d-splatfacto", "--data", tiny_scene, "--output-dir", output, *TRAINING)
    assert "Round 1/1 done" in said and "100 initial points added to 2000 from the depth" in said
    assert "100 initial points added to 2100 by stereo" in said
    return output / "scene" / "difix3d-splatfacto" / "run"


def test_a_training_with_a_round_and_its_evaluation(trained: Path, tmp_path: Path) -> None:
    state = checkpoints.load(trained / "nerfstudio_models" / f"step-{STEPS - 1:09d}.ckpt")
    means = state["pipeline"]["_model.gauss_params.means"]
    assert type(means) is torch.Tensor and means.device.type == "cpu" and means.isfinite().all()
    assert len(state["difix3d_ns"]["parts"]["guidance"]["pool"]) == 2
    run("ns-eval", "--load-config", trained / "config.yml", "--output-path", tmp_path / "eval.json")
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr"] > 12 and results["enhanced_psnr"] > 12


def test_rendering_with_the_enhancer(trained: Path, tmp_path: Path) -> None:
    names = ("--rendered-output-names", "rgb", "enhanced", "--image-format", "png")
    flags = ("--load-config", trained / "config.yml", "--output-path", tmp_path, "--split", "test")
    run("ns-render", "dataset", *flags, *names)
    plain, enhanced = (sorted((tmp_path / "test" / name).glob("*.png")) for name in ("rgb", "enhanced"))
    assert len(plain) == len(enhanced) == 3
    for pair in zip(plain, enhanced, strict=True):
        one, other = (np.asarray(Image.open(path), float) for path in pair)
        assert one.std() > 10 and 0.3 < np.abs(one - other).mean() < np.abs(one - other[:, ::-1]).mean()


def test_exporting(trained: Path, tmp_path: Path) -> None:
    run("ns-export", "gaussian-splat", "--load-config", trained / "config.yml", "--output-dir", tmp_path)
    state = checkpoints.load(trained / "nerfstudio_models" / f"step-{STEPS - 1:09d}.ckpt")
    vertices = PlyData.read(str(tmp_path / "splat.ply"))["vertex"]
    opacities = state["pipeline"]["_model.gauss_params.opacities"]
    assert sorted(vertices["opacity"].tolist()) == sorted(opacities.squeeze(-1).tolist())


def test_a_training_by_mcmc(tiny_scene: Path, tmp_path: Path) -> None:
    train = ("difix3d-splatfacto", "--data", tiny_scene, "--output-dir", tmp_path, *TRAINING)
    others = ("--pipeline.guidance.rounds", 0, "--pipeline.initial-points.stereo", 0, "--max-num-iterations", SAVED)
    run("ns-train", *train, *others, "--pipeline.model.strategy", "mcmc", "--pipeline.model.refine-every", 5)
    models = tmp_path / "scene" / "difix3d-splatfacto" / "run" / "nerfstudio_models"
    means = checkpoints.load(models / f"step-{SAVED - 1:09d}.ckpt")["pipeline"]["_model.gauss_params.means"]
    assert len(means) > 2000 and means.isfinite().all()  # of the scene's points


def test_a_training_on_upscaled_photos(tiny_scene: Path, tmp_path: Path) -> None:
    """In two rounds, the second from renders with exposures, evaluated at twice the photos' size."""
    flags = (
        *("--data", tiny_scene, "--output-dir", tmp_path, *COMMON, "--pipeline.guidance.factor", 2),
        *("--pipeline.guidance.upscaler.name", "tests.unit.tiny_upscaler", "--pipeline.guidance.steps-per-round", 8),
        *("--pipeline.guidance.photos-first", "False"),
    )
    said = run("ns-train", "3dsr-splatfacto", *flags)
    assert "Round 2/2 done" in said
    folder = tmp_path / "scene" / "3dsr-splatfacto" / "run"
    state = checkpoints.load(folder / "nerfstudio_models" / f"step-{STEPS - 1:09d}.ckpt")
    means = state["pipeline"]["_model.gauss_params.means"]
    assert means.device.type == "cpu" and means.isfinite().all()
    assert len(state["difix3d_ns"]["parts"]["guidance"]["pool"]) == 12  # a view and a state of each photo
    run("ns-eval", "--load-config", folder / "config.yml", "--output-path", tmp_path / "eval.json")
    assert json.loads((tmp_path / "eval.json").read_text())["results"]["psnr"] > 10


def test_a_training_on_generated_views(tiny_scene: Path, tmp_path: Path) -> None:
    """Predicted, and made again from noised renders."""
    weights = tmp_path / "weights"
    weights.mkdir()
    flags = (
        *("--data", tiny_scene, "--output-dir", tmp_path, *COMMON, "--pipeline.guidance.count", 1),
        *("--pipeline.guidance.refresh", 1, "--pipeline.depth.name", "none", "--pipeline.initial-points.stereo", 0),
        *("--pipeline.guidance.view-generator.name", "sparsefusion"),
        *("--pipeline.guidance.view-generator.weights", write_sparsefusion(weights)),
    )
    said = run("ns-train", "sparsefusion-splatfacto", *flags)
    assert "Made again 1 done" in said
    folder = tmp_path / "scene" / "sparsefusion-splatfacto" / "run"
    state = checkpoints.load(folder / "nerfstudio_models" / f"step-{STEPS - 1:09d}.ckpt")
    means = state["pipeline"]["_model.gauss_params.means"]
    assert means.device.type == "cpu" and means.isfinite().all()


def test_a_training_that_goes_on(trained: Path, tiny_scene: Path, tmp_path: Path) -> None:
    """From a checkpoint in the middle to the same splat; the pretended device draws and rounds as the CPU does."""
    models = tmp_path / "models"
    models.mkdir()
    middle = f"step-{SAVED:09d}.ckpt"
    (models / middle).write_bytes((trained / "nerfstudio_models" / middle).read_bytes())
    (tmp_path / "pseudo_views").symlink_to(trained / "pseudo_views")
    train = ("difix3d-splatfacto", "--data", tiny_scene, "--output-dir", tmp_path / "out", *TRAINING)
    said = run("ns-train", *train, "--load-dir", models)
    assert f"going on at step {SAVED + 1}" in said
    last = f"step-{STEPS - 1:09d}.ckpt"
    again = tmp_path / "out" / "scene" / "difix3d-splatfacto" / "run" / "nerfstudio_models" / last
    expected, found = (checkpoints.load(path) for path in (trained / "nerfstudio_models" / last, again))
    name = "_model.gauss_params.means"
    assert found["step"] == STEPS - 1 and len(found["difix3d_ns"]["parts"]["guidance"]["pool"]) == 2
    torch.testing.assert_close(found["pipeline"][name], expected["pipeline"][name], atol=1e-4, rtol=0)


def test_training_a_prior(tmp_path: Path) -> None:
    """It validates with pictures on the host, and trains on from there; few steps, on samples that are there."""
    recipe = yaml.safe_load(SMOKE.read_text()) | {"scenes": [], "validate_steps": 2}
    for phase in recipe["phases"]:
        phase["steps"] = 2
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    shards = write_shards(tmp_path / "shards", train=2, validation=1, size=(64, 72))
    output = tmp_path / "prior"
    run("difix3d", "train-prior", tmp_path / "smoke.yaml", "--output", output, "--shards", shards)
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics and (output / "weights.safetensors").is_file()
