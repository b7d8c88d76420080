"""Consoles that lack characters: something that looks alike is shown, and nothing ends."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rich

from difix3d_ns.io.consoles import replace_unprintable
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import write_scene


def _stream(encoding: str, errors: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, write_through=True)


def _written(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


@pytest.mark.parametrize(
    ("encoding", "errors", "shown"),
    [
        ("ascii", "surrogateescape", "+--+ | -> * ... ?k ##"),
        ("cp1252", "strict", "+--+ | -> • … äk ##"),
        ("utf-8", "strict", "╭─━╮ │ → • … äk █▌"),
        ("ascii", "backslashreplace", None),  # the user's choice
    ],
)
def test_characters_that_look_alike(
    encoding: str, errors: str, shown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = _stream(encoding, errors)
    monkeypatch.setattr(sys, "stdout", stream)
    replace_unprintable()
    replace_unprintable()
    stream.write("╭─━╮ │ → • … äk █▌")
    assert _written(stream) == (shown or "╭─━╮ │ → • … äk █▌".encode("ascii", "backslashreplace").decode())


def test_a_name_that_is_no_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _stream("utf-8", "strict")
    monkeypatch.setattr(sys, "stdout", stream)
    replace_unprintable()
    stream.write(os.fsdecode(b"k\xe4se"))
    assert _written(stream) == "k?se"


def test_a_training_on_a_console_that_lacks_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Consoles made before, as nerfstudio's, included."""
    from difix3d_ns.ns.patches import apply

    streams = {"stdout": _stream("cp1252", "strict"), "stderr": _stream("ascii", "strict")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    config = short_config(write_scene(tmp_path / "scène"), steps=2)
    with pytest.raises(UnicodeEncodeError):
        config.print_to_terminal()
    apply()
    config.print_to_terminal()
    trainer = train(config)
    rich.print("[bold]→ fertig ✅")
    assert (trainer.checkpoint_dir / "step-000000001.ckpt").is_file()
    text = _written(streams["stdout"])
    assert "-" * 100 in text and "-> fertig ?" in text and "scène" in text


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_our_own_command(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "difix3d_ns.cli", "--help"]
        done = subprocess.run(command, env=os.environ | environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    text = log.read_text(encoding="ascii", errors="replace")
    assert done.returncode == 0 and "Traceback" not in text
    assert "demo-scene" in text and "report" in text
