"""Files and folders that are whole or not there, and that nothing else in the package makes any."""

import ast
import errno
import os
from pathlib import Path

import pytest
import torch

import difix3d_ns
from difix3d_ns.io.atomic import remove_unfinished, replacing, write_json, write_tensors, write_text, write_torch
from difix3d_ns.io.sources import parse

PACKAGE = Path(difix3d_ns.__file__).parent


def _renamings(tree: ast.Module) -> list[ast.Call]:
    """``os.replace(a, b)``, ``path.rename(b)``, ``shutil.move(a, b)`` and the makers of temporary files that stay."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        of_path = name.endswith((".rename", ".replace")) and len(call.args) == 1 and not call.keywords
        if of_path and not name.endswith("queue.replace"):
            found.append(call)
        leaves = name.startswith("tempfile.") and name not in ("tempfile.TemporaryFile", "tempfile.TemporaryDirectory")
        if leaves or name in ("os.replace", "os.rename", "shutil.move", "os.fsync"):
            found.append(call)
    return found


def test_one_writer():
    sources = {path: parse(path.read_text(), str(path)) for path in PACKAGE.rglob("*.py")}
    writers = {path.relative_to(PACKAGE).as_posix() for path, tree in sources.items() if _renamings(tree)}
    assert writers == {"io/atomic.py"}


@pytest.mark.parametrize("call", ["os.replace(a, b)", "Path(a).rename(b)", "part.replace(path)", "tempfile.mkstemp()"])
def test_another_writer_is_noticed(call: str):
    assert _renamings(ast.parse(call))


@pytest.mark.parametrize(
    "call",
    ["tempfile.TemporaryFile()", "text.replace(a, b)", "dataclasses.replace(a, b=c)", "self.queue.replace(tasks)"],
)
def test_other_replacements_are_not_meant(call: str):
    assert not _renamings(ast.parse(call))


def test_what_is_written_replaces_what_was_there(tmp_path: Path):
    path = tmp_path / "new folder" / "file.json"
    for content in ({"a": 1}, [2, 3]):
        write_json(path, content)
    assert path.read_text() == "[\n 2,\n 3\n]\n"
    assert os.listdir(path.parent) == ["file.json"]


def test_an_error_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def interrupted() -> None:
        with replacing(path) as part:
            assert part.name.startswith(".") and part.suffix == ".txt" and part.parent == tmp_path
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["file.txt"]


def test_nothing_written_changes_nothing(tmp_path: Path):
    with replacing(tmp_path / "file.txt"):
        pass
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_is_whole_or_not_there(tmp_path: Path, fails: bool):
    folder = tmp_path / "folder"
    folder.mkdir()
    try:
        with replacing(folder) as part:
            write_text(part / "below" / "file.txt", "text")
            if fails:
                raise OSError
    except OSError:
        assert fails
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(folder) == ([] if fails else ["below"])


@pytest.mark.parametrize("kind", ["text", "tensors", "torch"])
def test_a_full_disk_is_an_os_error(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write = {
        "text": lambda path: write_text(path, "text"),
        "tensors": lambda path: write_tensors(path, {"x": torch.zeros(3)}),
        "torch": lambda path: write_torch(path, {"x": torch.zeros(3)}),
    }[kind]
    write(tmp_path / "file")
    before = (tmp_path / "file").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == before and os.listdir(tmp_path) == ["file"]


def test_weights_in_a_folder_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_tensors(tmp_path / "file" / "weights.safetensors", {"x": torch.zeros(3)})


def test_weights_can_be_read_by_others(tmp_path: Path):
    write_tensors(tmp_path / "weights.safetensors", {"x": torch.zeros(3)}, {"format": "pt"})
    assert (tmp_path / "weights.safetensors").stat().st_mode & 0o044 == 0o044


def test_leftovers_of_a_kill(tmp_path: Path):
    names = [".state.1234abcd.part.ckpt", ".view.1234abcd.part.json", "part.ckpt", ".hidden.ckpt"]
    for name in names:
        (tmp_path / name).write_text("half")
    remove_unfinished(tmp_path, ".ckpt")
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names[2:])
