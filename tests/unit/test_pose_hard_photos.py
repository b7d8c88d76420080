"""Posing of photos with masks and GPS positions, some of which cannot be placed, and of a real video."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import mediapy
import numpy as np
import pycolmap
import pytest
from PIL import ExifTags, Image
from rich.console import Console

from difix3d_ns.apps.photo_gps import align, read_position
from difix3d_ns.apps.photo_masks import bring_mask, check_masks, find_masks
from difix3d_ns.apps.pose_photos import Posed, _bring, pose
from difix3d_ns.data.procedural.sample_pictures import PICTURES, load_picture
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.io.images import read_mask
from difix3d_ns.ns.capture_reader import read_dataset
from tests.unit.picture_room import cameras_around, photos_of

pytestmark = pytest.mark.usefixtures("one_thread")

HOME = (47.3769, 8.5417, 408.0)
STICKER = (80, 60)  # pixels of what is the same in all photos, at the lower left
SIZE = (300, 200)


def _rational(degrees: float) -> tuple[float, float, float]:
    whole = int(abs(degrees))
    minutes = (abs(degrees) - whole) * 60
    return float(whole), float(int(minutes)), (minutes - int(minutes)) * 60


def _write(path: Path, pixels: np.ndarray, position: Sequence[float] | None = None, turned: int = 1) -> Path:
    """A JPEG with its GPS position in EXIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turned
    if position is not None:
        gps = ExifTags.GPS
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(
            {
                gps.GPSLatitudeRef: "N" if position[0] >= 0 else "S",
                gps.GPSLatitude: _rational(position[0]),
                gps.GPSLongitudeRef: "E" if position[1] >= 0 else "W",
                gps.GPSLongitude: _rational(position[1]),
                gps.GPSAltitudeRef: b"\x00" if position[2] >= 0 else b"\x01",
                gps.GPSAltitude: abs(position[2]),
            }
        )
    Image.fromarray(pixels).save(path, exif=exif, quality=95, subsampling=0)
    return path


