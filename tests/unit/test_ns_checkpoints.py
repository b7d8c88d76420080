"""Checkpoints: all or nothing on disk, and readable by every torch."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difix3d_ns.errors import UserError
from difix3d_ns.io import checkpoints
from difix3d_ns.ns.patches import torch_load
from difix3d_ns.ns.starting_splat import read_start


def _state(step: int) -> dict[str, Any]:
    return {"step": step, "pipeline": {"x": torch.full((1000,), float(step))}, "optimizers": {}}


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "nerfstudio_models"
    checkpoints.save(_state(1), folder, 1)
    return folder


def test_round_trip(folder: Path) -> None:
    path = checkpoints.save(_state(20), folder, 20)
    assert path.name == "step-000000020.ckpt"
    assert torch.equal(checkpoints.load(path)["pipeline"]["x"], torch.full((1000,), 20.0))
    assert checkpoints.checkpoint_steps(folder) == [20, 1]
    assert _files(folder.parent) == ["nerfstudio_models/step-000000001.ckpt", "nerfstudio_models/step-000000020.ckpt"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter")]
)
def test_full_disk_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    before = _files(folder.parent)

    def fail(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"space|PytorchStreamWriter"):
        checkpoints.save(_state(2), folder, 2)
    assert _files(folder.parent) == before
    assert checkpoints.load_newest(folder)[1]["step"] == 1


def test_full_disk_while_torch_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _files(folder.parent)
    opened = Path.open

    class Full:
        def __init__(self, path: Path, mode: str) -> None:
            self.file = opened(path, mode)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None:
            self.file.flush()

    monkeypatch.setattr(Path, "open", lambda path, mode: Full(path, mode))
    with pytest.raises(OSError, match="No space left on device"):
        checkpoints.save(_state(2), folder, 2)
    monkeypatch.undo()
    assert _files(folder.parent) == before


def test_full_disk_at_the_last_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _files(folder.parent)

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(_state(2), folder, 2)
    assert _files(folder.parent) == before


def test_interrupt_while_saving_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _files(folder.parent)

    def interrupt(state: Any, file: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(_state(1), folder, 1)
    assert _files(folder.parent) == before
    monkeypatch.undo()
    assert checkpoints.load_newest(folder)[1]["step"] == 1


def test_leftovers_of_a_kill_are_removed_and_never_read(folder: Path) -> None:
    leftover = folder.parent / ".step-000000002.1234abcd.part.ckpt"  # what kill -9 in the middle of a save leaves
    leftover.write_bytes(b"half")
    assert checkpoints.checkpoint_steps(folder) == [1]
    checkpoints.save(_state(2), folder, 2)
    checkpoints.remove_older(folder, [2])
    assert not leftover.exists()
    assert _files(folder.parent) == ["nerfstudio_models/step-000000002.ckpt"]


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_damaged_newest_falls_back_with_a_notice(
    folder: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoints.save(_state(2), folder, 2)
    newest.write_bytes(newest.read_bytes()[:-2000] if content is None else content)
    path, state = checkpoints.load_newest(folder)
    assert state["step"] == 1 and path.name == "step-000000001.ckpt"
    message = " ".join(capsys.readouterr().out.split())
    assert "step-000000002.ckpt" in message.replace(" ", "") and "trying the one before" in message


def test_nothing_readable_is_an_error(folder: Path, tmp_path: Path) -> None:
    (folder / "step-000000001.ckpt").write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"--load-dir .*1 damaged"):
        checkpoints.load_newest(folder)
    with pytest.raises(UserError, match=r"--load-dir .*nerfstudio_models"):
        checkpoints.load_newest(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"^--pipeline\.guidance\.start .*1 damaged"):
        read_start(folder.parent, "--pipeline.guidance.start")


def test_foreign_files_are_named(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    for name in ("other", "list", "text", "missing"):
        with pytest.raises(UserError, match=f"{name}\\.ckpt"):
            checkpoints.load(tmp_path / f"{name}.ckpt")


def test_stray_names_do_not_confuse(folder: Path) -> None:
    (folder / "step-final.ckpt").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    assert checkpoints.checkpoint_steps(folder) == [1]


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"step": 1, "pipeline": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError):
        checkpoints.load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("version", "tuples"), [("2.4.0+cu121", 0), ("2.5.1", 0), ("2.6.0", 2), ("2.15.0", 2)])
def test_older_torch_knows_no_other_names(version: str, tuples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks each for its ``__module__``: a tuple makes every later ``torch.load`` fail."""
    given: list[Any] = []
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.serialization, "add_safe_globals", given.extend)
    torch_load.apply()
    assert sum(isinstance(each, tuple) for each in given) == tuples
    assert all(hasattr(each, "__module__") for each in given if not isinstance(each, tuple))
    assert len(given) == 4


def test_numpy_scalars_load(tmp_path: Path) -> None:
    torch_load.apply()
    torch.save({"step": 3, "pipeline": {}, "lr": np.float64(0.25)}, tmp_path / "n.ckpt")
    assert checkpoints.load(tmp_path / "n.ckpt")["lr"] == 0.25


def test_random_states_survive_a_file(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random.gauss(0, 1)
    np.random.standard_normal(3)
    torch.save({"step": 0, "pipeline": {}, "random": checkpoints.random_state()}, tmp_path / "r.ckpt")

    def draw() -> list[Any]:
        return [random.random(), random.gauss(0, 1), *np.random.standard_normal(4), *torch.rand(4).tolist()]

    expected = draw()
    draw()
    checkpoints.restore_random_state(checkpoints.load(tmp_path / "r.ckpt")["random"])
    assert draw() == expected
