"""Environment variables change how a finished training is shown, and nothing else; mistakes are told in one line."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb

from difix3d_ns.enhance.enhancer import EnhancerSettings
from difix3d_ns.enhance.enhancer_config import EnhanceMode, EnhancerConfig
from difix3d_ns.errors import UserError
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.ns.environment import apply_environment
from difix3d_ns.ns.pipeline import GuidedPipeline
from difix3d_ns.ns.trainer import GuidedTrainer, GuidedTrainerConfig
from difix3d_ns.priors.fixer_config import FixerConfig
from tests.unit.tiny_scene import write_scene


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENHANCE", "WEIGHTS", "STRENGTH"):
        monkeypatch.delenv(f"DIFIX3D_{name}", raising=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("ENHANCE", "yes"), ("STRENGTH", "much"), ("STRENGTH", "1.5"), ("STRENGTH", "-0.1"), ("STRENGTH", "nan")],
)
def test_unusable_values_are_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DIFIX3D_{name}", value)
    with pytest.raises(UserError, match=f"DIFIX3D_{name}={value}: use"):
        apply_environment(EnhancerConfig())


def test_what_is_not_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = EnhancerConfig(weights="trained", strength=0.4, references=2)
    config = replace(trained)
    apply_environment(config)
    assert config == trained
    monkeypatch.setenv("DIFIX3D_WEIGHTS", "")
    monkeypatch.setenv("DIFIX3D_STRENGTH", "0")
    apply_environment(config)
    assert config == replace(trained, strength=0.0)


def _set_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFIX3D_ENHANCE", "off")
    monkeypatch.setenv("DIFIX3D_WEIGHTS", "/from/the/environment")
    monkeypatch.setenv("DIFIX3D_STRENGTH", "0.5")


def _config(folder: Path, **enhancer: Any) -> GuidedTrainerConfig:
    config = copy.deepcopy(difix3d_splatfacto.config)
    assert isinstance(config, GuidedTrainerConfig)
    config.machine.device_type = "cpu"
    config.data = config.pipeline.datamanager.data = write_scene(folder / "scene")
    config.output_dir, config.experiment_name, config.timestamp = folder / "outputs", "tiny", "run"
    config.vis, config.max_num_iterations, config.pipeline.guidance.rounds = "tensorboard", 4, 0
    config.pipeline.sparse_helps = False
    config.pipeline.enhancer = EnhancerConfig(**enhancer)
    return config


def test_a_training_follows_its_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _set_all(monkeypatch)
    loaded: list[str | None] = []
    monkeypatch.setattr(FixerConfig, "load", lambda fixer, device, flag_prefix: loaded.append(fixer.weights))
    config = _config(tmp_path, weights="given.safetensors", strength=0.8)
    trainer = GuidedTrainer(config)
    trainer.setup()
    assert config.pipeline.enhancer == EnhancerConfig(weights="given.safetensors", strength=0.8)
    assert trainer.pipeline.enhancer.settings == EnhancerSettings(FixerConfig(weights="given.safetensors"), 0.8)
    assert trainer.pipeline.model.enhance == "key" and loaded == ["given.safetensors"]
    message = " ".join(capsys.readouterr().out.split())
    assert "DIFIX3D_ENHANCE, DIFIX3D_WEIGHTS, DIFIX3D_STRENGTH: no effect on training" in message


@pytest.mark.parametrize("test_mode", ["test", "inference", "val"])
def test_a_finished_training_follows_the_environment(
    test_mode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, weights="trained.safetensors", strength=0.8)
    GuidedTrainer(config)  # fills in what is unset
    _set_all(monkeypatch)
    pipeline = config.pipeline.setup(device=torch.device("cpu"), test_mode=test_mode)
    assert isinstance(pipeline, GuidedPipeline)
    assert pipeline.enhancer.settings == EnhancerSettings(FixerConfig(weights="/from/the/environment"), 0.5)
    assert pipeline.model.enhance == "off"


@pytest.mark.parametrize("mode", ["key", "rgb", "off"])
def test_the_mode_by_flag(mode: EnhanceMode, tmp_path: Path) -> None:
    config = _config(tmp_path)
    config.pipeline.enhancer.mode = mode
    GuidedTrainer(config)
    pipeline = config.pipeline.setup(device=torch.device("cpu"), test_mode="test")
    assert pipeline.model.enhance == mode


def _uncaught(error: str) -> subprocess.CompletedProcess[str]:
    code = f"import difix3d_ns.methods.difix3d\nfrom difix3d_ns.errors import UserError\nraise {error}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_user_errors_end_any_command_with_their_message_alone() -> None:
    done = _uncaught("UserError('--flag [5]: give ' + 'another ' * 30) from ValueError('inside')")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("Error: --flag [5]: give " + ("another " * 30).strip())
    assert "Traceback" not in done.stderr and "inside" not in done.stderr


@pytest.mark.slow
def test_other_errors_keep_their_traceback() -> None:
    done = _uncaught("ValueError('a bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ValueError: a bug" in done.stderr


@pytest.mark.slow
def test_the_config_of_an_earlier_version_is_told_of_in_one_sentence(tmp_path: Path) -> None:
    """ns-eval and ns-viewer read config.yml before anything of ours has a say."""
    (tmp_path / "config.yml").write_text("!!python/object:difix3d_ns.trainer.Difix3DTrainerConfig\nvis: viewer\n")
    code = "import difix3d_ns.methods.difix3d, yaml; yaml.load(open('config.yml').read(), Loader=yaml.Loader)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Error: this config.yml was written by an earlier version of difix3d_ns" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("vis", "remedy"), [("comet", "COMET_API_KEY"), ("viewer+wandb", "WANDB_MODE=offline")])
def test_a_service_without_a_login_is_named_before_anything_is_done(
    vis: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COMET_API_KEY", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "NETRC", "COMET_CONFIG"):  # no login of whoever runs this
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(sys, "stdin", None)  # nobody is there to type a key
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def set_up() -> SimpleNamespace:  # it remembers the mode of the first test that used it
        sys.excepthook = print  # its own prints tracebacks
        return SimpleNamespace(settings=wandb.Settings())

    monkeypatch.setattr(wandb, "setup", set_up)
    config = _config(tmp_path)
    config.vis = vis
    with pytest.raises(UserError, match=f"--vis {re.escape(vis)}: .*{remedy}.*or use --vis viewer\\+tensorboard"):
        config.check("-")
    assert sys.excepthook is not print
    monkeypatch.setenv("COMET_API_KEY", "0" * 25)
    monkeypatch.setenv("WANDB_MODE", "offline")
    config.check("-")
