"""Ctrl-C and SIGTERM: one line, a status, and what was done is kept."""

from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from difix3d_ns import cli
from difix3d_ns.apps.video_files import video_writer
from difix3d_ns.ns.interrupts import Interrupts
from difix3d_ns.ns.trainer import GuidedTrainer
from tests.unit.short_training import console_output, short_config, train
from tests.unit.tiny_scene import write_scene

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_is_saved_and_goes_on_to_the_same_splat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    scene = write_scene(tmp_path / "scene")
    torch.manual_seed(0)
    whole = train(short_config(scene, steps=6, rounds=0, name="whole"))
    config = short_config(scene, steps=6, rounds=0, name="stopped")
    config.steps_per_save = 1000
    torch.manual_seed(0)
    trainer = GuidedTrainer(config)
    config.save_config()
    trainer.setup()
    iterate = trainer.train_iteration

    def interrupted(step: int) -> Any:
        if step == 3:
            signal.raise_signal(number)
        return iterate(step)

    before = signal.getsignal(number)
    trainer.train_iteration = interrupted  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as end:
        trainer.train()
    assert end.value.code == 128 + number
    assert signal.getsignal(number) == before
    text = console_output(capsys)
    assert (
        "Ending after this step" in text
        and f"Interrupted at step 4. Go on with --load-dir {trainer.checkpoint_dir}" in text
    )
    assert [file.name for file in trainer.checkpoint_dir.iterdir()] == ["step-000000003.ckpt"]
    again = short_config(scene, steps=6, rounds=0, name="again")
    again.load_dir = trainer.checkpoint_dir
    resumed = train(again)
    for name, parameter in whole.pipeline.model.gauss_params.items():
        assert torch.equal(parameter, resumed.pipeline.model.gauss_params[name]), name


def test_before_the_first_step_nothing_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = short_config(write_scene(tmp_path / "scene"), steps=3, rounds=0)
    trainer = GuidedTrainer(config)
    config.save_config()
    begin = trainer.setup_optimizers

    def interrupted() -> Any:
        signal.raise_signal(signal.SIGINT)
        return begin()

    trainer.setup_optimizers = interrupted  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as end:
        trainer.setup()
    assert end.value.code == 130 and "before the first step: nothing was begun" in console_output(capsys)
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("config.yml"))


def test_a_second_signal_ends_at_once() -> None:
    interrupts = Interrupts()
    with interrupts.caught(lambda: None):
        signal.raise_signal(signal.SIGINT)
        assert interrupts.number == signal.SIGINT
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGINT)
    finished = Interrupts()
    with pytest.raises(SystemExit), finished.caught(lambda: "The training is finished."):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("command", "kept"), [("upscale", True), ("report", False)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    kept: bool,
    number: signal.Signals,
) -> None:
    def work() -> None:
        signal.raise_signal(number)

    monkeypatch.setitem(cli.COMMANDS, command, work)
    monkeypatch.setattr(sys, "argv", ["difix3d", command])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 128 + number
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text.startswith("Interrupted") and ("the same command goes on" in text) == kept


def test_warnings_of_imports_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        warnings.warn("`torch.jit.script` is deprecated. Please switch to `torch.compile`", FutureWarning, stacklevel=1)
        warnings.warn_explicit("`custom_bwd` is deprecated", FutureWarning, "a.py", 1, "nerfstudio.a")
        warnings.warn("`torch.script` is deprecated", FutureWarning, stacklevel=1)

    monkeypatch.setitem(cli.COMMANDS, "report", work)
    monkeypatch.setattr(sys, "argv", ["difix3d", "report"])
    with warnings.catch_warnings(record=True) as shown:
        cli.main()
    assert [str(warning.message) for warning in shown] == ["`torch.script` is deprecated"]


def test_version_and_a_command_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/difix3d", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"difix3d {cli.difix3d_ns.__version__}\n"
    for name, message in (("dpeth", "did you mean depth?"), ("xyzzy", "there are doctor, demo")):
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/difix3d", name])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 2 and message in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/difix3d", "pose", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "usage: difix3d pose" in capsys.readouterr().out


def test_ns_commands_end_without_a_traceback() -> None:
    code = "import nerfstudio.configs.method_configs, os, signal; os.kill(os.getpid(), signal.SIGINT); input()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.PIPE)
    assert (
        done.returncode == -signal.SIGINT and done.stderr.endswith("Interrupted.\n") and "Traceback" not in done.stderr
    )


def test_a_video_that_is_interrupted_ends_with_the_interrupt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C reaches ffmpeg as well, which then fails where the video is closed."""

    def close(self: Any) -> None:
        raise RuntimeError("Error writing")

    monkeypatch.setattr("mediapy.VideoWriter.__enter__", lambda self: self)
    monkeypatch.setattr("mediapy.VideoWriter.close", close)
    with pytest.raises(KeyboardInterrupt), video_writer(tmp_path / "a.mp4", 16, 16, 24):
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError, match="Error writing"), video_writer(tmp_path / "a.mp4", 16, 16, 24):
        pass
    assert not [*tmp_path.iterdir()]
