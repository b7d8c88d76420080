"""Depth that a capture brings: read in its unit, undistorted, points to start from, and learned from by confidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.report.made_views import depths_section
from difix3d_ns.evaluation.report.training import read_training
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import project, unproject
from difix3d_ns.initialization.depth_points import check_scale, depth_points, depth_ratios, seen_through
from difix3d_ns.initialization.depth_records import ABOUT_DEPTHS
from difix3d_ns.initialization.estimated_depths import PhotoDepthConfig
from difix3d_ns.initialization.stereo_points import CPU_POINTS, InitialPointsConfig
from difix3d_ns.io.depth_files import confidence_of, read_confidence, read_depth
from difix3d_ns.io.run import Run
from difix3d_ns.ns.photo_depths import PhotoDepths
from difix3d_ns.ns.pipeline import GuidedPipelineConfig
from difix3d_ns.ns.trainer import GuidedTrainer, GuidedTrainerConfig
from difix3d_ns.views.folders import DEPTHS_FOLDER
from difix3d_ns.views.protocols import PhotoDepth
from difix3d_ns.views.records import ViewRecords
from tests.unit.known_scenes import camera_at, photograph
from tests.unit.short_training import console_output, short_config, train
from tests.unit.tiny_depth import write_depth
from tests.unit.tiny_scene import write_scene

GROUND = -0.5  # height of the plane that all photographs on disk show


# ---------------------------------------------------------------------------------------------------------- files


def _encoded(suffix: str, values: np.ndarray) -> bytes:
    import os

    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
    import cv2

    return cv2.imencode(suffix, values)[1].tobytes()


TRUTH = np.array([[1.25, 0.0, 4.0], [0.5, 3.375, 2.0]], dtype=np.float32)
MILLIMETRES = (TRUTH * 1000).astype(np.uint16)
HOLED = np.where(TRUTH == 0, np.nan, TRUTH)
RED = np.stack([TRUTH * 0, TRUTH * 0, TRUTH], -1)  # as Record3D writes EXR; OpenCV's order is blue, green, red
WRITERS: dict[str, Callable[[Path], Any]] = {
    "16.png": lambda path: Image.fromarray(MILLIMETRES).save(path),
    "integers.npy": lambda path: np.save(path, MILLIMETRES.astype(np.int32)),
    "metres.npy": lambda path: np.save(path, HOLED),
    "half.npy": lambda path: np.save(path, TRUTH.astype(np.float16)),
    "infinite.npy": lambda path: np.save(path, np.where(TRUTH == 0, np.inf, TRUTH)),
    "millimetres.npy": lambda path: np.save(path, HOLED * 1000),
    "channel.npy": lambda path: np.save(path, TRUTH[..., None]),
    "one.npz": lambda path: np.savez_compressed(path, depth=TRUTH),
    "float.tiff": lambda path: Image.fromarray(TRUTH).save(path),
    "grey.exr": lambda path: path.write_bytes(_encoded(".exr", TRUTH)),
    "red.exr": lambda path: path.write_bytes(_encoded(".exr", RED)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_depth_in_metres_from_any_file(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    depth = read_depth(tmp_path / name)
    assert depth.dtype == np.float32 and np.allclose(depth, TRUTH, rtol=1e-3)


@pytest.mark.parametrize(("name", "unit"), [("16.png", 0.01), ("metres.npy", 1.0), ("metres.npy", 0.5)])
def test_a_unit_that_is_given_holds(name: str, unit: float, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    stored = MILLIMETRES if name == "16.png" else TRUTH
    assert np.allclose(read_depth(tmp_path / name, unit), stored * unit)


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("absent.png", lambda path: None, "does not exist"),
        ("half.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "cannot be read as depth"),
        ("empty.exr", lambda path: path.write_bytes(b""), "cannot be read as depth"),
        ("bad.npy", lambda path: path.write_bytes(b"no array"), "cannot be read as depth"),
        ("two.npz", lambda path: np.savez(path, a=TRUTH, b=TRUTH), "holds the arrays a, b"),
        ("8.png", lambda path: Image.fromarray(MILLIMETRES.astype(np.uint8)).save(path), "8 bits"),
        ("colour.png", lambda path: Image.fromarray(np.eye(3, dtype=np.uint8)[None] * 255).save(path), "in colour"),
        ("flat.npy", lambda path: np.save(path, TRUTH[0]), r"\[3\], no depth"),
    ],
)
def test_what_is_no_depth_is_named(name: str, write: Callable[[Path], Any], reason: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}.*{reason}"):
        read_depth(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 1, 2]], np.uint8), [0, 0.5, 1]),  # ARKit, Record3D, Stray Scanner
        (np.array([[0, 1, 1]], np.uint8), [0, 0.5, 0.5]),  # none of them high
        (np.array([[0, 127, 255]], np.uint8), [0, 0.498, 1]),  # Polycam
        (np.array([[0.0, 0.3, 1.0]], np.float32), [0, 0.3, 1]),
        (np.array([[0.0, 1.0, 2.0]], np.float32), [0, 0.5, 1]),
        (np.array([[False, True, True]]), [0, 1, 1]),
    ],
)
def test_confidence_as_a_share(values: np.ndarray, expected: list[float], tmp_path: Path) -> None:
    path = tmp_path / ("c.png" if values.dtype == np.uint8 else "c.npy")
    Image.fromarray(values).save(path) if path.suffix == ".png" else np.save(path, values)
    assert read_confidence(path)[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_confidence_lies_beside_depth(tmp_path: Path) -> None:
    for folder in ("depth", "confidence"):
        (tmp_path / folder).mkdir()
    (tmp_path / "confidence" / "a.b.png").touch()
    assert confidence_of(tmp_path / "depth" / "a.b.npy") == tmp_path / "confidence" / "a.b.png"
    assert confidence_of(tmp_path / "depth" / "a.png") is None


# ----------------------------------------------------------------------------------- a scene of known depth in memory


@dataclass
class KnownScene:
    """Photographs of the wall and the card, some with depth."""

    photos: list[PosedImage]
    depths: dict[int, PhotoDepth] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.photos)

    def photo(self, index: int) -> PosedImage:
        return self.photos[index]

    def camera(self, index: int) -> Any:
        return self.photos[index].pose

    def depth(self, index: int) -> PhotoDepth | None:
        return self.depths.get(index)


def _known_scene(count: int = 3, without: tuple[int, ...] = ()) -> KnownScene:
    photos = [photograph(camera_at(0.3 * i, 0.1 * i))[0] for i in range(count)]
    scene = KnownScene(photos)
    for index, photo in enumerate(photos):
        if index not in without:
            # at half the size: a sensor's own; one pixel of each 2 x 2
            depth = photo.pose.resized(photo.pose.width // 2, photo.pose.height // 2)
            scene.depths[index] = PhotoDepth(d := photograph(depth)[0].depth, torch.ones_like(d))  # type: ignore[arg-type]
    return scene


def test_points_lie_on_what_was_measured() -> None:
    cloud = depth_points(_known_scene(without=(1,)), 2000)  # type: ignore[arg-type]
    assert cloud is not None and cloud.positions.shape == (2000, 3) and cloud.colours.dtype == torch.uint8
    on_wall, on_card = ((cloud.positions[:, 2] - z).abs() < 1e-4 for z in (6.0, 3.0))
    assert (on_wall | on_card).all() and 100 < int(on_card.sum()) < 1900
    from tests.unit.known_scenes import colour

    error = (cloud.colours / 255 - colour(cloud.positions)).abs()
    assert float(error[on_wall].mean()) < 0.01
    again = depth_points(_known_scene(without=(1,)), 2000)  # type: ignore[arg-type]
    assert again is not None and torch.equal(cloud.positions, again.positions)


def test_points_follow_confidence_and_are_not_seen_through() -> None:
    scene = _known_scene()
    doubted = scene.depths[0]
    doubted.confidence[:, :40] = 0.3
    scene.depths[1].depth[20:40, 50:60] = 1.5  # trusted, and in the air: both others look through it
    cloud = depth_points(scene, 3000)  # type: ignore[arg-type]
    assert cloud is not None and (cloud.positions[:, 2] > 2.9).all()
    only = KnownScene(scene.photos[:1], {0: doubted})
    cloud = depth_points(only, 400)  # type: ignore[arg-type]
    assert cloud is not None and len(cloud.positions) == 400
    right = float((project(cloud.positions, only.photos[0].pose)[0][:, 0] > 80).float().mean())
    assert 0.7 < right < 0.84  # half of the picture, with 10 / 3 of the weight
    doubted.confidence[:, :40] = 0.2
    cloud = depth_points(only, 3000)  # type: ignore[arg-type]
    assert cloud is not None and len(cloud.positions) == 40 * 60  # what is hardly trusted gives none
    doubted.confidence[:] = 0
    assert depth_points(only, 3000) is None  # type: ignore[arg-type]


def test_what_photographs_see_through_floats() -> None:
    scene = _known_scene()
    camera = scene.photos[0].pose
    surface = unproject(scene.depths[0].depth, camera)[30, 40]
    ray = surface - camera.position
    points = torch.stack(
        [surface, camera.position + 0.5 * ray, camera.position + 1.3 * ray, camera.position - ray]
    )  # on it, before it, behind it, and where nobody looks
    assert seen_through(points, scene).tolist() == [False, True, False, False]  # type: ignore[arg-type]
    for depth in scene.depths.values():
        depth.confidence[:] = 0.1
    assert not seen_through(points, scene).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [1000.0, 1 / 25.4, 1.0])
def test_another_unit_is_found_by_the_scenes_points(factor: float) -> None:
    scene = _known_scene()
    points = torch.cat([unproject(photo.depth, photo.pose).view(-1, 3)[::97] for photo in scene.photos])  # type: ignore[arg-type]
    scattered = torch.rand(len(points) // 4, 3) * torch.tensor([2.0, 2.0, 8.0])  # points that are wrong
    points = torch.cat([points, scattered])
    scene.depths = {i: PhotoDepth(d.depth * factor, d.confidence) for i, d in scene.depths.items()}
    assert float(depth_ratios(scene, points).median()) == pytest.approx(factor, rel=0.01)  # type: ignore[arg-type]
    lines: list[str] = []
    if factor == 1.0:
        check_scale(scene, points, 1e-3, lines.append)  # type: ignore[arg-type]
        assert "median ratio 1.0" in lines[0]
        return
    with pytest.raises(UserError, match=rf"--depth-unit-scale-factor {1e-3 / factor:.3g}`"):
        check_scale(scene, points, 1e-3, lines.append)  # type: ignore[arg-type]


def test_points_that_have_nothing_to_do_with_the_depth_decide_nothing() -> None:
    scene = _known_scene()
    points = torch.randn(5000, 3, generator=torch.Generator().manual_seed(1)) * 2 + torch.tensor([0.0, 0.0, 2.0])
    check_scale(scene, points, 1e-3, lambda line: None)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- a scene on disk


def _plane_depth(frame: dict[str, Any], width: int, height: int) -> np.ndarray:
    """[height, width] metres along z of the ground in a frame of transforms.json, 0 for sky; at the map's own size."""
    pose = np.asarray(frame["transform_matrix"])
    rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    pixels = np.stack([columns * frame["w"] / width, rows * frame["h"] / height], -1)
    lens = [frame.get(name, 0.0) for name in ("k1", "k2", "p1", "p2")]
    matrix = np.array([[frame["fl_x"], 0, frame["cx"]], [0, frame["fl_y"], frame["cy"]], [0, 0, 1.0]])
    import cv2

    flat = cv2.undistortPoints(pixels.reshape(-1, 1, 2), matrix, np.array(lens)).reshape(height, width, 2)
    rays = np.stack([flat[..., 0], -flat[..., 1], -np.ones_like(flat[..., 0])], -1) @ pose[:3, :3].T  # OpenGL axes
    depth = (GROUND - pose[2, 3]) / rays[..., 2]
    return np.where((depth > 0) & (depth < 5), depth, 0).astype(np.float32)


