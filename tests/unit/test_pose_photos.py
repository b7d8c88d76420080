"""From photos and videos to scenes, against exact cameras."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from difix3d_ns.apps.pose_photos import Posed, _bring, _copy, _name, _pictures, pairs_of, pose
from difix3d_ns.data.procedural.dataset import photograph_world
from difix3d_ns.data.procedural.demo_scene import demo_world
from difix3d_ns.errors import UserError
from difix3d_ns.io.images import read_picture, write_picture
from difix3d_ns.io.video_frames import choose_frames, write_frames
from difix3d_ns.ns.capture_reader import read_dataset

pytestmark = pytest.mark.usefixtures("one_thread")


def _photo(path: Path, turned: int = 1) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.slow
def test_photos_get_the_poses_they_were_taken_at(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    views = photograph_world(demo_world(0), rng, width=360, height=240, train_views=10, test_views=0, label=None)
    for index, view in enumerate(views):
        write_picture(tmp_path / "photos" / f"a photo {index:02d}.png", view.image)
    found = pose(tmp_path / "photos", tmp_path / "scene")
    assert len(found.placed) == 10 and not found.missing and found.pieces[0] == 10
    assert found.describe() == "10 of 10 photos are placed."
    meta = json.loads((tmp_path / "scene" / "transforms.json").read_text())
    assert meta["val_filenames"] == ["images/a_photo_00.png", "images/a_photo_08.png"]
    assert len(meta["train_filenames"]) == 8
    posed = {Path(frame["file_path"]).stem: np.array(frame["transform_matrix"]) for frame in meta["frames"]}
    placed = np.stack([posed[f"a_photo_{index:02d}"] for index in range(10)])
    exact = np.stack([view.camera.camera_to_world.numpy() for view in views])
    exact[:, :3, 1:3] *= -1  # OpenGL's axes
    scale, turn, shift = _similarity(placed[:, :3, 3], exact[:, :3, 3])
    apart = np.linalg.norm(scale * placed[:, :3, 3] @ turn.T + shift - exact[:, :3, 3], axis=1)
    spacing = np.linalg.norm(np.diff(exact[:, :3, 3], axis=0), axis=1).mean()
    assert apart.max() < 0.05 * spacing
    traces = np.einsum("nij,nij->n", turn @ placed[:, :3, :3], exact[:, :3, :3])
    turned = np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1)))
    assert turned.max() < 1  # all alike, by what the positions leave open; COLMAP's threads draw in any order
    focal = float(views[0].camera.intrinsics[0, 0])
    assert meta["fl_x"] == pytest.approx(focal, rel=0.02)
    read = read_dataset(tmp_path / "scene", "scene", 320)
    assert len(read.train) == 8 and len(read.test) == 2 and len(read.points) > 300

    with pytest.raises(UserError, match=r"transforms\.json already.*--force"):
        pose(tmp_path / "photos", tmp_path / "scene")
    (tmp_path / "scene" / "transforms.json").unlink()  # killed just before the end: nothing is compared anew
    before = (tmp_path / "scene" / "images" / "a_photo_00.png").stat().st_mtime_ns
    again = pose(tmp_path / "photos", tmp_path / "scene")
    assert again.placed == found.placed
    assert (tmp_path / "scene" / "images" / "a_photo_00.png").stat().st_mtime_ns == before


def _similarity(points: np.ndarray, others: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and shift that bring points onto others (Umeyama, 1991)."""
    means = points.mean(0), others.mean(0)
    left, values, right = np.linalg.svd((others - means[1]).T @ (points - means[0]))
    signs = np.diag([1, 1, np.linalg.det(left @ right)])
    turn = left @ signs @ right
    scale = (values * signs.diagonal()).sum() / ((points - means[0]) ** 2).sum()
    return scale, turn, means[1] - scale * turn @ means[0]


def test_photos_that_show_nothing_in_common_are_refused(tmp_path: Path) -> None:
    noise = torch.rand(4, 120, 160, 3, generator=torch.Generator().manual_seed(0))
    for index, image in enumerate(noise):
        write_picture(tmp_path / "photos" / f"{index}.png", image)
    with pytest.raises(UserError, match="none of the 4 photos could be placed"):
        pose(tmp_path / "photos", tmp_path / "scene")
    assert not (tmp_path / "scene" / "transforms.json").exists()


def test_what_is_wrong_is_said_before_any_work(tmp_path: Path) -> None:
    photo = _photo(tmp_path / "photos" / "a.png")
    for arguments, message in (
        ((tmp_path / "nowhere", tmp_path / "scene"), "nowhere does not exist"),
        ((photo, tmp_path / "scene"), "neither a folder of photos nor a video"),
        ((tmp_path / "photos", tmp_path / "photos"), "holds the photos themselves"),
        ((tmp_path / "photos", tmp_path), "holds the photos themselves"),
        ((tmp_path / "photos", photo), "no folder that can be written"),
        ((tmp_path / "photos", tmp_path / "scene"), "1 photos are too few"),
    ):
        with pytest.raises(UserError, match=message):
            pose(*arguments)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no photos"):
        pose(tmp_path / "empty", tmp_path / "other")
    with pytest.raises(UserError, match="--frames 2"):
        pose(tmp_path / "photos", tmp_path / "other", frames=2)
    kept = _photo(tmp_path / "scene of mine" / "images" / "original.png")
    for force in (False, True):  # photos of somebody else are never taken away
        with pytest.raises(UserError, match="did not write"):
            pose(tmp_path / "photos", tmp_path / "scene of mine", force=force)
    assert kept.is_file()
    _photo(tmp_path / "photos" / "b.png")
    with pytest.raises(UserError, match=r"begun with other photos or masks.*--force"):
        pose(tmp_path / "photos", tmp_path / "scene")


