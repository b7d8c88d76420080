"""Folders as COLMAP, 3DGS, Mip-NeRF 360, Metashape, RealityCapture and LLFF leave them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from difix3d_ns.errors import UserError
from difix3d_ns.ns.dataparsers.colmap_model import read_colmap
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene
from difix3d_ns.ns.dataparsers.layouts import describe_colmap, find_layout, read_layout
from difix3d_ns.ns.dataparsers.scene_parser import SceneParser
from tests.unit.colmap_captures import PINHOLE, SIZE, write_model, write_pictures

NAMES = ("a.png", "b.png", "c.png")
TURN = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def describe_folder(folder: Path) -> DescribedScene:
    """What ``--data`` makes of a folder without transforms."""
    return read_layout(find_layout(folder))


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """images/ with three pictures."""
    write_pictures(tmp_path / "images", NAMES)
    return tmp_path


@pytest.mark.parametrize("end", [".bin", ".txt"])
@pytest.mark.parametrize("place", ["sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "sparse/1", ".", "colmap"])
def test_model_is_found_and_exact(capture: Path, place: str, end: str) -> None:
    poses = write_model(capture / place, NAMES, end, observations=2)
    scene = describe_folder(capture)
    assert scene.points is not None
    assert [frame.name for frame in scene.frames] == ["c.png", "b.png", "a.png"]  # by number, as nerfstudio
    assert [frame.image for frame in scene.frames] == [capture / "images" / name for name in reversed(NAMES)]
    for frame, pose in zip(scene.frames, reversed(poses), strict=True):
        np.testing.assert_allclose(frame.pose, TURN @ pose, atol=1e-12)
        assert frame.pose.dtype == np.float64
    lens = scene.frames[0].lens
    assert (lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy) == (*SIZE, 36.0, 37.0, 20.5, 14.5)
    theirs = ColmapDataParserConfig(data=capture).setup()._get_all_images_and_cameras(capture / place)
    np.testing.assert_allclose(
        [frame.pose for frame in scene.frames],
        [frame["transform_matrix"] for frame in theirs["frames"]],
        atol=1e-12,
    )
    np.testing.assert_array_equal(scene.applied_transform, theirs["applied_transform"])
    assert scene.points.positions.shape == (5, 3) and scene.points.colours[3].tolist() == [3, 2, 255]
    np.testing.assert_allclose(scene.points.positions[0], TURN[:3, :3] @ np.random.default_rng(0).normal(size=3))


def test_coordinates_far_away_lose_nothing(capture: Path) -> None:
    far = (512345.678, 4012345.678, 301.25)
    poses = write_model(capture / "sparse/0", offset=far)
    scene = describe_folder(capture)
    assert scene.points is not None
    for frame, pose in zip(scene.frames, reversed(poses), strict=True):
        np.testing.assert_allclose(frame.pose[:3, 3], (TURN @ pose)[:3, 3], atol=1e-8)
    near = np.random.default_rng(0).normal(size=3)
    np.testing.assert_allclose(scene.points.positions[0], TURN[:3, :3] @ (near + far), atol=1e-8)


@pytest.mark.parametrize(
    ("model", "values", "kind", "distortion"),
    [
        ("SIMPLE_PINHOLE", (36, 20, 15), CameraType.PERSPECTIVE, (0, 0, 0, 0, 0, 0)),
        ("SIMPLE_RADIAL", (36, 20, 15, 0.1), CameraType.PERSPECTIVE, (0.1, 0, 0, 0, 0, 0)),
        ("RADIAL", (36, 20, 15, 0.1, 0.2), CameraType.PERSPECTIVE, (0.1, 0.2, 0, 0, 0, 0)),
        ("OPENCV", (36, 36, 20, 15, 0.1, 0.2, 0.3, 0.4), CameraType.PERSPECTIVE, (0.1, 0.2, 0, 0, 0.3, 0.4)),
        (
            "FULL_OPENCV",
            (36, 36, 20, 15, 0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0),
            CameraType.PERSPECTIVE,
            (0.1, 0.2, 0.5, 0, 0.3, 0.4),
        ),
        ("OPENCV_FISHEYE", (36, 36, 20, 15, 0.1, 0.2, 0.3, 0.4), CameraType.FISHEYE, (0.1, 0.2, 0.3, 0.4, 0, 0)),
        ("OPENCV_FISHEYE", (36, 36, 20, 15, 0, 0, 0, 0), CameraType.FISHEYE, (0, 0, 0, 0, 0, 0)),
        ("SIMPLE_RADIAL_FISHEYE", (36, 20, 15, 0.1), CameraType.FISHEYE, (0.1, 0, 0, 0, 0, 0)),
        ("RADIAL_FISHEYE", (36, 20, 15, 0.1, 0.2), CameraType.FISHEYE, (0.1, 0.2, 0, 0, 0, 0)),
        ("SIMPLE_FISHEYE", (36, 20, 15), CameraType.FISHEYE, (0, 0, 0, 0, 0, 0)),
        ("FISHEYE", (36, 36, 20, 15), CameraType.FISHEYE, (0, 0, 0, 0, 0, 0)),
        (
            "RAD_TAN_THIN_PRISM_FISHEYE",
            (36, 36, 20, 15, *np.arange(12) / 100),
            CameraType.FISHEYE624,
            tuple(np.arange(12) / 100),
        ),
    ],
)
def test_lens(capture: Path, model: str, values: tuple, kind: CameraType, distortion: tuple) -> None:
    write_model(capture / "sparse/0", end=".txt", cameras=[PINHOLE, (model, values)])
    scene = describe_folder(capture)
    lens = {frame.name: frame.lens for frame in scene.frames}
    assert lens["a.png"].camera_type == lens["c.png"].camera_type == CameraType.PERSPECTIVE
    assert lens["b.png"].camera_type == kind and lens["b.png"].distortion == distortion
    assert (lens["b.png"].fx, lens["b.png"].fy, lens["b.png"].cx, lens["b.png"].cy) == (36, 36, 20, 15)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("FULL_OPENCV", (36, 36, 20, 15, 0, 0, 0, 0, 0, 0, 0.1, 0)),
        ("THIN_PRISM_FISHEYE", (36, 36, 20, 15, *[0.0] * 8)),
        ("FOV", (36, 36, 20, 15, 0.9)),
    ],
)
def test_lens_that_cannot_be_undistorted_is_named_with_colmaps_remedy(
    tmp_path: Path, model: str, values: tuple
) -> None:
    capture = tmp_path / "my capture"
    write_pictures(capture / "images", NAMES)
    write_model(capture / "sparse/0", cameras=[(model, values)])
    with pytest.raises(UserError, match=rf"{model}.*colmap image_undistorter") as error:
        describe_folder(capture)
    words = shlex.split(re.findall(r"`(.*?)`", str(error.value))[0])
    assert words[2:6] == ["--image_path", str(capture / "images"), "--input_path", str(capture / "sparse/0")]
    assert words[6:] == ["--output_path", str(capture / "undistorted")]


def test_unused_camera_of_a_foreign_model_does_no_harm(capture: Path) -> None:
    write_model(capture / "sparse/0", names=NAMES[:1], cameras=[PINHOLE, ("FOV", (36, 36, 20, 15, 0.9))])
    assert len(describe_folder(capture).frames) == 1


@pytest.mark.parametrize("points", [None, 0])
@pytest.mark.parametrize("end", [".bin", ".txt"])
def test_no_points(capture: Path, points: int | None, end: str) -> None:
    write_model(capture / "sparse/0", end=end, points=points)
    scene = describe_folder(capture)
    assert scene.points is None
    assert scene.notes == [f"{capture / 'sparse/0'} has no 3D points; training starts from random ones."]


def test_text_without_the_lines_of_observations(capture: Path) -> None:
    write_model(capture / "sparse", end=".txt", observations=7)
    path = capture / "sparse/images.txt"
    whole = describe_folder(capture)
    lines = [line for line in path.read_text().splitlines() if line.startswith("#") or ".png" in line]
    for text in ("\r\n".join(lines), "\ufeff" + "\n\n".join(lines)):
        path.write_text(text, encoding="utf-8")
        scene = describe_folder(capture)
        assert whole.frames
        assert [frame.name for frame in scene.frames] == [frame.name for frame in whole.frames]


@pytest.mark.parametrize("end", [".bin", ".txt"])
def test_rig_of_cameras_in_folders_of_their_own(tmp_path: Path, end: str) -> None:
    names = [f"{camera}/Bild {index} ü.png" for camera in ("links", "rechts (2)") for index in range(2)]
    write_pictures(tmp_path / "images", names)
    wide = ("OPENCV_FISHEYE", (20, 20, 20, 15, 0.01, 0, 0, 0))
    write_model(tmp_path / "sparse/0", names, end, cameras=[PINHOLE, wide])
    for name in ("rigs", "frames"):  # of COLMAP 3.12 and later
        (tmp_path / f"sparse/0/{name}{end}").write_bytes(b"\1" * 40)
    scene = describe_folder(tmp_path)
    assert {frame.name: frame.image for frame in scene.frames} == {name: tmp_path / "images" / name for name in names}
    assert {frame.lens.camera_type for frame in scene.frames} == {CameraType.PERSPECTIVE, CameraType.FISHEYE}


def test_original_3dgs_takes_the_undistorted_pictures(tmp_path: Path) -> None:
    for folder in ("input", "images", "stereo/normal_maps"):
        write_pictures(tmp_path / folder, NAMES)
    write_model(tmp_path / "sparse/0")
    write_model(tmp_path / "distorted/sparse/0", cameras=[("SIMPLE_RADIAL", (36, 20, 15, 0.1))])
    layout = find_layout(tmp_path)
    assert (layout.model, layout.images) == (tmp_path / "sparse/0", tmp_path / "images")


def test_original_3dgs_before_undistortion(tmp_path: Path) -> None:
    for folder in ("input", "images"):
        write_pictures(tmp_path / folder, NAMES)
    write_model(tmp_path / "distorted/sparse/0", cameras=[("SIMPLE_RADIAL", (36, 20, 15, 0.1))])
    for data in (tmp_path, tmp_path / "distorted", tmp_path / "distorted/sparse/0"):
        layout = find_layout(data)
        assert (layout.model, layout.images) == (tmp_path / "distorted/sparse/0", tmp_path / "input")


@pytest.mark.parametrize("pictures", ["images", "input", "rgb", "image", "."])
def test_pictures_are_where_the_models_names_are(tmp_path: Path, pictures: str) -> None:
    write_pictures(tmp_path / pictures, NAMES)
    write_pictures(tmp_path / "images", ["other.png"])
    write_model(tmp_path / "sparse/0")
    assert find_layout(tmp_path).images == tmp_path / pictures


def test_mip_nerf_360_and_reduced_copies_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images_2", NAMES, (20, 15))
    write_pictures(tmp_path / "images_4", NAMES, (10, 8))
    write_model(tmp_path / "sparse/0")
    (tmp_path / "poses_bounds.npy").write_bytes(b"")  # which it has too; the model has points
    for count in range(2):
        scene = describe_folder(tmp_path)
        assert scene.frames[0].image == tmp_path / "images/c.png"
        assert (scene.frames[0].lens.width, scene.frames[0].lens.height) == SIZE
        if count == 0:
            write_pictures(tmp_path / "images", NAMES)


def test_tanks_and_temples_list_of_held_out_photos(capture: Path) -> None:
    write_model(capture / "sparse/0")
    (capture / "test_list.txt").write_text("\ufeffb\r\n\r\nunregistered.png\r\n", encoding="utf-8")
    scene = describe_folder(capture)
    assert scene.splits == {"train": ["c.png", "a.png"], "val": ["b.png"], "test": ["b.png"]}
    assert "1 of 2 names" in scene.notes[-1] and "unregistered.png" in scene.notes[-1]
    (capture / "test_list.txt").write_text("x.png\n")
    with pytest.raises(UserError, match=r"test_list\.txt: no photo of"):
        describe_folder(capture)


def test_three_lists(capture: Path) -> None:
    write_model(capture / "sparse/0")
    for split, name in (("train", "a.png"), ("validation", "b.png"), ("test", "c.png")):
        (capture / f"{split}_list.txt").write_text(name)
    scene = describe_folder(capture)
    assert scene.splits == {"train": ["a.png"], "val": ["b.png"], "test": ["c.png"]}


@pytest.mark.parametrize(
    "lens", [("SIMPLE_RADIAL", (36, 20, 15, 0.1)), ("OPENCV", (36, 36, 20, 15, 0.1, 0.2, 0.3, 0.4))]
)
def test_text_exports_of_metashape_and_realitycapture(tmp_path: Path, lens: tuple) -> None:
    """Names of Windows, other endings and cases than the files'."""
    write_pictures(tmp_path / "images", ["left/DSC_1.png", "left/DSC_2.png", "Ü_3.png"])
    write_model(tmp_path / "sparse", ["left\\dsc_1.PNG", "C:\\photos\\DSC_2.tif", "U\u0308_3"], ".txt", cameras=[lens])
    scene = describe_folder(tmp_path)
    found = [frame.image.relative_to(tmp_path / "images").as_posix() for frame in reversed(scene.frames)]
    assert found == ["left/DSC_1.png", "left/DSC_2.png", "Ü_3.png"]