def _ground_scene(
    folder: Path,
    size: tuple[int, int] = (40, 30),
    map_size: tuple[int, int] = (20, 15),
    factor: float = 1.0,
    **lens: Any,
) -> Path:
    """Photographs of noise whose depth files say that all is the ground, in millimetres times ``factor``."""

    def add(meta: dict[str, Any]) -> None:
        (folder / "depth").mkdir()
        for index, frame in enumerate(meta["frames"]):
            frame |= lens
            frame["depth_file_path"] = f"depth/{index}.png"
            millimetres = _plane_depth(frame, *map_size) * 1000 * factor
            Image.fromarray(millimetres.round().clip(0, 65535).astype(np.uint16)).save(folder / f"depth/{index}.png")
        meta["camera_model"] = "OPENCV"

    write_scene(folder, size=size, change=add)
    from plyfile import PlyData, PlyElement

    flat = np.random.default_rng(0).uniform(-1.5, 1.5, (400, 2))
    rows = np.array([(x, y, GROUND) for x, y in flat], dtype=[(axis, "f4") for axis in "xyz"])
    PlyData([PlyElement.describe(rows, "vertex")], text=True).write(str(folder / "points.ply"))
    return folder


def _config(scene: Path, name: str = "run", steps: int = 4, **settings: Any) -> GuidedTrainerConfig:
    config = short_config(scene, steps=steps, name=name)
    config.pipeline.sparse_helps = True
    config.pipeline.floaters.min_depth = 0.0
    config.pipeline.initial_points.depth = 200
    for key, value in settings.items():
        setattr(config.pipeline, key, value)
    return config


