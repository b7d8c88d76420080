"""One photo of an object: how it is cut out, what is refused, the frames made of it, and training on them."""

from __future__ import annotations

import copy
import itertools
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor

from difix3d_ns.apps import demo_object
from difix3d_ns.apps import image_to_3d as app
from difix3d_ns.cli import convert
from difix3d_ns.data.object_orbits import ObjectOrbit
from difix3d_ns.data.procedural.solids import Sphere
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.object_frame import FOCAL, RADIUS, object_cameras
from difix3d_ns.geometry.warp import project, unproject
from difix3d_ns.guidance.hi3d import Hi3DConfig
from difix3d_ns.io.cut_objects import FILLED, centred, read_object
from difix3d_ns.io.cut_outs import within_box
from difix3d_ns.io.run import Run
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.methods.hi3d import hi3d_splatfacto
from difix3d_ns.methods.sparse import sparse_splatfacto
from difix3d_ns.methods.sparsefusion import sparsefusion_splatfacto
from difix3d_ns.methods.threedsr import threedsr_splatfacto
from difix3d_ns.ns import presets
from difix3d_ns.ns.dataparsers import photo_orbit
from difix3d_ns.ns.dataparsers.photo_orbit import SinglePhotoConfig, is_single_photo, make_orbit
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.priors.base import ObjectFrame, OrbitFrame, OrbitGenerator, State
from difix3d_ns.priors.inflation import InflatingOrbitGenerator
from difix3d_ns.priors.orbit_generator_config import OrbitGeneratorConfig
from difix3d_ns.priors.orbit_refiner_config import OrbitRefinerConfig
from difix3d_ns.priors.published.hub import download
from difix3d_ns.priors.published.text_to_picture import FILES, picture_of
from difix3d_ns.priors.registry import available_priors, load_orbit_generator
from difix3d_ns.views.view import TrainView
from tests.pretended_cuda import pretended_cuda
from tests.stand_ins import FlatRenderer, ModelOfScene, NoReferences
from tests.unit.log import Log
from tests.unit.official_difix import UNET, VAE, write_text_encoder
from tests.unit.tiny_scene import datamanager

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 64


