"""Repairing picture files from the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difix3d_ns import cli
from difix3d_ns.errors import UserError
from difix3d_ns.fixing import fix_pictures


def _picture(path: Path, size: tuple[int, int] = (24, 16), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)
    return path


def _pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def _fix(inputs: list[Path], output: Path, references: tuple[Path, ...] = ()) -> list[Path]:
    return fix_pictures(inputs, output, references, "none", "cpu")


def test_file_to_file(tmp_path: Path) -> None:
    source = _picture(tmp_path / "a.png")
    assert _fix([source], tmp_path / "new" / "b.png") == [tmp_path / "new" / "b.png"]
    assert np.array_equal(_pixels(tmp_path / "new" / "b.png"), _pixels(source))


def test_file_into_a_folder_that_exists(tmp_path: Path) -> None:
    source = _picture(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    assert _fix([source], tmp_path / "out") == [tmp_path / "out" / "a.png"]


def test_folder_to_folder_keeps_names_and_sizes(tmp_path: Path) -> None:
    sizes = {"a.png": (24, 16), "b.jpg": (17, 31), "C.PNG": (8, 8)}
    for name, size in sizes.items():
        _picture(tmp_path / "in" / name, size)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    written = _fix([tmp_path / "in"], tmp_path / "out")
    assert {path.name: Image.open(path).size for path in written} == sizes
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(sizes)


def test_several_files(tmp_path: Path) -> None:
    inputs = [_picture(tmp_path / name) for name in ("a.png", "b.png")]
    assert _fix(inputs, tmp_path / "out") == [tmp_path / "out" / "a.png", tmp_path / "out" / "b.png"]


@pytest.mark.parametrize("mode", ["RGBA", "L"])
def test_other_kinds_of_pictures(tmp_path: Path, mode: str) -> None:
    _fix([_picture(tmp_path / "a.png", mode=mode)], tmp_path / "b.png")
    assert Image.open(tmp_path / "b.png").mode == "RGB"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        _fix([tmp_path / "gone.png"], tmp_path / "b.png")


def test_missing_reference(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        _fix([_picture(tmp_path / "a.png")], tmp_path / "b.png", (tmp_path / "gone.png",))
    assert not (tmp_path / "b.png").exists()


def test_not_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"a\.png is no picture"):
        _fix([tmp_path / "a.png"], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_half_a_picture(tmp_path: Path) -> None:
    path = _picture(tmp_path / "a.png", (200, 200))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"a\.png is no picture"):
        _fix([path], tmp_path / "b.png")


def test_two_inputs_of_one_name(tmp_path: Path) -> None:
    inputs = [_picture(tmp_path / folder / "a.png") for folder in ("x", "y")]
    with pytest.raises(UserError, match=r"several inputs are named a\.png"):
        _fix(inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="in has no pictures"):
        _fix([tmp_path / "in"], tmp_path / "out")


def test_folder_into_a_file(tmp_path: Path) -> None:
    _picture(tmp_path / "in" / "a.png")
    output = _picture(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"--output .*b\.png"):
        _fix([tmp_path / "in"], output)


def test_inputs_are_not_overwritten(tmp_path: Path) -> None:
    source = _picture(tmp_path / "in" / "a.png")
    before = source.read_bytes()
    for inputs, output in (([source], source), ([source.parent], source.parent)):
        with pytest.raises(UserError, match="would overwrite"):
            _fix(inputs, output)
    assert source.read_bytes() == before


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(UserError, match=r"--output.*cannot be written"):
        _fix([_picture(tmp_path / "a.png")], blocked / "deeper" / "b.png")


def test_unknown_kind_of_output(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--output .*b\.xyz"):
        _fix([_picture(tmp_path / "a.png")], tmp_path / "b.xyz")


def test_unreadable_weights(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    for name in ("w.safetensors", "gone.safetensors"):
        with pytest.raises(UserError, match=f"--weights .*{name}"):
            fix_pictures([_picture(tmp_path / "a.png")], tmp_path / "b.png", (), str(tmp_path / name), "cpu")


def test_command_tells_mistakes_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["difix3d", "fix", str(tmp_path / "gone.png"), "--output", str(tmp_path / "b.png"), "--weights", "none"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert "gone.png does not exist" in error and "Traceback" not in error


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _picture(tmp_path / "a.png")
    reference = str(_picture(tmp_path / "r.png"))
    arguments = ["fix", str(source), "--output", str(tmp_path / "b.png"), "--weights", "none", "--reference", reference]
    monkeypatch.setattr(sys, "argv", ["difix3d", *arguments])
    cli.main()
    assert np.array_equal(_pixels(tmp_path / "b.png"), _pixels(source))