def _height(trainer: GuidedTrainer, points: torch.Tensor) -> torch.Tensor:
    """Heights [N] of points in the coordinates of the scene's files, metres."""
    outputs = trainer.pipeline.datamanager.train_dataparser_outputs
    transform = outputs.dataparser_transform
    metres = points / outputs.dataparser_scale - transform[:, 3]
    return (metres @ transform[:, :3])[:, 2]


def test_a_training_with_depth_of_its_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = _ground_scene(tmp_path / "scene")
    trainer = GuidedTrainer(_config(scene))
    trainer.config.save_config()
    trainer.setup()
    text = console_output(capsys)
    assert "200 initial points added to 400 from the depth of 5 of 5 photos" in text and "stereo is left out" in text
    assert "median ratio 1.0" in text
    pipeline = trainer.pipeline
    assert len(pipeline.model.means) == 600
    heights = _height(trainer, pipeline.model.means.detach()[400:])
    assert float((heights - GROUND).abs().max()) < 5e-3  # millimetres are rounded

    pipeline.train()
    pipeline.datamanager.train_dataset.metadata["depth_filenames"][0] = None  # absent for one of them
    assert pipeline.scene.depth(0) is None and pipeline.scene.depth(1) is not None

    def losses(step: int) -> dict[str, torch.Tensor]:
        pipeline.model.step_cb(trainer.optimizers, step)
        return pipeline.get_train_loss_dict(step)[1]

    pipeline.datamanager.train_unseen_cameras = list(range(5))
    found = [losses(step).get("photo_depth_loss") for step in range(5)]
    learned = [loss for loss in found if loss is not None]
    assert len(learned) == 4
    gradient = torch.autograd.grad(learned[-1], pipeline.model.gauss_params["means"])[0]
    assert gradient.isfinite().all() and (gradient != 0).any()
    pipeline.config.depth.weight = 0.0
    assert "photo_depth_loss" not in losses(5)


