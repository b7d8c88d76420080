"""What a fixer is told of pictures and videos: photos matched by features, a scene's cameras, a training's splat."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mediapy
import numpy as np
import pytest
import torch
from torch import Tensor

from difix3d_ns.apps.fix_images import Sources, fix_pictures
from difix3d_ns.apps.fix_video import SteadyChange, fix_video
from difix3d_ns.apps.picture_views import MatchedViews, NothingShared, SceneViews, UnalignedViews, _index_of
from difix3d_ns.data.procedural.sample_pictures import load_picture, picture_names
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resampling import resample
from difix3d_ns.io.images import read_picture, write_picture
from difix3d_ns.io.video_frames import video_rate
from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.ns.photo_dataset import PhotoDataset
from difix3d_ns.priors.alignment.plane_alignment import features_of, request_on_a_plane
from difix3d_ns.priors.base import Fixer, FixRequest, FixResult
from difix3d_ns.priors.blend import BlendFixer
from difix3d_ns.priors.none import IdentityFixer
from tests.unit.tiny_scene import write_scene


@pytest.fixture(scope="module")
def photos(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of pictures of one plane seen from two sides: blurred, and the sharp photo from beside."""
    folder = tmp_path_factory.mktemp("plane")
    whole = torch.from_numpy(load_picture(picture_names("train")[0], "train").copy()).float()[:300, :400] / 255
    view, beside = whole[20:260, 30:350], whole[40:280, 50:370]
    write_picture(folder / "truth" / "a.png", view)
    write_picture(folder / "blurred" / "a.png", _blurred(view))
    write_picture(folder / "sharp" / "b.png", beside)
    write_picture(folder / "other" / "c.png", torch.rand(240, 320, 3, generator=torch.Generator().manual_seed(0)))
    return {place.name: place for place in folder.iterdir()}