def _positions(places: np.ndarray) -> np.ndarray:
    """Latitude, longitude, altitude [N, 3] of places [N, 3] in metres."""
    return pycolmap.GPSTransform().enu_to_ellipsoid(places, *HOME)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Pinhole]]:
    """Ten photos of a room, each with the same sticker and a mask on it, two of another room, one of something else
    with a small part of the room in it, a black one."""
    folder = tmp_path_factory.mktemp("capture")
    cameras = cameras_around(10, SIZE)
    rng = np.random.default_rng(1)
    sticker = rng.integers(0, 255, (STICKER[1] // 4, STICKER[0] // 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    places = np.stack([camera.position.numpy() for camera in cameras])
    positions = _positions(places + rng.normal(0, 0.01, places.shape))
    for index, (pixels, position) in enumerate(zip(photos_of(cameras), positions, strict=True)):
        pixels[-STICKER[1] :, : STICKER[0]] = sticker
        _write(folder / "photos" / f"room {index:02d}.jpg", pixels, position)
        mask = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
        mask[-STICKER[1] :, : STICKER[0]] = 0
        if index:  # one photo has none
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / "masks" / f"room {index:02d}.png")
    for index, pixels in enumerate(photos_of(cameras[:2], room=1)):
        _write(folder / "photos" / f"elsewhere {index}.jpg", pixels)
    far = cv2.resize(np.ascontiguousarray(load_picture("hubble", PICTURES["hubble"][2])), SIZE)
    far[76:124, 126:174] = photos_of(cameras[5:6])[0][
        76:124, 126:174
    ]  # enough to be recognised, too little to be placed
    _write(folder / "photos" / "far away.jpg", far)
    _write(folder / "photos" / "lens cap.jpg", np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    return folder, cameras


@pytest.fixture(scope="module")
def posed(capture: tuple[Path, list[Pinhole]]) -> tuple[Path, Posed]:
    folder, _ = capture
    return folder / "scene", pose(folder / "photos", folder / "scene", masks=folder / "masks")


def _frames(scene: Path) -> dict[str, dict[str, Any]]:
    meta = json.loads((scene / "transforms.json").read_text())
    return {Path(frame["file_path"]).stem: frame for frame in meta["frames"]}


def test_photos_that_cannot_be_placed_are_named_with_what_to_do(posed: tuple[Path, Posed]) -> None:
    scene, found = posed
    assert found.placed == [f"room_{index:02d}.jpg" for index in range(10)]
    assert found.missing == {
        "elsewhere_0.jpg": "apart",
        "elsewhere_1.jpg": "apart",
        "far_away.jpg": "weak",
        "lens_cap.jpg": "featureless",
    }
    lines = found.describe().splitlines()
    assert lines[0] == "10 of 14 photos are placed."
    assert "too dark, blurred or plain" in lines[1] and ": lens_cap.jpg. Take them again, in more light" in lines[1]
    assert (
        "show nothing that" in lines[2] and ": elsewhere_0.jpg, elsewhere_1.jpg. Take photos from places in" in lines[2]
    )
    assert "too little of what" in lines[3] and ": far_away.jpg. Take photos from places between them and" in lines[3]
    assert sorted(_frames(scene)) == [f"room_{index:02d}" for index in range(10)]


def test_what_is_masked_is_neither_matched_nor_trained_on(posed: tuple[Path, Posed]) -> None:
    scene, found = posed
    with pycolmap.Database.open(scene / "colmap" / "database.db") as database:
        for image in database.read_all_images():
            inside = [
                corner
                for corner in database.read_keypoints(image.image_id)
                if corner[0] < STICKER[0] - 1 and corner[1] > SIZE[1] - STICKER[1] + 1
            ]
            assert image.name[:4] != "room" or bool(inside) == (image.name == "room_00.jpg"), image.name
    frames = _frames(scene)
    assert (
        frames["room_03"]["mask_path"] == "colmap/masks/room_03.jpg.png"
        and read_mask(scene / frames["room_00"]["mask_path"]).all()
    )
    read = read_dataset(scene, "scene", SIZE[0])
    assert read.masks is not None and read.files is not None
    mask = read.masks[[file.stem for file in read.files].index("room_03")]
    assert mask[-50:, 5:60].max() == 0 and mask[: SIZE[1] // 2].mean() > 0.9
    assert found.masked == 9 and "9 of 14 photos have a mask" in found.describe()


def test_gps_positions_give_metres_and_up(capture: tuple[Path, list[Pinhole]], posed: tuple[Path, Posed]) -> None:
    scene, found = posed
    exact = {f"room_{index:02d}": camera.camera_to_world.double() for index, camera in enumerate(capture[1])}
    poses = {name: np.array(frame["transform_matrix"]) for name, frame in _frames(scene).items()}
    meta = json.loads((scene / "transforms.json").read_text())
    here = [meta["gps_origin"][name] for name in ("latitude", "longitude", "altitude")]
    origin = pycolmap.GPSTransform().ellipsoid_to_enu(np.array([here]), *HOME)[0]
    for name, pose_ in poses.items():  # in metres about the origin, north and up as they are: nothing is fitted here
        assert np.linalg.norm(pose_[:3, 3] + origin - exact[name][:3, 3].numpy()) < 0.05
        turned = exact[name][:3, :3].numpy() @ np.diag([1, -1, -1])
        assert math.degrees(math.acos(min(1, (np.trace(pose_[:3, :3].T @ turned) - 1) / 2))) < 1.5
    assert "Metres and up are by the GPS positions of 10 photos; they deviate by 0.0" in found.gps
    read = read_dataset(scene, "scene", SIZE[0])
    assert read.to_original is not None
    up = read.to_original[:3, 2] / np.linalg.norm(read.to_original[:3, 2])
    assert up[2] > 0.9999  # training has the same up
    points = read.points.double().numpy() @ read.to_original[:3, :3].T + read.to_original[:3, 3] + origin
    low, high = np.percentile(points[:, 2], [2, 98])
    assert -0.1 < low < 0.2 and 2.0 < high < 2.9  # from the floor to the top of the wall


def test_gps_positions_can_be_left_out(posed: tuple[Path, Posed], tmp_path: Path) -> None:
    scene, _ = posed
    shutil.copytree(scene, tmp_path / "scene")
    (tmp_path / "scene" / "transforms.json").unlink()
    photos, masks = scene.parent / "photos", scene.parent / "masks"
    found = pose(photos, tmp_path / "scene", masks=masks, gps="no")
    meta = json.loads((tmp_path / "scene" / "transforms.json").read_text())
    assert not found.gps and "gps_origin" not in meta and "orientation_override" not in meta


def _centres(places: np.ndarray) -> dict[str, np.ndarray]:
    """Places in other coordinates: turned, shrunk and moved."""
    turn = pycolmap.Rotation3d(np.array([0.3, -0.5, 0.1])).matrix()
    return {str(index): place for index, place in enumerate(0.13 * places @ turn.T + 5)}


def test_gps_positions_that_do_not_suffice_are_not_used() -> None:
    rng = np.random.default_rng(0)
    places = rng.normal(0, 10, (12, 3)) * (1, 0.6, 0.1)
    line = np.linspace(0, 30, 12)[:, None] * (1, 0.2, 0) + rng.normal(0, 1e-3, (12, 3))
    for exact, noise, used, message in (
        (places, 0.2, 12, "by the GPS positions of 12 photos; they deviate by"),
        (places[:2], 0.0, None, "of 2 placed photos alone; at least 3"),
        (line, 0.0, None, "in one line"),
        (0.1 * places, 5.0, None, "too inexact: those of 12 photos disagree"),
    ):
        given = dict(enumerate(_positions(exact + rng.normal(0, noise, exact.shape))))
        found = align(pycolmap, _centres(exact), {str(key): value for key, value in given.items()})
        assert found is not None and message in found.message and (found.transform is not None) == bool(used)
    given = _positions(places)
    given[3] += (0.01, 0, 0)  # a kilometre off
    found = align(pycolmap, _centres(places), {str(key): value for key, value in enumerate(given)})
    assert found is not None and found.transform.scale == pytest.approx(1 / 0.13, rel=1e-3)
    assert "of 11 photos, without 1 that disagree" in found.message
    assert align(pycolmap, _centres(places), {}) is None


def test_positions_in_exif(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    for position in ((47.5, 8.25, 400.0), (-33.9, -151.2, -3.5)):
        found = read_position(_write(tmp_path / "a.jpg", pixels, position))
        assert found == pytest.approx(position, abs=1e-8)
    assert read_position(_write(tmp_path / "b.jpg", pixels)) is None
    assert read_position(_write(tmp_path / "c.jpg", pixels, (0.0, 0.0, 0.0))) is None  # no fix
    Image.fromarray(pixels).save(tmp_path / "d.png")
    assert read_position(tmp_path / "d.png") is None


def test_masks_are_found_by_name_and_turned_with_their_photos(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    stored = np.full((20, 30), 255, np.uint8)
    stored[:, :10] = 0
    photo = _write(tmp_path / "photos" / "left" / "a.jpg", pixels, turned=6)  # by 90 degrees to the right
    other = _write(tmp_path / "photos" / "b.jpg", pixels)
    for name, mask in (("left/a.jpg.png", stored), ("b.png", np.rot90(stored, -1))):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(mask)).save(tmp_path / "masks" / name)
    found = find_masks(tmp_path / "masks", tmp_path / "photos", [photo, other])
    assert {file.name: mask.name for file, mask in found.items()} == {"a.jpg": "a.jpg.png", "b.jpg": "b.png"}
    bring_mask(found[photo], photo, tmp_path / "out.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.rot90(stored, -1))
    with pytest.raises(UserError, match=r"b\.png has 20 x 30 pixels, its photo 30 x 20"):
        bring_mask(found[other], other, tmp_path / "out.png")
    for name, message in (("c.png", r"c\.png: no photo is named so"), ("b.jpg.png", r"b\.png and .* are of one photo")):
        Image.fromarray(stored).save(tmp_path / "masks" / name)
        with pytest.raises(UserError, match=message):
            find_masks(tmp_path / "masks", tmp_path / "photos", [photo, other])
        (tmp_path / "masks" / name).unlink()
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none has no pictures"):
        find_masks(tmp_path / "none", tmp_path / "photos", [photo])
    with pytest.raises(UserError, match="--masks nowhere does not exist: give one picture"):
        pose(tmp_path / "photos", tmp_path / "scene", masks=Path("nowhere"))
    own = tmp_path / "scene" / "colmap" / "masks"
    shutil.copytree(tmp_path / "masks", own)
    with pytest.raises(UserError, match="part of the scene that this command writes: copy it elsewhere"):
        pose(tmp_path / "photos", tmp_path / "scene", masks=own, force=True)
    assert (own / "b.png").is_file()  # nothing is lost


def test_one_mask_serves_all_photos(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    stored = np.full((40, 60), 255, np.uint8)  # of another size, but of the photos' shape
    stored[30:, :] = 0
    _write(tmp_path / "photos" / "a.jpg", pixels)
    _write(tmp_path / "photos" / "on its side.jpg", pixels, turned=6)
    mask = tmp_path / "photos" / "rig.png"  # not a photo, though among them
    Image.fromarray(stored).save(mask)
    console = Console(quiet=True)
    brought = _bring(tmp_path / "photos", tmp_path / "scene", 0, console, mask)
    assert brought.names == ["a.jpg", "on_its_side.jpg"] and brought.masked == 2
    for name, expected in (("a", stored[::2, ::2]), ("on_its_side", np.rot90(stored[::2, ::2], -1))):
        written = np.asarray(Image.open(tmp_path / "scene" / "colmap" / "masks" / f"{name}.jpg.png"))
        assert np.array_equal(written, expected), name
    assert _bring(tmp_path / "photos", tmp_path / "scene", 0, console, mask).masked == 2  # started again
    _write(tmp_path / "photos" / "cut.jpg", pixels[:, :24])
    with pytest.raises(UserError, match=r"rig\.png has 60 x 40 pixels, photo .*cut\.jpg 24 x 20: .*folder with a mask"):
        _bring(tmp_path / "photos", tmp_path / "other", 0, console, mask)
    Image.fromarray(np.zeros_like(stored)).save(mask)
    with pytest.raises(UserError, match=r"rig\.png is black all over"):
        pose(tmp_path / "photos", tmp_path / "third", masks=mask)


def _video(path: Path, frames: np.ndarray) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, frames.shape[2:0:-1])
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def test_masks_that_no_frame_of_a_video_can_have(tmp_path: Path) -> None:
    video = _video(tmp_path / "a.avi", np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), dtype=np.uint8))
    short = _video(tmp_path / "short.avi", np.full((5, 48, 64, 3), 255, np.uint8))
    (tmp_path / "masks").mkdir()
    (tmp_path / "none").mkdir()
    Image.new("L", (48, 48), 255).save(tmp_path / "square.png")
    Image.new("L", (64, 48), 255).save(tmp_path / "masks" / "1.png")
    scene = tmp_path / "scene"
    for photos, masks, message in (
        (video, tmp_path / "masks", r"masks has 1 masks, .*a\.avi 6 frames: give one for each frame, in their order"),
        (video, tmp_path / "none", r"none has no pictures: give one for each frame of .*a\.avi, or one for all"),
        (video, short, r"short\.avi has 5 masks, .*a\.avi 6 frames: give one for each frame"),
        (tmp_path, video, r"a\.avi is a video: give one picture.* or a folder with a mask named as its photo"),
        (video, tmp_path / "square.png", r"square\.png has 48 x 48 pixels, the frames of .*a\.avi 64 x 48: draw it"),
    ):
        with pytest.raises(UserError, match=message):
            pose(photos, scene, masks=masks)
    assert not scene.exists()


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_masks_of_a_video_frame_by_frame(tmp_path: Path, kind: str) -> None:
    """What moves through the picture is masked where it is in that very frame."""
    count, width = 12, 96
    room = cv2.resize(np.random.default_rng(2).integers(0, 255, (12, 60, 3), dtype=np.uint8), (480, 64))
    frames = np.stack([room[:, 8 * number : 8 * number + width] for number in range(count)])  # the camera moves
    masks = np.full((count, 64, width), 255, np.uint8)
    for number in range(count):
        masks[number, 20:60, 5 * number : 5 * number + 30] = 0
    video = _video(tmp_path / "a.avi", frames)
    given = tmp_path / "masks"
    if kind == "video":
        given = _video(tmp_path / "masks.avi", np.repeat(masks[..., None], 3, axis=-1))
    else:
        given.mkdir()
        for number, mask in enumerate(masks):  # not in the order of letters
            Image.fromarray(mask[::2, ::2]).save(given / f"mask {number}.png")
    check_masks(given, video)
    scene = tmp_path / "scene"
    brought = _bring(video, scene, 4, Console(quiet=True), given)
    assert 2 <= len(brought.names) == brought.masked <= 4
    assert len([*(scene / "colmap" / "masks").iterdir()]) == len(brought.names)
    places = []
    for name in brought.names:
        picture = np.asarray(Image.open(scene / "images" / name)).astype(float)
        place = int(np.argmin([np.abs(picture - frame[..., ::-1]).mean() for frame in frames]))
        written = np.asarray(Image.open(scene / "colmap" / "masks" / f"{name}.png"))
        assert written.shape == (64, width) and (written != masks[place]).mean() < 0.02, place
        places.append(place)
    assert places == sorted(set(places))
    assert _bring(video, scene, 4, Console(quiet=True), given) == brought  # started again


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is missing: apt-get install ffmpeg")
def test_frames_of_a_video_are_neither_blurred_nor_of_one_place(tmp_path: Path) -> None:
    cameras = cameras_around(60, (320, 214))
    blurred, still = range(20, 32), 45
    moving = [cv2.blur(p, (15, 1)) if i in blurred else p for i, p in enumerate(photos_of(cameras))]
    numbers = [*range(still), *[still] * 15, *range(still + 1, 60)]
    rng = np.random.default_rng(0)
    frames = [np.clip(moving[i] + rng.normal(0, 2, moving[i].shape), 0, 255).astype(np.uint8) for i in numbers]
    bonnet = rng.integers(0, 255, (8, 80, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)  # of the car, in all frames
    for frame in frames:
        frame[-32:] = bonnet
    mediapy.write_video(tmp_path / "walk.mp4", frames, fps=25, crf=14)
    used = np.full(frames[0].shape[:2], 255, np.uint8)
    used[-36:] = 0
    Image.fromarray(used).save(tmp_path / "bonnet.png")
    found = pose(tmp_path / "walk.mp4", tmp_path / "scene", frames=16, masks=tmp_path / "bonnet.png")
    assert not found.missing and 12 <= len(found.placed) < 16 and found.masked == len(found.placed)
    with pycolmap.Database.open(tmp_path / "scene" / "colmap" / "database.db") as database:
        lowest = max(database.read_keypoints(image.image_id)[:, 1].max() for image in database.read_all_images())
    assert 100 < lowest < used.shape[0] - 32  # the bonnet is not matched
    masks = [tmp_path / "scene" / frame["mask_path"] for frame in _frames(tmp_path / "scene").values()]
    assert all(np.array_equal(read_mask(mask)[..., 0], used > 0) for mask in masks)  # nor trained on
    chosen: dict[str, int] = {}
    for name in found.placed:
        written = np.asarray(Image.open(tmp_path / "scene" / "images" / name)).astype(float)
        chosen[Path(name).stem] = int(np.argmin([np.abs(written - frame).mean() for frame in moving]))
    order = [number for _, number in sorted(chosen.items())]
    assert order == sorted(set(order)) and not set(order) & set(blurred)
    assert np.diff(order).max() < len(blurred) + 6 and order[0] < 6 and order[-1] > 54
    posed_at = {name: np.array(frame["transform_matrix"]) for name, frame in _frames(tmp_path / "scene").items()}
    own = np.stack([posed_at[name][:3, 3] for name in chosen])
    exact = np.stack([cameras[number].position.double().numpy() for number in chosen.values()])
    apart = np.linalg.norm(pycolmap.estimate_sim3d(own, exact) * own - exact, axis=1)
    assert apart.max() < 0.05  # metres, of a way of 3.3
