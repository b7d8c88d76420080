"""Enlarging picture files from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from difix3d_ns import cli
from difix3d_ns.apps import upscale_images as upscaling
from difix3d_ns.apps.upscale_images import FACTORS, RECORD, enlarge, upscale_pictures
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resampling import resample
from difix3d_ns.io.images import Picture
from difix3d_ns.priors.base import State
from difix3d_ns.priors.bicubic import BicubicUpscaler
from difix3d_ns.priors.registry import load_upscaler
from difix3d_ns.priors.single_photo import upscale_alone


def _picture(path: Path, size: tuple[int, int] = (24, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def _pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def _upscale(inputs: list[Path], output: Path, factor: float = 2, force: bool = False) -> list[Path]:
    return upscale_pictures(inputs, output, factor, "backprojection", device="cpu", force=force)


def _silent(words: str) -> None:
    pass


class InRounds(BicubicUpscaler):
    """Adds a hundredth of white in each round to what it is given as the render."""

    rounds = 3

    def start(
        self,
        lows: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        seeds: Sequence[int],
        renders: Sequence[Tensor] | None = None,
    ) -> State:
        state = super().start(lows, sizes, seeds)
        return {**state, "high": super().result(state)[0], "left": torch.tensor(2), "seed": torch.tensor(seeds[0])}

    def steps_left(self, state: State) -> int:
        return int(state["left"])

    def step(self, state: State) -> State:
        return {**state, "left": state["left"] - 1}

    def result(self, state: State) -> list[Tensor]:
        assert state["left"] == 0
        return [state["high"] + 0.01]

    def advance(self, state: State, renders: Sequence[Tensor]) -> State:
        return {**state, "high": renders[0], "left": torch.tensor(2)}


@pytest.mark.parametrize("factor", FACTORS)
def test_results_have_the_factors_size_and_agree_with_the_picture(tmp_path: Path, factor: float) -> None:
    source = _picture(tmp_path / "a.png")
    assert _upscale([source], tmp_path / "b.png", factor) == [tmp_path / "b.png"]
    result = _pixels(tmp_path / "b.png")
    assert result.shape == (16 * factor, 24 * factor, 3)
    reduced = np.array(Image.fromarray(result).resize((24, 16), Image.Resampling.BICUBIC)).astype(float)
    assert np.sqrt(np.mean((reduced - _pixels(source)) ** 2)) < 1.0


def test_odd_sizes_are_cut_and_not_squashed(tmp_path: Path) -> None:
    source = _picture(tmp_path / "a.png", (25, 17))
    _upscale([source], tmp_path / "odd.png", 1.5)
    Image.open(source).crop((0, 0, 24, 16)).save(tmp_path / "even_source.png")
    _upscale([tmp_path / "even_source.png"], tmp_path / "even.png", 1.5)
    assert np.array_equal(_pixels(tmp_path / "odd.png"), _pixels(tmp_path / "even.png"))
    _upscale([source], tmp_path / "whole.png", 3)
    assert _pixels(tmp_path / "whole.png").shape == (51, 75, 3)
    with pytest.raises(UserError, match=r"thin\.png: a side of one pixel cannot be enlarged by 1\.5; .*--factor"):
        _upscale([_picture(tmp_path / "thin.png", (1, 16))], tmp_path / "b.png", 1.5)


def test_alpha_is_enlarged_and_hidden_colours_stay_hidden(tmp_path: Path) -> None:
    pixels = np.zeros((16, 24, 4), np.uint8)
    pixels[:, :12] = (200, 100, 50, 255)  # the other half is hidden, and black
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    _upscale([tmp_path / "a.png"], tmp_path / "b.png", 2)
    result = np.array(Image.open(tmp_path / "b.png"))
    assert result.shape == (32, 48, 4)
    assert (result[:, :20, 3] == 255).all() and (result[:, 28:, 3] == 0).all()
    assert np.abs(result[..., :3].astype(int) - [200, 100, 50]).max() <= 1


def test_16_bits_grey_and_orientation_are_kept(tmp_path: Path) -> None:
    flat = np.full((16, 24, 3), 30001, np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), flat)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("L", (24, 16), 77).save(tmp_path / "grey.png", exif=exif)
    inputs = [tmp_path / "deep.png", tmp_path / "grey.png"]
    assert len(_upscale(inputs, tmp_path / "out")) == 2
    assert np.array_equal(
        cv2.imread(str(tmp_path / "out" / "deep.png"), cv2.IMREAD_UNCHANGED), flat.repeat(2, 0).repeat(2, 1)
    )
    grey = Image.open(tmp_path / "out" / "grey.png")
    assert grey.mode == "L" and grey.size == (32, 48) and (np.array(grey) == 77).all()


def test_a_folder_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png", "c.jpg"):
        _picture(tmp_path / "in" / name)
    folder, output, write = tmp_path / "in", tmp_path / "out", upscaling.write_picture

    def interrupted(path: Path, picture: Picture) -> None:
        if path.name == "b.png":
            raise KeyboardInterrupt
        write(path, picture)

    monkeypatch.setattr(upscaling, "write_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _upscale([folder], output)
    monkeypatch.setattr(upscaling, "write_picture", write)
    assert {path.name for path in output.iterdir()} == {"a.png", RECORD}
    assert [path.name for path in _upscale([folder], output)] == ["b.png", "c.jpg"]
    assert "1 of 3 are finished already" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"a\.png and 2 more exist already, not made .* with these settings"):
        _upscale([folder], output, 4)
    assert len(_upscale([folder], output, 4, force=True)) == 3


def test_one_bad_picture_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no picture")
    flags = ["--factor", "1.5", "--upscaler", "bicubic", "--device", "cpu"]
    monkeypatch.setattr(
        sys, "argv", ["difix3d", "upscale", str(tmp_path / "in"), "--output", f"{tmp_path}/out", *flags]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1 and "1 of 2 pictures failed: b.png" in capsys.readouterr().err
    assert Image.open(tmp_path / "out" / "a.png").size == (36, 24)


def test_all_rounds_are_gone_through_with_their_own_results() -> None:
    said: list[str] = []
    low = torch.rand(8, 10, 3, generator=torch.Generator().manual_seed(0))
    result = enlarge(Picture(low), InRounds(torch.device("cpu")), 2, 5, said.append)
    plain = resample(low.permute(2, 0, 1)[None], 16, 20).clamp(0, 1)[0].permute(1, 2, 0)
    torch.testing.assert_close(result.image, plain + 0.03)
    assert said == [", round 1/3", ", round 2/3", ", round 3/3"]


def test_the_embedded_upscaler_makes_the_round_that_is_best_alone() -> None:
    said: list[str] = []
    low = torch.rand(24, 32, 3, generator=torch.Generator().manual_seed(0))
    upscaler = load_upscaler()
    result = enlarge(Picture(low), upscaler, 4, 5, said.append)
    torch.testing.assert_close(result.image, upscale_alone(upscaler, low, (96, 128), 5, rounds=1))
    assert said == [] and upscaler.rounds == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"weights": "some"},
            r"cannot be loaded \(--upscaler, --weights\): the upscaler bicubic has no weights",
        ),
        ({"factor": 5}, r"--factor 5: one of 4, 3, 2, 1\.5 is needed"),
        ({"upscaler": "blur"}, r"--upscaler blur: no upscaler has this name; there are backprojection, bicubic"),
        ({"upscaler": "nowhere.blur"}, r"nowhere\.blur.* cannot be loaded \(--upscaler, --weights\): .*PYTHONPATH"),
        ({"device": "cuda:7"}, r"--device cuda:7: not usable here"),
    ],
)
def test_mistakes_name_their_flag(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    source = _picture(tmp_path / "a.png")
    with pytest.raises(UserError, match=message):
        upscale_pictures([source], tmp_path / "b.png", **{"upscaler": "bicubic", **arguments})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        upscale_pictures([tmp_path / "gone.png"], tmp_path / "b.png", upscaler="bicubic")
    assert not (tmp_path / "b.png").exists()


def test_a_result_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"--output: .*b\.png cannot be written"):
        _upscale([_picture(tmp_path / "a.png")], tmp_path / "file" / "deeper" / "b.png")


def test_a_result_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 16 * 2)
    source = _picture(tmp_path / "a.png")
    assert len(_upscale([source], tmp_path / "b.png", 2)) == 1
    with pytest.raises(UserError, match=r"72 x 48 px are more than Pillow would read again; .*--factor"):
        _upscale([source], tmp_path / "c.png", 3)


def test_memory_that_does_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: object) -> Picture:
        raise torch.cuda.OutOfMemoryError("tried to allocate 1 TiB")

    monkeypatch.setattr(upscaling, "enlarge", hungry)
    with pytest.raises(UserError, match=r"a\.png: --device: memory does not suffice for 2 times .*--factor"):
        _upscale([_picture(tmp_path / "a.png")], tmp_path / "b.png")