def test_photos_are_copied_as_they_are_or_turned_upright(tmp_path: Path) -> None:
    plain, turned = _photo(tmp_path / "in" / "a.JPG"), _photo(tmp_path / "in" / "b.jpg", turned=6)
    webp, lying = _photo(tmp_path / "in" / "c.webp"), _photo(tmp_path / "in" / "d.png", turned=6)
    for file, name in ((plain, "a.JPG"), (turned, "b.jpg"), (webp, "c.png"), (lying, "d.png")):
        assert _copy(file, name, tmp_path / "out") == name
        same = name == "a.JPG"
        assert ((tmp_path / "out" / name).read_bytes() == file.read_bytes()) == same
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.getexif().get(0x0112, 1) == 1
            assert picture.size == ((6, 9) if file in (turned, lying) else (9, 6))
        change = read_picture(tmp_path / "out" / name).image - read_picture(file).image
        assert float(change.abs().mean()) < 0.02


def test_a_full_disk_is_no_fault_of_a_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        _copy(tmp_path / "a.jpg", "a.jpg", tmp_path)


def test_names_have_no_blanks_and_are_different(tmp_path: Path) -> None:
    taken: list[str] = []
    for file in ("left/my photo.jpg", "left/my_photo.jpg", "right/my photo.heic", "right/my photo.png"):
        taken.append(_name(Path(file), taken))
    assert taken == ["left/my_photo.jpg", "left/my_photo_2.jpg", "right/my_photo.png", "right/my_photo_2.png"]
    for name in ("b/2.png", "a/1.jpg", ".hidden/3.jpg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [file.relative_to(tmp_path).as_posix() for file in _pictures(tmp_path)] == ["a/1.jpg", "b/2.png"]


def test_pairs() -> None:
    names = [str(number) for number in range(100)]
    assert len(set(pairs_of(names, "exhaustive"))) == 100 * 99 // 2
    row = set(pairs_of(names, "sequential"))
    assert len(row) == len(pairs_of(names, "sequential")) < 1400
    assert {("50", "49"), ("50", "40"), ("70", "6"), ("33", "1")} <= row and ("50", "38") not in row
    assert all(int(later) > int(earlier) for later, earlier in row)


def test_what_was_placed_is_told() -> None:
    text = Posed(["a", "b", "c"], {"d.jpg": "weak"}, [3, 2]).describe()
    assert "3 of 4 photos are placed" in text and "too little of what the placed ones show: d.jpg. Take" in text
    assert "of 3, 2 photos" in text


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera that stands, moves slowly, then twice as fast; every other frame is blurred."""
    path = tmp_path_factory.mktemp("video") / "walk.avi"
    rng = np.random.default_rng(0)
    wide = cv2.resize(rng.integers(0, 255, (30, 120, 3), dtype=np.uint8), (1200, 300), interpolation=cv2.INTER_CUBIC)
    places = [0] * 10 + [4 * step for step in range(30)] + [120 + 8 * step for step in range(30)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 240))
    for number, left in enumerate(places):
        frame = wide[20:260, left : left + 320]
        writer.write(cv2.GaussianBlur(frame, (0, 0), 4) if number % 2 else frame)
    writer.release()
    return path


def test_frames_are_sharp_and_evenly_along_the_way(video: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    files = write_frames(video, tmp_path, 12, lambda done, total: seen.append((done, total)))
    assert len(files) == 12 and files[0].name == "frame_00001.jpg" and seen[-1] == (140, 140)
    pictures = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
    sharpness = [cv2.Laplacian(picture, cv2.CV_32F).var() for picture in pictures]
    assert min(sharpness) > 0.5 * max(sharpness)
    strip = pictures[0]
    ways = [0.0]
    for before, after in pairwise(pictures):
        shift, _ = cv2.phaseCorrelate(before.astype(np.float32), after.astype(np.float32))
        ways.append(ways[-1] - shift[0])
    assert strip is not None and 250 < ways[-1] < 360 and np.diff(ways).max() < 2.5 * np.diff(ways).mean()


def test_frames_of_a_camera_that_stands() -> None:
    assert choose_frames(np.array([1.0, 3, 2]), np.zeros(3), 5) == [1]
    assert choose_frames(np.array([1.0, 3, 2, 5]), np.array([0, 0.1, 0.1, 0.1]), 3) == [0, 1, 3]


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read as a video"):
        pose(tmp_path / "a.mp4", tmp_path / "scene")


def test_a_video_is_read_once_more_only_if_it_changed(video: Path, tmp_path: Path) -> None:
    names = _bring(video, tmp_path, 5, Console(quiet=True)).names
    stamp = (tmp_path / "images" / names[0]).stat().st_mtime_ns
    assert len(names) == 5 and _bring(video, tmp_path, 5, Console(quiet=True)).names == names
    (tmp_path / "colmap" / "photos.json").write_text(
        json.dumps(json.loads((tmp_path / "colmap" / "photos.json").read_text()) | {"names": []})
    )  # killed while they were brought
    assert _bring(video, tmp_path, 5, Console(quiet=True)).names == names
    stamp = (tmp_path / "images" / names[0]).stat().st_mtime_ns
    assert _bring(video, tmp_path, 5, Console(quiet=True)).names == names
    assert (tmp_path / "images" / names[0]).stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="other photos"):
        _bring(video, tmp_path, 6, Console(quiet=True))
