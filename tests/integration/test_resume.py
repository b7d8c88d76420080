"""Training goes on where it was, whatever ended it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from tests.commands import forked
from tests.conftest import Command, command_line
from tests.integration.conftest import SMALL
from tests.states import first_difference


def _train(output: Path, scene: Path, *flags: object) -> list[object]:
    return [
        *("difix3d-splatfacto", "--data", scene, "--output-dir", output, "--experiment-name", "scene"),
        *("--timestamp", "run", *SMALL, *flags),
    ]


def _checkpoint(folder: Path, step: int) -> dict:
    import difix3d_ns.methods.difix3d  # noqa: F401  (registers what torch.load may read)

    return torch.load(folder / f"step-{step:09d}.ckpt", weights_only=True)


def _keys(checkpoint: dict) -> list[str]:
    """Keys of the pool's views."""
    return [key for key, _ in checkpoint["difix3d_ns"]["parts"]["guidance"]["pool"]]


def _models(output: Path) -> Path:
    return output / "scene" / "difix3d-splatfacto" / "run" / "nerfstudio_models"


@pytest.mark.parametrize("moment", ["in a round", "after the first checkpoint"])
def test_killed_training_resumes_to_the_same_splat(
    moment: str, run: Command, trained: Path, tiny_scene: Path, tmp_path: Path
) -> None:
    pool = tmp_path / "scene" / "difix3d-splatfacto" / "run" / "pseudo_views"
    with forked(command_line("ns-train", *_train(tmp_path, tiny_scene)), tmp_path / "log") as process:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and process.is_alive():
            checkpoint = any(_models(tmp_path).glob("*.ckpt")) if _models(tmp_path).exists() else False
            in_round = any(pool.glob("view_*")) if pool.exists() else False
            if checkpoint and (in_round or moment != "in a round"):
                break
            time.sleep(0.02)
        assert process.is_alive(), "training ended before it could be killed"

    result = run("ns-train", *_train(tmp_path, tiny_scene, "--load-dir", _models(tmp_path)))
    assert "going on at step" in result.stdout

    reference, resumed = _checkpoint(trained.parent / "nerfstudio_models", 149), _checkpoint(_models(tmp_path), 149)
    for part in ("pipeline", "optimizers"):
        assert first_difference(reference[part], resumed[part], part) == ""
    assert first_difference(reference["difix3d_ns"]["random"], resumed["difix3d_ns"]["random"], "random") == ""
    assert _keys(resumed) == _keys(reference) and len(_keys(reference)) == 8


def test_finished_training_is_not_trained_again(run: Command, trained: Path, tiny_scene: Path, tmp_path: Path) -> None:
    models = trained.parent / "nerfstudio_models"
    before = {path.name: path.stat().st_mtime_ns for path in models.iterdir()}
    result = run("ns-train", *_train(tmp_path, tiny_scene, "--load-dir", models))
    assert "Already trained for 150 steps" in result.stdout
    assert {path.name: path.stat().st_mtime_ns for path in models.iterdir()} == before


def test_a_truncated_checkpoint_falls_back_to_the_one_before(
    run: Command, trained: Path, tiny_scene: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for path in (trained.parent / "nerfstudio_models").iterdir():
        content = path.read_bytes()
        (models / path.name).write_bytes(content[: len(content) // 2] if "149" in path.name else content)
    result = run("ns-train", *_train(tmp_path / "out", tiny_scene, "--load-dir", models))
    assert "step-000000149.ckpt is damaged" in " ".join(result.stdout.split())
    assert "going on at step 121" in " ".join(result.stdout.split())
    assert (_models(tmp_path / "out") / "step-000000149.ckpt").exists()


def test_a_plain_splatfacto_checkpoint_is_trained_on(
    run: Command, trained: Path, tiny_scene: Path, tmp_path: Path
) -> None:
    state = _checkpoint(trained.parent / "nerfstudio_models", 149)
    del state["difix3d_ns"]  # what remains is exactly nerfstudio's layout, but for the metric's weights it also saves
    state["pipeline"]["_model.lpips.net.lin0.model.1.weight"] = torch.zeros(1, 64, 1, 1)
    plain = tmp_path / "plain.ckpt"
    torch.save(state, plain)
    result = run("ns-train", *_train(tmp_path, tiny_scene, "--load-checkpoint", plain, "--max-num-iterations", 60))
    assert "comes from another method" in " ".join(result.stdout.split())
    after = _checkpoint(_models(tmp_path), 209)
    name = "_model.gauss_params.means"
    assert after["pipeline"][name].isfinite().all()
    count = min(len(after["pipeline"][name]), len(state["pipeline"][name]))
    assert not torch.equal(after["pipeline"][name][:count], state["pipeline"][name][:count])
    assert len(_keys(after)) > 0