def _blurred(picture: Tensor) -> Tensor:
    planes = picture.permute(2, 0, 1)[None]
    height, width = planes.shape[-2:]
    return resample(resample(planes, height // 4, width // 4), height, width)[0].permute(1, 2, 0).clamp(0, 1)


def _psnr(path: Path, truth: Path) -> float:
    return image_metrics(read_picture(path).image, read_picture(truth).image)["psnr"]


def test_a_photo_whose_camera_is_unknown_is_aligned(photos: dict[str, Path]) -> None:
    image = read_picture(photos["blurred"] / "a.png").image
    truth = read_picture(photos["truth"] / "a.png").image
    request = request_on_a_plane(
        image, features_of(image), [features_of(read_picture(photos["sharp"] / "b.png").image)], count=3
    )
    (reference,) = request.references
    assert reference.mask is not None
    shown = reference.mask[..., 0] > 0
    assert shown[20:, 20:].float().mean() > 0.8  # 20 pixels at the left and the top are not in the other photo
    assert (reference.image - truth)[shown].abs().mean() < 0.02
    fixed = BlendFixer().fix([request])[0]
    assert image_metrics(fixed.image, truth)["psnr"] > image_metrics(image, truth)["psnr"] + 2


@pytest.mark.parametrize("weights", ["blend", "embedded"])
def test_pictures_gain_by_photos_alone(photos: dict[str, Path], tmp_path: Path, weights: str) -> None:
    output = tmp_path / "a.png"
    fix_pictures([photos["blurred"] / "a.png"], output, Sources((photos["sharp"],)), weights, "cpu")
    assert _psnr(output, photos["truth"] / "a.png") > _psnr(photos["blurred"] / "a.png", photos["truth"] / "a.png") + 1


def test_what_shows_something_else_is_refused_by_name(photos: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 of 1 pictures failed: a\.png: no reference photo shows the same"):
        fix_pictures([photos["blurred"]], tmp_path / "out", Sources((photos["other"],)), "embedded", "cpu")
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (Sources(), "--weights embedded repairs pictures by what photos show: give photos"),
        (Sources((Path("photos"),), scene=Path("scene")), "give one of --reference, --scene and --config"),
        (Sources(scene=Path("nowhere")), "--scene nowhere does not exist"),
        (Sources(config=Path("nowhere.yml")), "--config nowhere.yml does not exist"),
        (Sources(nearest=2), "give --reference as well"),
        (Sources((Path("photos"),), nearest=0), "--nearest 0: at least 1 is needed"),
    ],
)
def test_nothing_is_begun_without_something_to_go_by(
    photos: dict[str, Path], tmp_path: Path, sources: Sources, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fix_pictures([photos["blurred"]], tmp_path / "out", sources, "embedded", "cpu")
    assert not (tmp_path / "out").exists()


def test_a_photo_of_many_more_pixels_does_not_alias(photos: dict[str, Path]) -> None:
    """A picture that shows 6 x 6 pixels of the photo in one of its own."""
    whole = torch.from_numpy(load_picture(picture_names("train")[0], "train").copy()).float()[:384, :576] / 255
    planes = whole.permute(2, 0, 1)[None]
    truth = resample(planes, 128, 192)[0].permute(1, 2, 0).clamp(0, 1)
    photo = resample(planes, 768, 1152)[0].permute(1, 2, 0).clamp(0, 1)
    image = (truth + 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    request = request_on_a_plane(image, features_of(image), [features_of(photo)], count=1)
    (reference,) = request.references
    assert reference.mask is not None
    shown = reference.mask[..., 0] > 0
    assert shown.float().mean() > 0.7  # but for the border
    assert (reference.image - truth)[shown].abs().mean() < 0.03


@pytest.mark.parametrize(("source", "index"), [("train/rgb/r_1.png", 1), ("out/test/r_1.png", 3), ("r_0.png", 0)])
def test_equal_names_are_told_apart_by_their_folders(source: str, index: int) -> None:
    names = ["train/r_0.png", "train/r_1.png", "test/r_2.png", "test/r_1.png"]
    assert _index_of(Path(source), names, "--scene") == index
    with pytest.raises(UserError, match="several photos are named r_1"):
        _index_of(Path("/elsewhere/r_1.png"), names, "--scene")


def test_which_fixers_need_cameras() -> None:
    assert BlendFixer().aligns
    assert not IdentityFixer().aligns


def test_cameras_of_a_scene_by_the_names_of_its_photos(tiny_scene: Path, tmp_path: Path) -> None:
    truth = sorted((tiny_scene / "images").iterdir())[0]
    source = tmp_path / "renders" / f"{truth.stem}.png"
    write_picture(source, _blurred(read_picture(truth).image))
    views = SceneViews(tiny_scene, 3, "cpu")
    request = views.request(source, read_picture(source).image)
    assert len(request.references) == 3
    for reference in request.references:  # never the photo that the picture is of
        assert reference.image.shape != read_picture(truth).image.shape or not torch.equal(
            reference.image, read_picture(truth).image
        )
    assert request.depth is not None and (request.depth > 0).float().mean() > 0.5
    assert request.camera is not None and (request.camera.width, request.camera.height) == (128, 96)
    with pytest.raises(UserError, match="--scene: no photo is named stranger"):
        views.request(tmp_path / "stranger.png", read_picture(source).image)
    with pytest.raises(UserError, match="same field of view"):
        views.request(source, torch.zeros(96, 96, 3))
    output = tmp_path / "fixed.png"
    fix_pictures([source], output, Sources(scene=tiny_scene), "embedded", "cpu")
    assert _psnr(output, truth) > _psnr(source, truth)


def test_of_a_scene_only_the_photos_shown_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_scene(tmp_path / "scene", count=20, size=(128, 96), masks=True)
    read: list[str] = []
    original = PhotoDataset.get_data

    def counted(self: PhotoDataset, index: int, *args: Any, **kwargs: Any) -> Any:
        read.append(self.image_filenames[index].stem)
        return original(self, index, *args, **kwargs)

    monkeypatch.setattr(PhotoDataset, "get_data", counted)
    views = SceneViews(scene, 2, "cpu")
    assert not read
    for _ in range(2):
        request = views.request(Path("frame_004.png"), torch.zeros(96, 128, 3))
    assert len(request.references) == 2 and request.references[0].mask is not None
    assert sorted(read) == [f"frame_{number:03d}" for number in (1, 2, 3, 5, 6, 7)]


needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is missing: apt-get install ffmpeg")


def test_photos_are_kept_as_far_as_memory_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write_picture(tmp_path / f"{name}.png", torch.rand(30, 40, 3))
    monkeypatch.setattr("difix3d_ns.apps.picture_views._REMEMBERED", 2 * 30 * 40 * 3)
    photos = sorted(tmp_path.iterdir())
    views = UnalignedViews(lambda source: photos, "cpu")
    for _ in range(2):
        request = views.request(photos[0], torch.zeros(30, 40, 3))
        for photo, reference in zip(photos, request.references, strict=True):
            assert torch.equal(reference.image, read_picture(photo).image)
    assert views._photos.nbytes == 2 * 30 * 40 * 3
    matched = MatchedViews(lambda source: photos, 1)
    with pytest.raises(NothingShared):
        matched.request(photos[0], torch.zeros(30, 40, 3))
    assert len(matched._found) == 1


class FailingFixer(Fixer):
    """One that repairs nothing, and has no memory for the calls of these numbers."""

    generative, trained_references = False, 1

    def __init__(self, *calls: int) -> None:
        self.failing, self.calls = calls, 0

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        self.calls += 1
        if self.calls in self.failing:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return IdentityFixer().fix(requests)


@needs_ffmpeg
def test_a_frame_that_cannot_be_repaired_stays_as_it_is(
    photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mediapy.write_video(tmp_path / "in.mp4", np.zeros((4, 48, 64, 3), np.uint8), fps=12)
    for output, fixer in (("a.mp4", FailingFixer(2, 4)), ("b.mp4", FailingFixer(1))):
        monkeypatch.setattr("difix3d_ns.apps.fix_video.load_named_fixer", lambda *_, fixer=fixer: fixer)
        if output == "b.mp4":
            with pytest.raises(
                UserError, match=r"frame 1 of .*in\.mp4 cannot be repaired \(CUDA out of memory\.\): make"
            ):
                fix_video([tmp_path / "in.mp4"], tmp_path / output, Sources((photos["sharp"],)), "none", "cpu")
        else:
            fix_video([tmp_path / "in.mp4"], tmp_path / output, Sources((photos["sharp"],)), "none", "cpu")
    assert "2 frames could not be repaired" in capsys.readouterr().err
    assert len(mediapy.read_video(tmp_path / "a.mp4")) == 4 and video_rate(tmp_path / "a.mp4") == 12
    assert not (tmp_path / "b.mp4").exists()


@needs_ffmpeg
def test_a_video_is_repaired_and_keeps_its_frames(photos: dict[str, Path], tmp_path: Path) -> None:
    whole = torch.from_numpy(load_picture(picture_names("train")[0], "train").copy()).float()[:300, :400] / 255
    truth = [whole[20 + step : 260 + step, 30:350] for step in range(4)]
    mediapy.write_video(tmp_path / "in.mp4", [_blurred(frame).numpy() for frame in truth], fps=10, crf=10)
    output = fix_video([tmp_path / "in.mp4"], tmp_path / "out.mp4", Sources((photos["sharp"],)), "blend", "cpu")
    before, after = (
        torch.from_numpy(np.array(mediapy.read_video(path))) / 255 for path in (tmp_path / "in.mp4", output)
    )
    assert after.shape == before.shape == (4, 240, 320, 3)
    for picture, frame, real in zip(after, before, truth, strict=True):
        assert image_metrics(picture, real)["psnr"] > image_metrics(frame, real)["psnr"] + 1
    with pytest.raises(UserError, match=r"out\.mp4 exists already"):
        fix_video([tmp_path / "in.mp4"], output, Sources((photos["sharp"],)), "blend", "cpu")
    with pytest.raises(UserError, match="no cameras in --scene or --config"):
        fix_video([tmp_path / "in.mp4"], tmp_path / "b.mp4", Sources(scene=tmp_path), "blend", "cpu")
    with pytest.raises(UserError, match=r"written as \.mp4"):
        fix_video([tmp_path / "in.mp4"], tmp_path / "b.gif", Sources((photos["sharp"],)), "blend", "cpu")


def test_a_change_that_flickers_is_steadied_and_a_cut_begins_again() -> None:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 12, 16, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, (96, 128), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1)
    frame = (picture * 255).byte().numpy()
    steady = SteadyChange()
    up, down = torch.full((96, 128, 3), 0.1), torch.full((96, 128, 3), -0.1)
    torch.testing.assert_close(steady.follow(frame, up), up)
    assert steady.follow(frame, down).mean().abs() < 0.02  # half of each
    other = (torch.rand(96, 128, 3, generator=generator) * 255).byte().numpy()
    torch.testing.assert_close(steady.follow(other, down), down)
