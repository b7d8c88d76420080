"""Repairing picture files from the command line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from difix3d_ns import cli
from difix3d_ns.apps import fix_images as fixing
from difix3d_ns.apps.fix_images import RECORD, Sources, fix_pictures
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.io.images import READABLE, WRITABLE, read_picture
from difix3d_ns.priors.base import Fixer, FixRequest, FixResult
from difix3d_ns.priors.none import IdentityFixer
from difix3d_ns.priors.registry import fixer_of, load_fixer
from tests.unit.official_difix import Official


def _picture(path: Path, size: tuple[int, int] = (24, 16), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)
    return path


def _pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def _fix(inputs: list[Path], output: Path, references: tuple[Path, ...] = ()) -> list[Path]:
    return fix_pictures(inputs, output, Sources(references), "none", "cpu")


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
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*sizes, RECORD}


def test_several_files(tmp_path: Path) -> None:
    inputs = [_picture(tmp_path / name) for name in ("a.png", "b.png")]
    assert _fix(inputs, tmp_path / "out") == [tmp_path / "out" / "a.png", tmp_path / "out" / "b.png"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_kinds_of_pictures(tmp_path: Path, mode: str, suffix: str) -> None:
    """Grey stays grey and alpha stays where the format has them."""
    source = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 4), dtype=np.uint8)
    picture = Image.fromarray(noise, "RGBA")
    picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    picture.save(source)
    _fix([source], tmp_path / f"b{suffix}")
    result = Image.open(tmp_path / f"b{suffix}")
    alpha, grey = mode in ("RGBA", "LA") and suffix != ".jpg", mode in ("L", "LA", "1", "I;16")
    expected = {(True, True): "LA", (True, False): "RGBA", (False, True): "L", (False, False): "RGB"}[alpha, grey]
    if mode == "I;16" and suffix in (".png", ".tif"):
        expected = "I;16"
        assert np.array_equal(np.array(result), np.array(picture))
    if suffix == ".webp":  # knows no grey
        expected = expected.replace("LA", "RGBA").replace("L", "RGB") if grey else expected
    assert result.mode == expected
    if suffix == ".png" and mode in ("RGB", "RGBA", "L", "LA"):
        assert np.array_equal(np.array(result), np.array(picture))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_kept(tmp_path: Path, channels: int, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (16, 24, channels), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels)
    _fix([tmp_path / f"a{suffix}"], tmp_path / f"b{suffix}")
    assert np.array_equal(cv2.imread(str(tmp_path / f"b{suffix}"), cv2.IMREAD_UNCHANGED), pixels)
    _fix([tmp_path / f"a{suffix}"], tmp_path / "b.bmp")
    assert np.allclose(_pixels(tmp_path / "b.bmp"), pixels[..., 2::-1] / 257 * _over_black(pixels), atol=1)


def _over_black(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 3:] / 65535 if pixels.shape[2] == 4 else np.ones(1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_exif_orientation(tmp_path: Path, orientation: int, deep: bool) -> None:
    source = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a maker"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(source, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(source))
    if deep:  # the same with 16 bits per channel
        chunk = source.read_bytes()
        chunk = chunk[chunk.index(b"eXIf") - 4 :]
        chunk = chunk[: 12 + int.from_bytes(chunk[:4], "big")]
        cv2.imwrite(str(source), pixels[..., ::-1].astype(np.uint16) * 257)
        content = source.read_bytes()
        source.write_bytes(content[:33] + chunk + content[33:])  # after the header
    _fix([source], tmp_path / "b.bmp")
    assert np.array_equal(_pixels(tmp_path / "b.bmp"), np.array(expected))
    _fix([source], tmp_path / "b.png")
    result = Image.open(tmp_path / "b.png")
    assert result.size == expected.size and 0x0112 not in result.getexif()
    assert deep or result.getexif()[0x010F] == "a maker"


def test_colour_profile_is_kept(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png", icc_profile=profile)
    _fix([tmp_path / "a.png"], tmp_path / "b.jpg")
    assert Image.open(tmp_path / "b.jpg").info["icc_profile"] == profile


def test_pixels_that_are_no_numbers(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), np.float32)
    pixels[2, 3] = np.nan
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif has pixels that are no numbers"):
        _fix([tmp_path / "a.tif"], tmp_path / "b.png")


def test_formats_that_cannot_be_written_become_png(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.fit").write_bytes(b"")  # astronomers' pictures: read only
    assert ".fit" in READABLE - WRITABLE
    with pytest.raises(UserError, match=r"a\.fit cannot be read as a picture"):
        _fix([tmp_path / "in"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        _fix([tmp_path / "gone.png"], tmp_path / "b.png")


def test_missing_reference(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        _fix([_picture(tmp_path / "a.png")], tmp_path / "b.png", (tmp_path / "gone.png",))
    assert not (tmp_path / "b.png").exists()


def test_not_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"a\.png cannot be read as a picture"):
        _fix([tmp_path / "a.png"], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_half_a_picture(tmp_path: Path) -> None:
    path = _picture(tmp_path / "a.png", (200, 200))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"a\.png cannot be read as a picture"):
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


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    source, target = _picture(tmp_path / "a.png"), _picture(tmp_path / "there.png", (5, 5))
    before = target.read_bytes()
    with pytest.raises(UserError, match=r"there\.png exists already; --force overwrites"):
        _fix([source], target)
    (tmp_path / "out").mkdir()
    shutil.copy(target, tmp_path / "out" / "a.png")
    with pytest.raises(UserError, match=r"a\.png exists already, not made from these pictures with these settings"):
        _fix([_folder(tmp_path, "a.png", "b.png")], tmp_path / "out")
    assert target.read_bytes() == (tmp_path / "out" / "a.png").read_bytes() == before
    assert not (tmp_path / "out" / "b.png").exists()
    fix_pictures([source], target, Sources(), "none", "cpu", force=True)
    assert np.array_equal(_pixels(target), _pixels(source))


def _folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        _picture(tmp_path / "in" / name, (20 + len(name), 16))
    return tmp_path / "in"


def test_a_folder_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = _folder(tmp_path, "a.png", "b.png", "c.png"), tmp_path / "out"
    write = fixing.write_picture

    def interrupted(path: Path, picture: object) -> None:
        if path.name == "b.png":
            raise KeyboardInterrupt
        write(path, picture)

    monkeypatch.setattr(fixing, "write_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _fix([folder], output)
    monkeypatch.setattr(fixing, "write_picture", write)
    assert {path.name for path in output.iterdir()} == {"a.png", RECORD}
    assert [path.name for path in _fix([folder], output)] == ["b.png", "c.png"]
    assert "1 of 3 are finished already" in capsys.readouterr().err
    assert _fix([folder], output) == []
    _picture(folder / "c.png", (30, 30))  # a new render: not the picture that was fixed
    with pytest.raises(UserError, match=r"c\.png exists already"):
        _fix([folder], output)
    assert len(fix_pictures([folder], output, Sources(), "none", "cpu", force=True)) == 3
    (output / "b.png").unlink()
    assert [path.name for path in _fix([folder], output)] == ["b.png"]


def test_other_settings_do_not_mix(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "a.png", "b.png")
    _fix([folder], tmp_path / "out")
    with pytest.raises(UserError, match=r"a\.png and 1 more exist already"):
        _fix([folder], tmp_path / "out", (_picture(tmp_path / "r.png"),))


def test_one_bad_picture_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _folder(tmp_path, "a.png", "b.png", "c.png")
    (folder / "b.png").write_text("no picture")
    arguments = ["difix3d", "fix", str(folder), "--output", str(tmp_path / "out"), "--weights", "none"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "1 of 3 pictures failed: b.png" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "c.png", RECORD}
    _picture(folder / "b.png")
    assert [path.name for path in _fix([folder], tmp_path / "out")] == ["b.png"]


def test_a_fixer_that_fails_on_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(Fixer):
        def fix(self, requests: list[FixRequest]) -> list[FixResult]:
            if any(request.image.shape[1] == 99 for request in requests):
                raise RuntimeError("does not fit into the device's memory")
            return IdentityFixer().fix(requests)

    monkeypatch.setattr(fixing, "load_fixer", lambda *a: Picky())
    folder = _folder(tmp_path, "a.png", "c.png")
    _picture(folder / "b.png", (99, 16))
    with pytest.raises(UserError, match=r"1 of 3 pictures failed: b\.png: does not fit into the device's memory"):
        _fix([folder], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "c.png", RECORD}


def test_references_given_and_nearest_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[int]] = {}

    class Spy(Fixer):
        def fix(self, requests: list[FixRequest]) -> list[FixResult]:
            for request in requests:
                seen[request.image.shape[1]] = [reference.image.shape[1] for reference in request.references]
            return IdentityFixer().fix(requests)

    monkeypatch.setattr(fixing, "load_fixer", lambda *a: Spy())
    for number in (0, 7, 20):
        _picture(tmp_path / "photos" / f"frame_{number:05d}.jpg", (100 + number, 16))
    for number in (1, 13, 14, 20):
        _picture(tmp_path / "renders" / f"render_{number}.png", (10 + number, 16))
    always = _picture(tmp_path / "always.png", (300, 16))
    _fix([tmp_path / "renders"], tmp_path / "one", (tmp_path / "photos",))
    assert seen == {11: [100], 23: [107], 24: [120], 30: [120]}
    fix_pictures(
        [tmp_path / "renders"], tmp_path / "two", Sources((always, tmp_path / "photos"), nearest=2), "none", "cpu"
    )
    assert seen == {11: [300, 100, 107], 23: [300, 107, 120], 24: [300, 120, 107], 30: [300, 120, 107]}
    _fix([tmp_path / "photos"], tmp_path / "three", (tmp_path / "photos",))  # never the picture itself
    assert seen[100] == [107] and seen[107] == [100] and seen[120] == [107]
    assert fixing._choose(tmp_path / "door.png", [_letters(tmp_path)], 1)[0].name == "doors.png"


def _letters(tmp_path: Path) -> Path:
    for name in ("castle.png", "doors.png", "fox.png"):
        _picture(tmp_path / "letters" / name)
    _picture(tmp_path / "door.png")
    return tmp_path / "letters"


def test_unusable_device(tmp_path: Path) -> None:
    for device in ("warp", *(() if torch.cuda.is_available() else ("cuda",))):
        with pytest.raises(UserError, match=f"--device {device}: not usable here"):
            fix_pictures([_picture(tmp_path / "a.png")], tmp_path / "b.png", Sources(), "none", device)


def test_weights_by_one_word(tmp_path: Path) -> None:
    for folder in ("difix/unet", "chain", "nothing"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "chain" / "weights.safetensors").touch()
    assert fixer_of("embedded") == ("embedded", None)
    assert fixer_of("nvidia/difix_ref") == ("difix", "nvidia/difix_ref")
    assert fixer_of(str(tmp_path / "difix"))[0] == "difix"
    assert fixer_of(str(tmp_path / "chain"))[0] == "embedded"
    source = _picture(tmp_path / "a.png")
    for weights, message in (
        (tmp_path / "nothing", "nothing holds no weights: neither unet/"),
        (tmp_path / "difix", r"config\.json is missing"),
        (tmp_path / "model_1.pkl", "no such folder"),
    ):
        with pytest.raises(UserError, match=f"--weights .*{message}"):
            fix_pictures([source], tmp_path / "b.png", Sources(), str(weights), "cpu")
    with pytest.raises(UserError, match="has no option compile"):
        fix_pictures([source], tmp_path / "b.png", Sources(), "embedded", "cpu", compile=True)


def test_published_weights_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Official().write(tmp_path / "difix_ref")
    folder = _folder(tmp_path, "a.png", "bb.png")
    reference = str(_picture(tmp_path / "r.png", (40, 30)))
    arguments = [str(folder), "--output", str(tmp_path / "out"), "--weights", str(weights), "--reference", reference]
    monkeypatch.setattr(sys, "argv", ["difix3d", "fix", *arguments, "--dtype", "float32"])
    cli.main()
    shown = [PosedImage(read_picture(reference).image)]
    fixer = load_fixer("difix", str(weights), dtype=torch.float32)
    for name in ("a.png", "bb.png"):
        source = read_picture(folder / name).image
        expected = fixer.fix([FixRequest(source, shown)])[0].image
        result = read_picture(tmp_path / "out" / name).image
        torch.testing.assert_close(result, expected, atol=0.51 / 255, rtol=0)
        assert (result - source).abs().max() > 0.05


@pytest.mark.parametrize("with_reference", [True, False])
def test_the_command_says_what_becomes_of_references(
    tmp_path: Path, with_reference: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(Official().write(tmp_path / "weights", with_reference))
    source = _picture(tmp_path / "a.png")
    photos = tuple(_picture(tmp_path / "photos" / name) for name in ("b.png", "bc.png"))
    alone, one, two = (
        (
            fix_pictures([source], tmp_path / f"{n}.png", Sources(photos[:n]), weights, "cpu", torch.float32),
            capsys.readouterr(),
        )
        for n in range(3)
    )
    assert np.array_equal(_pixels(*alone[0]), _pixels(*two[0])) is not with_reference
    sentences = [" ".join(printed.err.split()) for _, printed in (one, two)]
    if with_reference:
        assert "reference photo" not in sentences[0]
        assert "trained with 1 reference photo beside each picture and is shown 2" in sentences[1]
    else:
        assert all("trained without reference photos: they are ignored" in said for said in sentences)


def test_unreadable_weights(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    for name in ("w.safetensors", "gone.safetensors"):
        with pytest.raises(UserError, match=f"--weights .*{name}"):
            fix_pictures([_picture(tmp_path / "a.png")], tmp_path / "b.png", Sources(), str(tmp_path / name), "cpu")


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