def test_the_splat_learns_the_measured_depth(tmp_path: Path) -> None:
    """From points 30 % too near, with the same pictures and steps."""
    scene = _ground_scene(tmp_path / "scene")
    errors = []
    for weight in (0.0, 5.0):
        config = _config(scene, name=f"w{weight}", steps=30, depth=PhotoDepthConfig(weight=weight))
        config.pipeline.initial_points.depth = config.pipeline.initial_points.stereo = 0
        config.pipeline.model.warmup_length = 1000
        torch.manual_seed(0)
        trainer = GuidedTrainer(config)
        config.save_config()
        trainer.setup()
        model, photos = trainer.pipeline.model, trainer.pipeline.scene
        with torch.no_grad():
            centre = torch.stack([camera.position for camera in photos.cameras()]).mean(0)
            model.means.lerp_(centre, 0.3)
            model.gauss_params["opacities"].fill_(2.0)
        trainer.train()
        found = []
        for index in range(len(photos)):
            sensor = photos.depth(index)
            assert sensor is not None
            depth, alpha = model.median_depth(photos.camera(index).resized(20, 15))
            both = (alpha > 0.5) & (sensor.depth > 0)
            found.append((depth / sensor.depth).log().abs()[both])
        errors.append(float(torch.cat(found).mean()))
    assert errors[1] < 0.7 * errors[0]


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    scene = _ground_scene(tmp_path / "scene")
    whole_config = _config(scene, name="whole", steps=6)
    whole_config.steps_per_save = 3
    torch.manual_seed(0)
    np.random.seed(0)
    whole = train(whole_config)
    again = _config(scene, name="again", steps=6)
    again.load_checkpoint = whole.checkpoint_dir / "step-000000003.ckpt"
    torch.manual_seed(9)
    resumed = train(again)
    for name, parameter in whole.pipeline.model.gauss_params.items():
        assert torch.allclose(parameter, resumed.pipeline.model.gauss_params[name], atol=1e-6), name