def _disc(height: int, width: int, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def _photo(path: Path, mode: str = "RGBA", change: Callable[[np.ndarray], None] = lambda pixels: None) -> Path:
    """A picture of a blue disc with a red upper half, 60 pixels wide, left of the middle."""
    solid = _disc(100, 140, 50, 60, 30)
    pixels = np.full((100, 140, 4), 255, np.uint8)
    pixels[solid, :3] = (40, 60, 200)
    pixels[solid & (np.arange(100) < 50)[:, None], :3] = (200, 40, 40)
    pixels[..., 3] = 255 * solid
    change(pixels)
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(pixels).convert(mode).save(path)
    return path


def _cut(side: int = SIDE) -> Tensor:
    """A centred ball, as a photo shows it that is cut out."""
    solid = torch.from_numpy(_disc(side, side, side / 2, side / 2, 0.375 * side)).float()[..., None]
    colours = torch.rand(side, side, 3, generator=torch.Generator().manual_seed(0))
    return torch.cat([colours * solid + 1 - solid, solid], -1)


def _finished(generator: OrbitGenerator, photo: Tensor, elevation: float = 20.0, count: int = 4) -> list[ObjectFrame]:
    state = generator.start(photo, elevation, count)
    while left := generator.steps_left(state):
        before = {name: values.clone() for name, values in state.items()}
        following = generator.step(state)
        assert generator.steps_left(following) == left - 1
        assert all(torch.equal(state[name], values) for name, values in before.items())
        state = following
    return generator.result(state)


# ---------------------------------------------------------------------- the frame


def test_the_cameras_are_those_of_the_paper() -> None:
    cameras = object_cameras(30.0, 512)
    assert len(cameras) == 16
    assert math.degrees(2 * math.atan(0.5 / FOCAL)) == pytest.approx(49.13, abs=0.01)
    for number, camera in enumerate(cameras):
        place = camera.position
        assert float(place.norm()) == pytest.approx(RADIUS)
        assert math.degrees(math.asin(float(place[2]) / RADIUS)) == pytest.approx(30)
        turn = math.radians(22.5 * number)
        ahead = torch.tensor([math.cos(turn), math.sin(turn)], dtype=torch.float64)
        assert float(place[:2] @ ahead) == pytest.approx(RADIUS * math.cos(math.radians(30)))
        assert float(camera.camera_to_world[:3, :3].det()) == pytest.approx(1)
        pixel, depth = project(torch.zeros(1, 3, dtype=torch.float64), camera)
        assert pixel[0].tolist() == pytest.approx([256, 256]) and float(depth) == pytest.approx(RADIUS)
        assert float(camera.camera_to_world[2, 0]) == pytest.approx(0)  # level
    # each camera stands to the right of the one before, as that one sees it
    assert all(float(project(b.position[None], a)[0][0, 0]) > 256 for a, b in itertools.pairwise(cameras))


# ---------------------------------------------------------------------- cutting out


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L", "CMYK", "LA"])
def test_pictures_of_any_mode_are_cut_out_and_centred(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    found = read_object(_photo(file, mode), 512)
    alpha = found.image[..., 3] > 0.5
    rows, columns = alpha.nonzero().unbind(1)
    side = found.image.shape[0]
    assert found.image.shape == (side, side, 4) and found.by_alpha == (mode in ("RGBA", "LA"))
    longer = float(columns.max() - columns.min() + 1)
    assert longer / side == pytest.approx(FILLED, abs=0.03)
    assert float(rows.float().mean()) == pytest.approx((side - 1) / 2, abs=1.5)
    assert float(columns.float().mean()) == pytest.approx((side - 1) / 2, abs=1.5)


def test_16_bits_are_served(tmp_path: Path) -> None:
    found = read_object(_photo(tmp_path / "photo.png", "I;16", lambda p: p.__setitem__((p[..., 3] > 0), 30)), 512)
    inside = found.image[found.image[..., 3] > 0.5]
    assert len(inside) > 2000 and float(inside[:, :3].mean()) == pytest.approx(30 / 255, abs=0.02)


def test_a_large_picture_is_reduced_without_its_background() -> None:
    picture = torch.cat([torch.ones(400, 400, 3), torch.zeros(400, 400, 1)], -1)
    picture[100:300, 100:300] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    small = centred(picture, 64)
    assert small.shape == (64, 64, 4)
    inside = small[small[..., 3] > 0.5]
    torch.testing.assert_close(inside[:, :3], torch.tensor([0.0, 0.0, 1.0]).expand(len(inside), -1), atol=0.02, rtol=0)


def _busy(pixels: np.ndarray) -> None:
    pixels[..., 3] = 255
    pixels[:] = np.random.default_rng(0).integers(0, 255, pixels.shape)


def _two(pixels: np.ndarray) -> None:
    pixels[_disc(100, 140, 50, 115, 18)] = (0, 200, 0, 255)


def _cropped(pixels: np.ndarray) -> None:
    pixels[30:70, :60] = (0, 200, 0, 255)


def _empty(pixels: np.ndarray) -> None:
    pixels[:] = 255


def _small(pixels: np.ndarray) -> None:
    pixels[..., 3] = 255 * _disc(100, 140, 50, 60, 12)


@pytest.mark.parametrize(
    ("mode", "change", "message"),
    [
        ("RGB", _busy, "several colours.*--cut LEFT TOP RIGHT BOTTOM"),
        ("RGBA", _two, "more than one object.*cut the others off"),
        ("RGBA", _cropped, "touches the border.*with all of it"),
        ("RGB", _empty, "shows no object.*another picture"),
        ("RGBA", _small, "24 pixels.*48 are needed.*larger picture"),
    ],
)
def test_what_is_no_one_whole_object_is_refused(
    tmp_path: Path, mode: str, change: Callable[[np.ndarray], None], message: str
) -> None:
    with pytest.raises(UserError, match=f"photo.png.*{message}"):
        read_object(_photo(tmp_path / "photo.png", mode, change), 512)


def test_what_is_too_thin_is_refused(tmp_path: Path) -> None:
    """A line of 3 x 920 pixels is nothing at 256; one of a tenth of its length becomes a shape."""
    for width, thin in ((3, True), (30, False)):
        pixels = np.zeros((1000, 100, 4), np.uint8)
        pixels[40:960, 40 : 40 + width] = (40, 60, 200, 255)
        Image.fromarray(pixels).save(tmp_path / "photo.png")
        if thin:
            with pytest.raises(UserError, match=r"photo.png: the object is so thin.*from which it is wider"):
                read_object(tmp_path / "photo.png", 256)
        else:
            photo = read_object(tmp_path / "photo.png", 256).image
            state = load_orbit_generator("inflation").start(photo, 20.0, 4)
            assert float(state["volume"].max()) > 0


def test_specks_are_left_out(tmp_path: Path) -> None:
    def speck(pixels: np.ndarray) -> None:
        pixels[2:5, 130:133, 3] = 255

    found = read_object(_photo(tmp_path / "photo.png", "RGBA", speck), 512).image
    clean = read_object(_photo(tmp_path / "clean.png"), 512).image
    assert torch.equal(found, clean)


def test_a_box_cuts_an_object_out_of_its_background() -> None:
    rng = np.random.default_rng(0)
    solid = _disc(100, 140, 50, 60, 30)
    pixels = rng.normal([90, 150, 80], 12, (100, 140, 3)).clip(0, 255).astype(np.uint8)
    pixels[solid] = rng.normal([220, 60, 40], 12, (int(solid.sum()), 3)).clip(0, 255)
    found = within_box(pixels, (20, 10, 100, 90))[..., 0]
    assert (found & solid).sum() / (found | solid).sum() > 0.95
    for box in ((0, 0, 140, 100), (50, 50, 40, 60), (0, 0, 150, 50)):
        with pytest.raises(ValueError, match="box"):
            within_box(pixels, box)


# ---------------------------------------------------------------------- generators


@pytest.mark.parametrize("name", sorted({*available_priors(OrbitGenerator)} - {"orbit-video"}))  # test_orbit_video
def test_every_generator_keeps_the_contract(name: str) -> None:
    generator, photo = load_orbit_generator(name), _cut()
    before = torch.get_rng_state()
    frames = _finished(generator, photo)
    assert torch.equal(torch.get_rng_state(), before) and len(frames) == 4
    assert torch.equal(frames[0].image, photo[..., :3]) and torch.equal(frames[0].alpha, photo[..., 3:])
    for frame in frames:
        assert frame.image.shape == (SIDE, SIDE, 3) and frame.alpha.shape == (SIDE, SIDE, 1)
        assert frame.image.min() >= 0 and frame.image.max() <= 1 and frame.alpha.min() >= 0 and frame.alpha.max() <= 1
        assert frame.depth is None or ((frame.depth > 0) <= (frame.alpha > 0.5)).all()
    again = generator.start(photo, 20.0, 4)
    for _ in range(2):
        again = generator.step(load(save({key: values.contiguous() for key, values in again.items()})))
    while generator.steps_left(again):
        again = generator.step(again)
    assert all(torch.equal(a.image, b.image) for a, b in zip(generator.result(again), frames, strict=True))


def test_a_ball_is_inflated_to_a_ball() -> None:
    """From all sides it has the silhouette of the photo, and its surface lies at the ball's."""
    generator = InflatingOrbitGenerator(torch.device("cpu"), thickness=1.0)
    frames = _finished(generator, _cut(), elevation=0.0, count=4)
    radius = 0.375 / FOCAL * RADIUS  # at the middle's depth; the outline's rays graze a ball that is a bit smaller
    own = frames[0].alpha > 0.5
    for frame, camera in zip(frames, object_cameras(0.0, SIDE, 4, dtype=torch.float32), strict=True):
        solid = frame.alpha > 0.5
        assert float((solid & own).sum() / (solid | own).sum()) > 0.85
        assert frame.depth is not None
        places = unproject(frame.depth, camera)[(frame.depth > 0)[..., 0]]
        assert float(places.norm(dim=1).median()) == pytest.approx(radius, rel=0.15)


def test_the_front_is_carried_over_and_the_back_is_blurred() -> None:
    photo = _cut()
    photo[..., :3] = torch.where(torch.arange(SIDE)[:, None, None] // 4 % 2 == 0, 0.9, 0.1)  # stripes
    frames = _finished(load_orbit_generator("inflation"), photo, elevation=0.0, count=8)
    middle = slice(SIDE // 2 - 8, SIDE // 2 + 8)
    contrast = [float(frame.image[middle, SIDE // 2].std()) for frame in frames]
    assert contrast[0] > 0.3 and contrast[1] > 0.2 and contrast[4] < 0.15


def test_a_device_gives_what_the_processor_gives() -> None:
    photo, expected = _cut(), _finished(load_orbit_generator("inflation"), _cut(), count=3)
    with pretended_cuda():
        there = InflatingOrbitGenerator(torch.device("cuda"))
        found = _finished(there, photo, count=3)
        assert all(not frame.image.is_cuda for frame in found)  # states stay on the host
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.image, other.image)


# ---------------------------------------------------------------------- scenes


def _config(**settings: object) -> SinglePhotoConfig:
    return SinglePhotoConfig(**{"elevation": 20.0, "side": SIDE, "frames": 4, **settings})  # type: ignore[arg-type]


def test_a_picture_is_a_scene_of_frames_in_the_objects_frame(tmp_path: Path) -> None:
    photo = _photo(tmp_path / "photo.png")
    assert is_single_photo(photo) and not is_single_photo(tmp_path) and not is_single_photo(None)
    folder = make_orbit(photo, _config())
    meta = json.loads((folder / "transforms.json").read_text())
    assert folder.parent == tmp_path and len(meta["frames"]) == 4 and len(meta["generated_filenames"]) == 3
    written = (folder / "transforms.json").stat().st_mtime_ns
    assert make_orbit(photo, _config()) == folder  # used again
    assert (folder / "transforms.json").stat().st_mtime_ns == written
    assert make_orbit(photo, _config(elevation=21.0)) != folder

    manager = datamanager(photo, photo=_config())
    scene = TrainingScene(manager, ModelOfScene(4))
    assert [scene.generated(index) for index in range(4)] == [False, True, True, True]
    assert len(manager.eval_dataset) == 0 and scene.given_points() is not None
    for camera, expected in zip(scene.cameras(), object_cameras(20.0, SIDE, 4), strict=True):
        torch.testing.assert_close(camera.camera_to_world.double(), expected.camera_to_world, atol=1e-5, rtol=0)
    assert all(scene.alpha(index) is not None for index in range(4))


def test_the_elevation_has_to_be_given_and_possible(tmp_path: Path) -> None:
    photo = _photo(tmp_path / "photo.png")
    with pytest.raises(UserError, match=r"photo.png.*--pipeline.datamanager.photo.elevation.*0 where.*30 where"):
        make_orbit(photo, _config(elevation=None))
    for value in (95.0, -60.0, math.nan):
        with pytest.raises(UserError, match=r"elevation.*-30 to 70"):
            make_orbit(photo, _config(elevation=value))
    for setting, value in (("frames", 2), ("side", 3)):
        with pytest.raises(UserError, match=f"photo.{setting} {value}"):
            _config(**{setting: value}).check("--pipeline.datamanager.photo")


class _Flat(OrbitGenerator):
    """A generator of grey frames of its own size; each step is counted, ``fails`` at one of them."""

    side, frames, fails, unclear = 96, 4, 99, 0
    steps: ClassVar[list[int]] = []

    def start(self, photo: Tensor, elevation: float, count: int, seed: int = 0) -> State:
        if count != self.frames:
            raise ValueError(f"{count} pictures: this model makes {self.frames}")
        return {"done": torch.tensor(0), "photo": photo[..., :3], "again": photo}

    def steps_left(self, state: State) -> int:
        return 4 - int(state["done"])

    def step(self, state: State) -> State:
        number = int(state["done"])
        if number == self.fails:
            raise RuntimeError("no finite numbers")
        self.steps.append(number)
        return {**state, "done": state["done"] + 1}

    def result(self, state: State) -> list[ObjectFrame]:
        alpha = torch.nn.functional.pad(torch.ones(self.side // 2, self.side // 2, 1), (0, 0, *[self.side // 4] * 4))
        frame = ObjectFrame(torch.full((self.side, self.side, 3), 0.5), alpha)
        unclear = ObjectFrame(frame.image, torch.ones_like(alpha))
        return [frame] * (4 - self.unclear) + [unclear] * self.unclear


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> type[_Flat]:
    """A class of generators of which each test has its own, in the place of all others."""

    class Flat(_Flat):
        steps: ClassVar[list[int]] = []

    monkeypatch.setattr(OrbitGeneratorConfig, "load", lambda self, device, flag_prefix="": Flat())
    return Flat


def test_frames_have_the_size_of_their_generator(tmp_path: Path, flat: type[_Flat]) -> None:
    folder = make_orbit(_photo(tmp_path / "photo.png"), _config())
    meta = json.loads((folder / "transforms.json").read_text())
    for frame in meta["frames"]:
        assert Image.open(folder / frame["file_path"]).size == (96, 96) == (frame["w"], frame["h"])
        assert frame["fl_x"] == pytest.approx(96 * FOCAL) and frame["cx"] == 48


def test_what_a_generator_cannot_do_names_the_flag(tmp_path: Path, flat: type[_Flat]) -> None:
    photo = _photo(tmp_path / "photo.png")
    with pytest.raises(UserError, match=r"5 pictures: this model makes 4; see --pipeline.datamanager.photo.frames 5"):
        make_orbit(photo, _config(frames=5))
    flat.fails = 2
    with pytest.raises(UserError, match=r"no finite numbers; give --pipeline.datamanager.photo.generator.dtype"):
        make_orbit(photo, _config())
    flat.fails, flat.frames = 99, 6
    with pytest.raises(UserError, match=r"gives 4 frames where --pipeline.datamanager.photo.frames 6 square ones"):
        make_orbit(photo, _config(frames=6))
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_work_on_an_orbit_goes_on_where_it_was_killed(
    tmp_path: Path, flat: type[_Flat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_orbit, "_SAVE_EVERY", -1.0)
    photo, config = _photo(tmp_path / "my.photo.png"), _config()

    def killed(self: _Flat, state: State) -> State:
        if int(state["done"]) == 2:
            raise KeyboardInterrupt
        return _Flat.step(self, state)

    monkeypatch.setattr(flat, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        make_orbit(photo, config)
    (saved,) = tmp_path.glob(".my.photo_orbit_*.safetensors")
    name = saved.stem[1:]
    (tmp_path / f".{Path(name).stem}.12345678.part{Path(name).suffix}").mkdir()  # of one killed while it was written
    (tmp_path / f".{saved.stem}.12345678.part.safetensors").write_bytes(b"half")
    monkeypatch.setattr(flat, "step", _Flat.step)
    folder = make_orbit(photo, config)
    assert flat.steps == [0, 1, 2, 3] and folder.name == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.photo.png", name]

    saved.write_bytes(b"damaged")
    (folder / "transforms.json").unlink()
    shutil.rmtree(folder)
    assert make_orbit(photo, config) == folder and flat.steps == [0, 1, 2, 3] * 2


def test_other_weights_make_another_orbit(tmp_path: Path, flat: type[_Flat]) -> None:
    photo, weights = _photo(tmp_path / "photo.png"), tmp_path / "weights"
    weights.mkdir()
    (weights / "unet.safetensors").write_bytes(b"one")
    config = _config(generator=OrbitGeneratorConfig("orbit-video", str(weights)))
    first = make_orbit(photo, config)
    assert make_orbit(photo, config) == first
    (weights / "unet.safetensors").write_bytes(b"other")
    second = make_orbit(photo, config)
    assert second != first
    shutil.rmtree(second)
    shutil.rmtree(weights)  # a training that is opened without them has its frames still
    assert make_orbit(photo, config) == first


def test_frames_that_are_not_cut_out_are_left_out(tmp_path: Path, flat: type[_Flat]) -> None:
    photo = _photo(tmp_path / "photo.png")
    flat.unclear = 1
    meta = json.loads((make_orbit(photo, _config()) / "transforms.json").read_text())
    assert [frame["file_path"][-7:] for frame in meta["frames"]] == ["000.png", "001.png", "002.png"]
    assert "1 of 4 frames are left out" in meta["generated_about"]
    flat.unclear = 2
    with pytest.raises(UserError, match=r"seed 1: of 4 frames 2 have a background of several colours.*another seed"):
        make_orbit(photo, _config(generator=OrbitGeneratorConfig(seed=1)))


def test_methods_that_are_not_made_for_one_photo_refuse_it(tmp_path: Path) -> None:
    photo = _photo(tmp_path / "photo.png")
    for method in (sparse_splatfacto, difix3d_splatfacto, threedsr_splatfacto, sparsefusion_splatfacto):
        config = copy.deepcopy(method.config)
        config.pipeline.datamanager.data = photo
        with pytest.raises(UserError, match=r"photo.png is one photo.*train hi3d-splatfacto"):
            presets.check(config)
    config = copy.deepcopy(hi3d_splatfacto.config)
    config.pipeline.datamanager.data = photo
    presets.check(config)


def test_a_frame_that_was_made_is_no_photo(tmp_path: Path) -> None:
    scene = TrainingScene(datamanager(_photo(tmp_path / "photo.png"), photo=_config()), ModelOfScene(4))
    guidance = Hi3DConfig(frames=4, side=SIDE).setup()
    guidance.setup(scene, FlatRenderer(), NoReferences(), Run(90, folder=tmp_path, tracker=Log()))
    camera = scene.unoptimized_camera(2)
    made = TrainView("orbit/002", camera, torch.ones(SIDE, SIDE, 3))
    record = guidance._record(made, 2, 45, 0.1, None)
    assert record.references == (scene.names()[0],)


def test_refined_frames_take_over_from_made_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photo alone is shown as it is; of the others nothing but refined ones is learnt any more."""
    given: list[Sequence[OrbitFrame]] = []

    class Refiner:
        factor = 2

        def start(self, frames: Sequence[OrbitFrame], seed: int = 0) -> State:
            given.append(frames)
            return {"side": torch.tensor(2 * frames[0].image.shape[0])}

        def steps_left(self, state: State) -> int:
            return 0

        def result(self, state: State) -> list[Tensor]:
            side = int(state["side"])
            return [torch.ones(side, side, 3)] * len(given[0])

    monkeypatch.setattr(OrbitRefinerConfig, "load", lambda self, device, flag_prefix="": Refiner())
    manager = datamanager(_photo(tmp_path / "photo.png"), photo=_config())
    guidance = Hi3DConfig(frames=4, side=SIDE).setup()
    scene = TrainingScene(manager, ModelOfScene(4))
    guidance.setup(scene, FlatRenderer(), NoReferences(), Run(90, folder=tmp_path, tracker=Log()))
    for step in range(45, 50):
        while guidance.before_step(step):
            pass
    assert [frame.photo is not None for frame in given[0]] == [True, False, False, False]
    drawn = [guidance.next_view(50, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert all(view is not None and view.key.startswith("orbit/") and view.alpha is not None for view in drawn)
    assert guidance.pool.get("orbit/000").photo == 0 and guidance.pool.get("orbit/001").photo is None
    view = guidance.pool.get("orbit/001")  # no photo says where the object ends on this side
    losses = guidance.losses({"accumulation": torch.zeros(2 * SIDE, 2 * SIDE, 1)}, view, {})
    assert view.confidence is None and losses["silhouette_loss"] > 0


# ---------------------------------------------------------------------- the command


def test_flags_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    photo = _photo(tmp_path / "photo.png")
    for arguments, message in (
        ({"photo": None}, "a photo or --prompt"),
        ({"prompt": "a mug", "text_weights": "x"}, "either a photo or --prompt"),
        ({"photo": None, "prompt": "a mug"}, "belong together"),
        ({"elevation": None}, "--elevation is missing.*30 where"),
        ({"elevation": 90.0}, "--elevation 90: -30 to 70"),
        ({"cut": (9, 9, 5, 5)}, "--cut 9 9 5 5.*LEFT TOP RIGHT BOTTOM"),
        ({"photo": None, "prompt": "a mug", "text_weights": str(tmp_path)}, "--text-weights.*model_index.json"),
    ):
        with pytest.raises(UserError, match=message):
            app.image_to_3d(**{"photo": photo, "output": tmp_path / "out", "elevation": 20.0, **arguments})  # type: ignore[arg-type]


def test_a_text_is_drawn_by_a_pipeline_of_a_folder(tmp_path: Path) -> None:
    folder = _write_pipeline(tmp_path)
    made = [picture_of("a mug", str(folder), "cpu", seed, side=32, steps=2) for seed in (1, 1, 2)]
    assert made[0].shape == (32, 32, 3) and made[0].min() >= 0 and made[0].max() <= 1
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"--text-weights .*safetensors"):  # pickles are not read
        picture_of("a mug", str(folder), "cpu", side=32, steps=2)


def _write_pipeline(folder: Path) -> Path:
    """A text-to-image pipeline of tiny random networks, as diffusers writes it."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    place = folder / "parts"
    place.mkdir()
    write_text_encoder(place, 16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = StableDiffusionPipeline(
            AutoencoderKL(**VAE),
            CLIPTextModel.from_pretrained(place / "text_encoder"),
            CLIPTokenizer.from_pretrained(place / "tokenizer"),
            UNet2DConditionModel(**UNET),
            DDIMScheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


class _Said:
    def describe(self) -> str:
        return ""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Flags of trainings, which are replaced, as all that follows them is."""
    flags_of: list[list[str]] = []

    def train(data: Path, output: Path, name: str, flags: list[str], method: str) -> None:
        flags_of.append(flags)
        config = app.config_of(output, name, method)
        config.parent.mkdir(parents=True)
        config.write_text("")
        if "9" in flags:
            raise UserError("interrupted")

    monkeypatch.setattr(app, "train", train)
    monkeypatch.setattr(app, "write_mesh", lambda *_, **__: _Said())
    monkeypatch.setattr(app, "turntable", lambda *_, **__: _Said())
    monkeypatch.setattr(app, "write_report", lambda config, page, **_: page)
    return flags_of


def test_the_command_keeps_what_is_trained(tmp_path: Path, trained: list[list[str]]) -> None:
    photo, output = _photo(tmp_path / "photo.png"), tmp_path / "out"
    made = app.image_to_3d(photo, output, 20.0, steps=50)
    assert trained == [["--pipeline.datamanager.photo.elevation", "20", "--max-num-iterations", "50"]]
    assert made.mesh == output / "mesh.glb" and Image.open(output / app.CUT_OUT).mode == "RGBA"
    app.image_to_3d(photo, output, 20.0, steps=50)
    assert len(trained) == 1
    app.image_to_3d(photo, output, 25.0, steps=50)
    app.image_to_3d(photo, output, 25.0, steps=50, force=True)
    assert [flags[1] for flags in trained] == ["20", "25", "25"]


def test_a_training_that_was_interrupted_is_not_kept(tmp_path: Path, trained: list[list[str]]) -> None:
    """Not even where an earlier one of the same photo was finished."""
    photo, output = _photo(tmp_path / "photo.png"), tmp_path / "out"
    app.image_to_3d(photo, output, 20.0, steps=50)
    with pytest.raises(UserError, match="interrupted"):
        app.image_to_3d(photo, output, 20.0, steps=9)
    app.image_to_3d(photo, output, 20.0, steps=50)
    assert [flags[3] for flags in trained] == ["50", "9", "50"]


@pytest.mark.parametrize("name", ["photo.png", "picture.png", "photo-cut.png", "object.png"])
def test_a_photo_in_the_output_stays_as_it_is(tmp_path: Path, trained: list[list[str]], name: str) -> None:
    photo = _photo(tmp_path / name, "RGB")
    before = photo.read_bytes()
    app.image_to_3d(photo, tmp_path, 20.0, cut=(10, 5, 110, 95))
    assert len(trained) == 1 and photo.read_bytes() == before
    make_orbit(photo, _config())
    assert photo.read_bytes() == before


def test_a_photo_is_not_written_over(tmp_path: Path, trained: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.shutil, "which", lambda name: None)  # no ffmpeg: the video is a GIF
    for name in (app.CUT_OUT, app.IN_BOX, "around.gif"):
        photo = _photo(tmp_path / "photo.png").rename(tmp_path / name)
        before = photo.read_bytes()
        with pytest.raises(UserError, match=rf"{name} would be written over: give another --output"):
            app.image_to_3d(tmp_path / "." / name, tmp_path, 20.0, cut=(10, 5, 110, 95))
        assert not trained and photo.read_bytes() == before
        photo.unlink()


def test_a_text_is_drawn_once(tmp_path: Path, trained: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, int]] = []

    def picture_of(text: str, weights: str, device: str, seed: int) -> Tensor:
        drawn.append((text, seed))
        return torch.from_numpy(np.asarray(Image.open(_photo(tmp_path / "p.png", "RGB"))) / 255).float()

    monkeypatch.setattr(app, "picture_of", picture_of)
    for text, seed, force in (("mug", 0, 0), ("mug", 0, 0), ("mug", 1, 0), ("pot", 1, 0), ("pot", 1, 1)):
        app.image_to_3d(None, tmp_path / "out", 20.0, prompt=text, text_weights="w", seed=seed, force=bool(force))
    assert drawn == [("mug", 0), ("mug", 1), ("pot", 1), ("pot", 1)]


def test_a_pipeline_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    class Pipeline:
        def set_progress_bar_config(self, **_: object) -> None: ...

        def to(self, device: str) -> Pipeline:
            raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(
        diffusers, "AutoPipelineForText2Image", SimpleNamespace(from_pretrained=lambda *_, **__: Pipeline())
    )
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match=r"--text-weights .* fails on cpu: out of memory; give a smaller one"):
        picture_of("a mug", str(tmp_path), "cpu")


def test_one_precision_of_a_pipeline_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = [
        *("model_index.json", "tokenizer/merges.txt", "unet/diffusion_pytorch_model.safetensors"),
        *("text_encoder/model-00001-of-00002.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"),
        *("text_encoder/model.fp16-00001-of-00002.safetensors", "unet/diffusion_pytorch_model.bin"),
    ]
    found: list[str] = []

    def snapshot_download(hub_id: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        from huggingface_hub.utils import filter_repo_objects

        found.extend(filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    download("some/pipeline", FILES)
    assert found == names[:4]


@pytest.mark.parametrize(("kind", "frames"), [("hi3d-stage1", None), ("sv3d-u", 21)])
def test_the_command_that_convert_prints_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str, frames: int | None
) -> None:
    monkeypatch.setattr("difix3d_ns.priors.published.video_checkpoint.convert_video", lambda *_: None)
    convert(tmp_path / "stage.pt", tmp_path / "out", base="b", kind=kind)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "--pipeline.datamanager.photo.elevation DEGREES" in said
    assert ("--pipeline.datamanager.photo.frames" in said) is (frames is not None)
    assert f"photo.frames {frames or ''}" in said or frames is None


def test_the_demo_compares_before_one_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A splat that is the object itself is right, whatever colour renders stand before."""
    background, made = torch.tensor([0.1, 0.2, 0.3]), app.Made(*[tmp_path / "config.yml"] * 4)
    monkeypatch.setattr(demo_object, "image_to_3d", lambda *_, **__: made)
    masks = [_cut()[..., 3:] * (torch.arange(SIDE)[:, None, None] < 30 + number) for number in range(5)]
    images = [torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(n)) for n in range(5)]
    images = [image * mask + 1 - mask for image, mask in zip(images, masks, strict=True)]
    orbit = ObjectOrbit(
        "random",
        object_cameras(demo_object.ELEVATION, SIDE, 5),
        images,
        masks,
        masks,
        Sphere((0, 0, 0), 0.5),
        np.eye(4),
    )
    monkeypatch.setattr(demo_object, "object_orbit", lambda *_, **__: orbit)
    numbers = itertools.count(1)

    def outputs(camera: object) -> dict[str, Tensor]:
        number = next(numbers)
        mask = orbit.masks[number]
        return {"rgb": orbit.images[number] * mask + background * (1 - mask), "background": background}

    pipeline = SimpleNamespace(
        scene=SimpleNamespace(cameras=lambda: orbit.cameras),
        model=SimpleNamespace(get_outputs_for_camera=outputs),
        device="cpu",
    )
    monkeypatch.setattr(demo_object, "opened", lambda *_: pipeline)
    results = demo_object.run_demo_object(tmp_path)
    assert results["hi3d"]["psnr"] > 60 > 30 > results["photo repeated"]["psnr"]
