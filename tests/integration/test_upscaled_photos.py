"""A training on upscaled photos as its user runs it: killed and gone on, evaluated, exported, begun from an export."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from PIL import Image

import difix3d_ns.methods.threedsr  # noqa: F401  (registers what a checkpoint may hold)
from difix3d_ns.io import checkpoints
from tests.commands import forked
from tests.conftest import Command, command_line
from tests.unit.method_cases import assert_same

PHOTOS, STEPS, WINDOW = 6, 60, 20
SMALL = (
    *("--vis", "tensorboard", "--max-num-iterations", STEPS, "--steps-per-save", 7, "--machine.device-type", "cpu"),
    *("--pipeline.guidance.upscaler.name", "tests.unit.tiny_upscaler", "--pipeline.guidance.factor", 2),
    *("--pipeline.guidance.steps-per-round", WINDOW, "--pipeline.model.max-gs-num", 3000),
    *("--pipeline.initial-points.stereo", 0),
)
FROM_NOISE = ("--pipeline.guidance.photos-first", "False")


def _train(output: Path, scene: Path, *flags: object) -> list[object]:
    return [
        *("3dsr-splatfacto", "--data", scene, "--output-dir", output, "--experiment-name", "scene"),
        *("--timestamp", "run", *SMALL, *flags),
    ]


def _folder(output: Path) -> Path:
    return output / "scene" / "3dsr-splatfacto" / "run"


@pytest.fixture(scope="module")
def upscaled(run: Command, tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted training in two rounds."""
    output = tmp_path_factory.mktemp("upscaled")
    said = " ".join(run("ns-train", *_train(output, tiny_scene, *FROM_NOISE)).stdout.split())
    assert "6 photos of 128 x 96 px are upscaled by 2 to 256 x 192" in said and "Round 2/2 done" in said
    return _folder(output)


def test_what_it_leaves(run: Command, upscaled: Path, tmp_path: Path) -> None:
    pictures = sorted((upscaled / "upscaled").rglob("*.png"))
    assert len(pictures) == PHOTOS and Image.open(pictures[0]).size == (256, 192)
    run("ns-eval", "--load-config", upscaled / "config.yml", "--output-path", tmp_path / "eval.json")
    results = json.loads((tmp_path / "eval.json").read_text())
    assert results["method_name"] == "3dsr-splatfacto" and results["results"]["psnr"] > 10


@pytest.mark.parametrize("moment", ["in the second boundary", "in the first window"])
def test_killed_and_resumed_to_the_same_splat(
    moment: str, run: Command, upscaled: Path, tiny_scene: Path, tmp_path: Path
) -> None:
    folder = _folder(tmp_path)
    models, pool = folder / "nerfstudio_models", folder / "pseudo_views"
    wanted = 2 * PHOTOS + (3 if moment == "in the second boundary" else 0)  # a view and a state of each
    with forked(command_line("ns-train", *_train(tmp_path, tiny_scene, *FROM_NOISE)), tmp_path / "log") as process:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and process.is_alive():
            numbers = [int(path.stem[5:]) for path in pool.glob("view_*.safetensors")] if pool.exists() else []
            if max(numbers, default=-1) + 1 >= wanted and any(models.glob("*.ckpt")):
                break
            time.sleep(0.005)
        assert process.is_alive(), "training ended before it could be killed"
    said = run("ns-train", *_train(tmp_path, tiny_scene, "--load-dir", models)).stdout
    assert "going on at step" in said
    expected, found = (checkpoints.load_newest(path / "nerfstudio_models")[1] for path in (upscaled, folder))
    for name in ("step", "pipeline", "optimizers", "schedulers"):
        assert_same(found[name], expected[name], name)
    ours = [state["difix3d_ns"]["parts"]["guidance"] for state in (expected, found)]
    for state in ours:
        state["pool"] = [key for key, _ in state["pool"]]
    assert_same(ours[1], ours[0])
    names = [path.name for path in sorted((upscaled / "upscaled").rglob("*.png"))]
    assert len(names) == PHOTOS
    for name in names:
        assert (folder / "upscaled" / name).read_bytes() == (upscaled / "upscaled" / name).read_bytes()


def test_an_exported_splat_begins_the_rounds(run: Command, upscaled: Path, tiny_scene: Path, tmp_path: Path) -> None:
    run("ns-export", "gaussian-splat", "--load-config", upscaled / "config.yml", "--output-dir", tmp_path)
    start = ("--pipeline.guidance.start", tmp_path / "splat.ply", "--max-num-iterations", 4)
    flags = ("--pipeline.guidance.steps-per-round", 2)
    said = " ".join(run("ns-train", *_train(tmp_path, tiny_scene, *start, *flags)).stdout.split())
    assert "with a PSNR of" in said and "The photos agree on their details by" in said and "Round 2/2 done" in said
    state = checkpoints.load_newest(_folder(tmp_path) / "nerfstudio_models")[1]
    assert state["step"] == 30_003 and state["difix3d_ns"]["parts"]["guidance"]["round"] == 1