def test_estimates_complete_what_was_measured_and_fade(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = _ground_scene(tmp_path / "scene")
    (tmp_path / "weights").mkdir()
    depth = PhotoDepthConfig("multiview", str(write_depth(tmp_path / "weights")), fade=0.5)
    config = _config(scene, depth=depth)
    trainer = GuidedTrainer(config)
    trainer.config.save_config()
    trainer.setup()
    assert "Depth of 5 photos estimated" in console_output(capsys)
    photos = trainer.pipeline.scene
    measured, both = photos.depth(1, share=0.0), photos.depth(1)
    assert measured is not None and both is not None and both.depth.shape == (*photos.photo(1).image.shape[:2], 1)
    known = measured.confidence > 0  # at half the size
    assert torch.equal(both.depth[1::2, 1::2][known], measured.depth[known]) and bool(known.any())
    trainer.pipeline.datamanager.train_dataset.metadata["depth_filenames"][0] = None
    half, whole = photos.depth(0, share=0.5), photos.depth(0)
    assert half is not None and whole is not None and photos.depth(0, share=0.0) is None
    assert torch.allclose(half.confidence, 0.5 * whole.confidence) and float(whole.confidence.max()) <= 1

    records = ViewRecords(trainer.base_dir / DEPTHS_FOLDER)
    assert [head.title for head in records.heads()] == photos.names() and records.about == ABOUT_DEPTHS
    first = records.open(records.heads()[0])
    assert first is not None and list(first.panels) == ["photo", "depth", "confidence"]
    assert first.panels["depth"].std() > 1 and first.head.numbers["mean confidence"] > 0
    section = depths_section(read_training(trainer.base_dir))
    assert section.title == "Depth of photos" and "5 views" in str(section.parts[1])

    trainer.pipeline.train()
    shares = []
    for step in range(4):  # of the four, half have an estimate
        trainer.pipeline.datamanager.train_unseen_cameras = [0]
        trainer.pipeline.model.step_cb(trainer.optimizers, step)
        shares.append("photo_depth_loss" in trainer.pipeline.get_train_loss_dict(step)[1])
    assert shares == [True, True, False, False]


def test_an_unknown_depth_prior_is_named(tmp_path: Path) -> None:
    for config in (PhotoDepthConfig("sonar"), PhotoDepthConfig("multiview", str(tmp_path / "nothing"))):
        with pytest.raises(UserError, match=r"--pipeline\.depth\.(name|weights).*(sonar|nothing)"):
            config.load(torch.device("cpu"))
    pipeline = GuidedPipelineConfig(sparse_helps=False, depth=PhotoDepthConfig("multiview"))
    with pytest.raises(UserError, match=r"sparse-helps False switches off what --pipeline\.depth\.name multiview"):
        pipeline.check("--pipeline")


def test_a_wrong_unit_ends_before_training_and_its_remedy_works(tmp_path: Path) -> None:
    scene = _ground_scene(tmp_path / "scene", factor=0.1)  # centimetres
    with pytest.raises(UserError, match=r"0\.1\d* times as far as the points.*--depth-unit-scale-factor 0.01`"):
        GuidedTrainer(_config(scene)).setup()
    config = _config(scene, name="right")
    config.pipeline.datamanager.dataparser.depth_unit_scale_factor = 0.01  # type: ignore[attr-defined]
    trainer = GuidedTrainer(config)
    config.save_config()
    trainer.setup()
    assert float((_height(trainer, trainer.pipeline.model.means.detach()[400:]) - GROUND).abs().max()) < 5e-2
    config = _config(scene, name="without", depth=PhotoDepthConfig(weight=0.0))
    config.pipeline.initial_points.depth = config.pipeline.initial_points.stereo = 0
    config.save_config()
    GuidedTrainer(config).setup()  # what the message offers as well


@pytest.mark.parametrize("stereo", [None, 77])
def test_stereo_rests_unless_it_is_requested(stereo: int | None) -> None:
    config = InitialPointsConfig(stereo=stereo)
    for images in (None, 5):
        config.fit(Run(100, images=images))
    assert config.depth == CPU_POINTS and config.stereo == (stereo or CPU_POINTS)
    assert config.stereo_by_default == (stereo is None)


# ------------------------------------------------------------------------------------------------------ the photograph


def _depths(folder: Path, depth: np.ndarray, size: tuple[int, int], confidence: np.ndarray | None = None, **more: Any):
    np.save(folder / "d.npy", depth)
    files = None
    if confidence is not None:
        np.save(folder / "c.npy", confidence)
        files = [folder / "c.npy"]
    metadata = {"depth_filenames": [folder / "d.npy"], "depth_confidence_filenames": files}
    cameras = SimpleNamespace(width=torch.tensor([[size[0]]]), height=torch.tensor([[size[1]]]))
    lens = {"undistortion": lambda index: None, "stored_size": lambda index: size}
    dataset = SimpleNamespace(metadata=metadata, cameras=cameras, **(lens | more))
    return PhotoDepths(dataset, 2.0, lambda index: None)  # type: ignore[arg-type]


def test_edges_and_unknown_pixels_are_not_trusted(tmp_path: Path) -> None:
    depth = np.full((6, 8), 3.0, np.float32)
    depth[:, 4:] = 1.0
    depth[2, 1] = np.nan
    sensor = _depths(tmp_path, depth, (32, 24)).of(0, "cpu")
    assert sensor is not None and sensor.depth.shape == (6, 8, 1)
    assert float(sensor.depth[0, 0]) == 6.0 and float(sensor.depth[0, 7]) == 2.0  # scene units: twice the metres
    expected = torch.ones(6, 8)
    expected[:, 3:5] = 0  # both sides of the jump
    expected[2, 1] = 0
    assert torch.equal(sensor.confidence[..., 0], expected) and float(sensor.depth[2, 1]) == 0


def test_maps_of_other_sizes_and_confidence_by_pixel(tmp_path: Path) -> None:
    depth = np.arange(1, 49, dtype=np.float32).reshape(6, 8) * 0.001 + 2
    confidence = np.array([[0, 1, 2, 2], [1, 1, 2, 2], [2, 2, 2, 2]], np.uint8)
    sensor = _depths(tmp_path, depth, (4, 3), confidence).of(0, "cpu")  # the photograph is the smaller one
    assert sensor is not None and sensor.depth.shape == (3, 4, 1)
    assert torch.allclose(sensor.confidence[..., 0], torch.from_numpy(confidence / 2.0).float(), atol=3e-3)
    values = set((sensor.depth / 2).flatten().half().tolist())
    assert values <= set(torch.from_numpy(depth).half().flatten().tolist())  # none is mixed of others


def test_another_field_of_view_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"d\.npy has 6 x 8 pixels, but its photo 32 x 24"):
        _depths(tmp_path, np.ones((8, 6), np.float32), (32, 24)).of(0, "cpu")


def test_depth_follows_its_photograph_through_the_lens(tmp_path: Path) -> None:
    pytest.importorskip("difix3d_ns.ns.photo_dataset")
    scene = _ground_scene(tmp_path / "scene", (160, 120), (80, 60), k1=-0.25)
    trainer = GuidedTrainer(_config(scene))
    trainer.config.save_config()
    trainer.setup()
    photos = trainer.pipeline.scene
    heights = []
    for index in range(len(photos)):
        sensor = photos.depth(index)
        assert sensor is not None
        points = unproject(sensor.depth, photos.camera(index))[sensor.confidence[..., 0] > 0]
        heights.append(_height(trainer, points))
    error = (torch.cat(heights) - GROUND).abs()
    assert float(error.median()) < 0.01 and float(error.quantile(0.95)) < 0.05