def test_of_several_models_the_largest(capture: Path) -> None:
    write_model(capture / "sparse/0", NAMES[:1])
    write_model(capture / "sparse/1", NAMES[:2], ".txt")
    write_model(capture / "sparse/10", NAMES[:1])
    scene = describe_folder(capture)
    assert len(scene.frames) == 2
    assert scene.notes[0] == (
        "Of 3 COLMAP models sparse/1 is read, which has most images (2; sparse/0: 1, sparse/10: 1); "
        "another: end the command with `colmap --colmap-path PATH`."
    )
    other = describe_colmap(ColmapDataParserConfig(data=capture, colmap_path=Path("sparse/10")))
    assert len(other.frames) == 1


def test_data_may_be_the_models_own_folder(capture: Path) -> None:
    write_model(capture / "sparse/0")
    for data in (capture / "sparse/0", capture / "sparse"):
        layout = find_layout(data)
        assert layout.model == capture / "sparse/0" and layout.images == capture / "images"


def test_transforms_before_colmap(capture: Path) -> None:
    write_model(capture / "sparse/0")
    assert find_layout(capture).kind == "colmap"
    (capture / "transforms_train.json").write_text("{}")
    assert find_layout(capture).kind == "blender"
    (capture / "transforms.json").write_text("{}")
    assert find_layout(capture).kind == "transforms"
    assert find_layout(capture / "transforms.json").file == capture / "transforms.json"


@pytest.mark.parametrize("name", ["{}", "{}.png", "{stem}.png"])
def test_masks(tmp_path: Path, name: str) -> None:
    names = ["cam/a.jpg", "cam/b.jpg", "c.jpg"]
    write_pictures(tmp_path / "images", names)
    write_model(tmp_path / "sparse/0", names)
    masks = [name.format(photo, stem=photo.removesuffix(".jpg")) for photo in names[:2]]
    write_pictures(tmp_path / "masks", masks)
    scene = describe_folder(tmp_path)
    assert [frame.mask for frame in scene.frames] == [None, *(tmp_path / "masks" / mask for mask in reversed(masks))]
    assert f"1 of 3 photos have no mask in {tmp_path / 'masks'}." in scene.notes


def test_flags_of_the_colmap_dataparser(tmp_path: Path) -> None:
    write_pictures(tmp_path / "photos", NAMES)
    write_pictures(tmp_path / "matte", NAMES)
    write_pictures(tmp_path / "depths", NAMES)
    poses = write_model(tmp_path / "model")
    config = ColmapDataParserConfig(
        data=tmp_path,
        colmap_path=Path("model"),
        images_path=Path("photos"),
        masks_path=Path("matte"),
        depths_path=Path("depths"),
        load_3D_points=False,
        assume_colmap_world_coordinate_convention=False,
        depth_unit_scale_factor=0.5,
    )
    scene = describe_colmap(config)
    frame = scene.frames[0]
    assert frame.image == tmp_path / "photos/c.png" and frame.mask == tmp_path / "matte/c.png"
    assert frame.depth == tmp_path / "depths/c.png" and scene.depth_unit == 0.5
    assert scene.points is None and scene.applied_transform is None and not scene.notes
    np.testing.assert_allclose(frame.pose, poses[-1], atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colmap_path": Path("sparse/7")}, "--colmap-path sparse/7: "),
        ({"images_path": Path("photos")}, "--images-path photos: there is no folder"),
        ({"masks_path": Path("matte")}, "--masks-path matte: there is no folder"),
        ({"masks_path": Path("sparse")}, r"--masks-path sparse: no photo has a mask there; name them c\.png\.png"),
        ({"depths_path": Path("sparse")}, "--depths-path sparse: no photo has a depth map there"),
    ],
)
def test_wrong_flags_are_named(capture: Path, change: dict, message: str) -> None:
    write_model(capture / "sparse/0")
    with pytest.raises(UserError, match=message):
        describe_colmap(ColmapDataParserConfig(data=capture, **change))


def test_colmap_where_there_is_no_model(capture: Path) -> None:
    with pytest.raises(UserError, match=r"`difix3d pose "):
        describe_colmap(ColmapDataParserConfig(data=capture))
    (capture / "transforms.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no COLMAP model .*, but .*transforms\.json; leave `colmap` away"):
        describe_colmap(ColmapDataParserConfig(data=capture))
    with pytest.raises(UserError, match=r"transforms\.json is no folder"):
        describe_colmap(ColmapDataParserConfig(data=capture / "transforms.json"))


def test_model_elsewhere(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = tmp_path_factory.mktemp("model")
    write_model(model)
    scene = describe_colmap(ColmapDataParserConfig(data=capture, colmap_path=model))
    assert [frame.image for frame in scene.frames] == [capture / "images" / name for name in reversed(NAMES)]


def test_missing_pictures_are_counted(capture: Path) -> None:
    write_model(capture / "sparse/0")
    (capture / "images/a.png").unlink()
    (capture / "images/b.png").unlink()
    with pytest.raises(UserError, match=rf"2 of 3 photos .* the first is {capture / 'images/b.png'};"):
        describe_folder(capture)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin", "cameras.txt", "images.txt"])
def test_cut_files_are_named(capture: Path, name: str) -> None:
    path = capture / "sparse/0" / name
    write_model(path.parent, end=path.suffix, observations=3)
    if path.suffix == ".bin":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.write_text(path.read_text().replace("c.png", "").replace("20.5 14.5", "20.5"))
    with pytest.raises(UserError, match=rf"{name} cannot be read \(.*export the COLMAP model again"):
        describe_folder(capture)


def test_model_without_images(capture: Path) -> None:
    write_model(capture / "sparse/0", [])
    with pytest.raises(UserError, match="has no images"):
        read_colmap(capture / "sparse/0", capture / "images", source=capture)


def test_llff(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", ["x_2.png", "x_10.png", "x_1.png"])
    pose = np.eye(4)
    pose[:3, 3] = (1, 2, 3)  # COLMAP's world: right x, down y, backward -z
    matrix = np.array([[0, 1, 0, 1, 30], [1, 0, 0, 2, 40], [0, 0, -1, 3, 36.0]])
    np.save(tmp_path / "poses_bounds.npy", np.stack([np.r_[matrix.ravel(), 0.1, 9]] * 3))
    scene = describe_folder(tmp_path)
    assert [frame.name for frame in scene.frames] == ["x_1.png", "x_10.png", "x_2.png"]
    pose[:3, :3] = np.diag([1, -1, -1])  # the same with OpenGL axes
    np.testing.assert_allclose(scene.frames[0].pose, TURN @ pose)
    assert np.linalg.det(scene.frames[0].pose[:3, :3]) == pytest.approx(1)
    lens = scene.frames[0].lens
    assert (lens.width, lens.height, lens.fx, lens.cx, lens.cy) == (40, 30, 36, 20, 15)
    (tmp_path / "images/x_2.png").unlink()
    with pytest.raises(UserError, match=r"has 3 poses and .* has 2 pictures"):
        describe_folder(tmp_path)


@pytest.mark.parametrize(
    ("files", "data", "expected"),
    [
        (["my film.MOV"], ".", "difix3d pose 'my film.MOV' --output {}_processed"),
        (["a.mp4"], "a.mp4", "difix3d pose a.mp4 --output a"),
        (["x.png"], ".", "difix3d pose . --output {}_processed"),
        (["images/left/x.png"], ".", "difix3d pose images --output {}_processed"),
        (["images/x.png", "other.xml", "other.csv"], ".", "difix3d pose images --output {}_processed"),
        (["keyframes/images/1.jpg"], ".", "ns-process-data polycam --data . --output-dir {}_processed"),
    ],
)
def test_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], data: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(b"")
    with pytest.raises(UserError) as error:
        find_layout(Path(data))
    run = re.findall(r"`(.*?)`", str(error.value))
    assert run == [expected.format(shlex.quote(str(tmp_path)))]
    assert str(error.value).endswith(f"--data {run[0].split()[-1]}")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds nothing to train on; .*transforms\.json.*sparse/0.*poses_bounds\.npy"):
        find_layout(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        find_layout(tmp_path / "x")
    (tmp_path / "cameras.txt").write_text("")
    with pytest.raises(UserError, match=rf"--data {tmp_path}$"):
        find_layout(tmp_path / "cameras.txt")


XML = """<?xml version="1.0" encoding="UTF-8"?>
<document version="2.0.0"><chunk label="Chunk 1" enabled="true"><sensors next_id="2">
<sensor id="0" label="Ü" type="frame"><resolution width="40" height="30"/>
<calibration type="frame" class="initial"><resolution width="40" height="30"/><f>99</f></calibration>
<calibration type="frame" class="adjusted"><resolution width="40" height="30"/><f>36</f><cx>0.5</cx><cy>-1</cy>
<b1>0.25</b1><b2>0.1</b2><k1>0.1</k1><k2>0.2</k2><k3>0.3</k3><p1>0.01</p1><p2>0.02</p2></calibration></sensor>
<sensor id="1" type="fisheye"><resolution width="40" height="30"/>
<calibration type="fisheye" class="adjusted"><f>20</f><k1>0.1</k1>{tangential}</calibration></sensor>
</sensors><components><component id="0"><transform><rotation>0 -1 0 1 0 0 0 0 1</rotation>
<translation>500000 4000000 100</translation><scale>2</scale></transform></component></components><cameras>
<camera id="0" sensor_id="0" component_id="0" label="A"><transform>1 0 0 1 0 1 0 2 0 0 1 3 0 0 0 1</transform></camera>
<group id="0"><camera id="1" sensor_id="1" component_id="0" label="b.png">
<transform>1 0 0 4 0 1 0 5 0 0 1 6 0 0 0 1</transform></camera></group>
<camera id="2" sensor_id="0" component_id="0" label="c.png"/>
<camera id="3" sensor_id="0" component_id="0" label="x"><transform>1 0 0 1 0 1 0 2 0 0 1 3 0 0 0 1</transform></camera>
</cameras></chunk></document>"""


def test_cameras_of_metashape(capture: Path) -> None:
    file = capture / "cameras.xml"
    file.write_text(XML.format(tangential=""), encoding="utf-8")
    scene = describe_folder(capture)
    assert scene.applied_transform is not None
    assert [frame.image for frame in scene.frames] == [capture / "images/a.png", capture / "images/b.png"]
    # world: twice the turned local position, and the offset; then nerfstudio's order of axes
    turn = np.eye(4)
    turn[:3] = scene.applied_transform
    expected = np.array([[0, 1, 0, 499996], [1, 0, 0, 4000002], [0, 0, -1, 106], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(scene.frames[0].pose, turn @ expected, atol=1e-9)
    lens, wide = (frame.lens for frame in scene.frames)
    assert (lens.fx, lens.fy, lens.cx, lens.cy) == (36.25, 36, 20.5, 14)
    assert lens.distortion == (0.1, 0.2, 0.3, 0, 0.02, 0.01)  # tangential ones change places
    assert (wide.camera_type, wide.distortion) == (CameraType.FISHEYE, (0.1, 0, 0, 0, 0, 0))
    assert f"{file}: 1 cameras are not aligned and 1 have no picture in {capture / 'images'}." in scene.notes
    assert f"{file}: the skew b2 is left out, which moves pixels by up to 0.04." in scene.notes
    file.write_text(XML.format(tangential="<p1>0.01</p1><p2>0.02</p2>"), encoding="utf-8")
    wide = describe_folder(capture).frames[1].lens
    assert (wide.camera_type, wide.distortion) == (
        CameraType.FISHEYE624,
        (0.1, 0, 0, 0, 0, 0, 0.01, 0.02, 0, 0, 0, 0),
    )
    for old, new, message in (
        ('type="frame"', 'type="spherical"', "type spherical, which splats cannot"),
        ("</document>", "", r"cameras\.xml cannot be read .*export the cameras from Metashape again"),
        ('label="', 'label="y', r"3 aligned cameras, and .* no picture named like one \(yA, yb\.png, yx\)"),
    ):
        file.write_text(XML.format(tangential="").replace(old, new), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            describe_folder(capture)


def test_cameras_of_realitycapture_are_those_of_nerfstudio(capture: Path) -> None:
    from nerfstudio.process_data.realitycapture_utils import realitycapture_to_json

    file = capture / "cameras.csv"
    columns = "#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2"
    rows = [f"{name},500000.5,4000000.25,30,100,60,{turn},35,0.01,-0.02,0.1,0.2,0.3,0,0.01,0.02" for name, turn in
            (("a.jpg", 5), ("b.jpg", -170), ("lost.jpg", 0))]  # fmt: skip
    file.write_text("\n".join([columns, *rows]))
    scene = describe_folder(capture)
    assert scene.orientation == "none" and scene.applied_transform is None
    realitycapture_to_json({name: capture / f"images/{name}.png" for name in "ab"}, file, None, capture)
    theirs = json.loads((capture / "transforms.json").read_text())["frames"]
    (capture / "transforms.json").unlink()
    for frame, expected in zip(scene.frames, theirs, strict=True):
        assert frame.image == Path(expected["file_path"])
        np.testing.assert_allclose(frame.pose, expected["transform_matrix"], atol=1e-9)
        lens = frame.lens
        assert [lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy, *lens.distortion] == pytest.approx(
            [expected[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4", "p1", "p2")]
        )
    assert any("1 of 3 cameras have no picture" in note for note in scene.notes)
    file.write_text(columns + "\na.png,1,2\n")
    with pytest.raises(UserError, match=r"cameras\.csv cannot be read"):
        describe_folder(capture)


@pytest.mark.parametrize("kind", [ColmapDataParserConfig, NerfstudioDataParserConfig])
@pytest.mark.parametrize("end", [".bin", ".txt"])
def test_cameras_points_and_frame_are_those_of_nerfstudio(tmp_path: Path, end: str, kind: type) -> None:
    names = [f"{index:02d}.png" for index in range(12)]
    write_pictures(tmp_path / "images", names)
    write_model(tmp_path / "colmap/sparse/0", names, end, cameras=[("SIMPLE_RADIAL", (36, 20.5, 14.5, 0.1))])
    ours = SceneParser(kind(data=tmp_path, load_3D_points=True))
    theirs = ColmapDataParserConfig(data=tmp_path).setup()
    for split, count in (("train", 10), ("val", 2)):
        mine, expected = ours.get_dataparser_outputs(split), theirs.get_dataparser_outputs(split)
        assert mine.image_filenames == expected.image_filenames and len(mine.image_filenames) == count
        for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "distortion_params"):
            close = getattr(mine.cameras, name), getattr(expected.cameras, name)
            torch.testing.assert_close(*close, atol=1e-6, rtol=0, check_dtype=False)
        assert torch.equal(mine.cameras.camera_type, expected.cameras.camera_type)
        torch.testing.assert_close(mine.metadata["points3D_xyz"], expected.metadata["points3D_xyz"], atol=1e-6, rtol=0)
        assert torch.equal(mine.metadata["points3D_rgb"], expected.metadata["points3D_rgb"])
        transforms = mine.dataparser_transform.float(), expected.dataparser_transform
        torch.testing.assert_close(*transforms, atol=1e-6, rtol=0)
        assert mine.dataparser_scale == pytest.approx(expected.dataparser_scale, abs=1e-6)


def test_matches_of_points_are_those_of_nerfstudio(capture: Path) -> None:
    write_model(capture / "colmap/sparse/0", NAMES, observations=2)
    config = ColmapDataParserConfig(data=capture, max_2D_matches_per_3D_point=-1)
    mine = SceneParser(config).get_dataparser_outputs().metadata
    expected = config.setup().get_dataparser_outputs().metadata
    for name in ("points3D_error", "points3D_num_points2D", "points3D_image_ids", "points3D_points2D_xy"):
        assert torch.equal(mine[name], expected[name])


def test_cameras_of_one_kind_share_a_scene_and_a_mixture_is_named(capture: Path) -> None:
    fisheyes = [("OPENCV_FISHEYE", (20, 20, 20, 15, 0.1, 0.2, 0.3, 0.4)), ("SIMPLE_FISHEYE", (22, 20, 15))]
    write_model(capture / "sparse/0", end=".txt", cameras=fisheyes)
    config = NerfstudioDataParserConfig(data=capture)
    cameras = SceneParser(config).get_dataparser_outputs().cameras
    assert cameras.camera_type.flatten().tolist() == [CameraType.FISHEYE.value] * 3
    assert cameras.fx.flatten().tolist() == [20, 22, 20]
    torch.testing.assert_close(cameras.distortion_params[0], torch.tensor([0.1, 0.2, 0.3, 0.4, 0, 0]))
    write_model(capture / "sparse/0", end=".txt", cameras=[fisheyes[0], PINHOLE])
    with pytest.raises(UserError, match=r"mixes .*c\.png is fisheye, b\.png is perspective"):
        SceneParser(config).get_dataparser_outputs()


@pytest.mark.parametrize(("copy", "size"), [("images_2", (21, 16)), ("images_2", (20, 15)), (None, (20, 15))])
def test_mip_nerf_360_is_trained_at_the_copies_own_size(
    tmp_path: Path, copy: str | None, size: tuple[int, int]
) -> None:
    write_pictures(tmp_path / "images", NAMES, (41, 31))
    if copy is not None:
        write_pictures(tmp_path / copy, NAMES, size)
    write_model(tmp_path / "sparse/0", size=(41, 31))
    outputs = SceneParser(NerfstudioDataParserConfig(data=tmp_path, downscale_factor=2)).get_dataparser_outputs()
    assert outputs.image_filenames[0] == tmp_path / (copy or "images") / "c.png"
    camera = outputs.cameras[0]
    assert (int(camera.width), int(camera.height)) == size
    assert float(camera.fx) == pytest.approx(36 * size[0] / 41) and float(camera.cy) == pytest.approx(
        14.5 * size[1] / 31
    )
