"""Procedural objects photographed from any side, and the network that makes a volume of one photo of them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from difix3d_ns.data.curate import curate
from difix3d_ns.data.object_orbits import object_orbit
from difix3d_ns.data.object_sides import MAX_DRAWN, MIN_DRAWN, SIDES, ObjectSides, sides_capture
from difix3d_ns.data.options import CurationOptions
from difix3d_ns.data.procedural.worlds import training_solid, training_world
from difix3d_ns.data.shards import Sample, find_shards, read_shards
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.object_frame import FOCAL, RADIUS, object_cameras
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.priors.base import ObjectFrame
from difix3d_ns.priors.networks.volume_net import KNOWN, SIDE, Elevation, Field, VolumeNet
from difix3d_ns.priors.photo_volume import REACH, PhotoVolumeOrbitGenerator, ray_depths
from difix3d_ns.priors.registry import load_orbit_generator
from difix3d_ns.training.prior_recipe import Phase, Recipe, load_recipe
from difix3d_ns.training.systems.photo_volume import PhotoVolume
from difix3d_ns.training.train import train
from tests.pretended_cuda import pretended_cuda

pytestmark = pytest.mark.usefixtures("one_thread")
_DEPTHS = 12
_NET = {"widths": [16, 16, 16], "depths": _DEPTHS, "blocks": 1, "heads": 2}
_BALL = 0.4  # radius


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two objects, which share their textures."""
    output = tmp_path_factory.mktemp("sides")
    options = CurationOptions(strategies=("sides",), split="train", long_side=SIDE)
    reports = curate(["sides-seed:3", "sides-seed:4"], output, options)
    assert {name: report.samples for name, report in reports.items()} == {
        "sides_00003": {"sides": 1},
        "sides_00004": {"sides": 1},
    }
    return output


@pytest.fixture(scope="module")
def samples(shards: Path) -> list[Sample]:
    return list(read_shards(find_shards(shards, "train")))


def _recipe(steps: int = 6) -> Recipe:
    return Recipe(
        system="photo_volume",
        network={"net": _NET},
        phases=(Phase(("net",), steps=steps, learning_rate=2e-3, watch="generated"),),
        losses={"l1": 1.0},
        batch=2,
        ema=0.9,
        decides="none",
        precision="float32",
    )


# ---------------------------------------------------------------------- objects


@pytest.mark.parametrize("seed", range(4))
def test_a_box_around_a_solid_is_exact(seed: int) -> None:
    """No point of the surface is outside of it, and each of its sides is touched."""
    solid, rng = training_solid(seed), np.random.default_rng(0)
    low, high = solid.bounds()
    for part in solid.parts:
        lowest, highest = part.bounds()
        points = np.stack([part.surface_point(rng) for _ in range(300)])
        assert (points >= lowest - 1e-9).all() and (points <= highest + 1e-9).all()
        assert (lowest >= low - 1e-9).all() and (highest <= high + 1e-9).all()
        assert (
            np.abs(part.distance((lowest + highest) / 2 + np.diag(highest - lowest) / 2)).max()
            < np.ptp(part.bounds(), axis=0).max()
        )
    assert np.isclose(low, np.min([part.bounds()[0] for part in solid.parts], axis=0)).all()


def test_a_solid_is_that_of_its_world() -> None:
    world, places = training_world(5, "object"), np.random.default_rng(0).normal(0, 0.4, (50, 3))
    assert world.solid is not None
    assert np.array_equal(world.solid.distance(places), training_solid(5).distance(places))


def test_shared_textures_are_few_and_leave_the_shape() -> None:
    one, other = (training_world(seed, "object", 1) for seed in (5, 5))
    assert np.array_equal(one.scene.textures, other.scene.textures) and np.array_equal(one.scene.sky, other.scene.sky)
    assert one.scene.shapes.shape == training_world(5, "object").scene.shapes.shape
    textures = [training_world(seed, "object", 1).scene.textures for seed in range(6, 10)]
    distinct = {texture.tobytes() for found in textures for texture in found}
    assert len(distinct) < sum(map(len, textures))


def test_photos_are_of_the_object_that_is_said() -> None:
    """What they show lies on its surface, from different elevations, before white."""
    capture, drawn = sides_capture(3, 32), ObjectSides.drawn(3, 32)
    assert len(capture.images) == SIDES == len(drawn.elevations)
    assert min(drawn.elevations) >= MIN_DRAWN and max(drawn.elevations) <= MAX_DRAWN
    assert max(drawn.elevations) - min(drawn.elevations) > 5
    assert capture.depths is not None and capture.masks is not None
    for image, mask, depth, camera in zip(capture.images, capture.masks, capture.depths, drawn.cameras, strict=True):
        places = unproject(depth.double(), camera)[depth[..., 0] > 0].numpy()
        assert len(places) > 100 and np.abs(drawn.distance(places)).max() < 1e-5
        assert (image[mask[..., 0] == 0] == 1).all()


def test_half_of_the_objects_fill_their_first_photo() -> None:
    filled, boxes = [], []
    for seed in range(12):
        drawn = ObjectSides.drawn(seed, 32)
        axis = np.linspace(-0.8, 0.8, 24)
        places = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
        places = places[drawn.distance(places) < 0]
        seen = torch.from_numpy(places) @ drawn.cameras[0].world_to_camera[:3, :3].T
        seen = seen + drawn.cameras[0].world_to_camera[:3, 3]
        pixels = FOCAL * seen[:, :2] / seen[:, 2:]
        middle = (pixels.amax(0) + pixels.amin(0)).abs().max()
        filled.append(bool(middle < 0.06) and 0.6 < float((pixels.amax(0) - pixels.amin(0)).max()) < 0.85)
        boxes.append(np.isclose(float(np.ptp(drawn.solid.bounds(), axis=0).max()), drawn.size))
    assert 2 <= sum(boxes) <= 10
    assert all(one or other for one, other in zip(filled, boxes, strict=True))


def test_an_orbit_knows_what_its_object_is() -> None:
    orbit = object_orbit(7201, 24, 20.0, 3)
    for depth, camera in zip(orbit.depths, orbit.cameras, strict=True):
        places = unproject(depth.double(), camera)[depth[..., 0] > 0].numpy()
        assert np.abs(orbit.distance(places)).max() < 1e-5


# ---------------------------------------------------------------------- training


def test_what_is_inside_is_known_exactly(samples: list[Sample]) -> None:
    system = PhotoVolume(_recipe())
    prepared = system.prepare(samples[0])
    drawn = ObjectSides.drawn(int(samples[0].provenance["object"]), SIDE)
    camera, mask = drawn.cameras[0], prepared.masks[0]
    way = unproject(torch.ones(SIDE, SIDE, 1, dtype=torch.float64), camera)[mask] - camera.position
    for number, depth in enumerate(ray_depths(_DEPTHS).tolist()):
        distance = drawn.distance((camera.position + depth * way).numpy())
        shares = prepared.inside[: len(way), number].numpy()
        assert (shares[distance < -REACH / _DEPTHS - 1e-6] == 255).all()
        assert (shares[distance > REACH / _DEPTHS + 1e-6] == 0).all()
    assert 0.05 < float((prepared.inside > 127).float().mean()) < 0.9


def test_a_draw_is_in_the_photos_own_frame(samples: list[Sample]) -> None:
    """Places of surfaces are where the volume says that something is, mirrored or not; most are hidden."""
    system = PhotoVolume(_recipe())
    prepared = [system.prepare(sample) for sample in samples]
    phase = _recipe().phases[0]
    found = [system.draw(prepared, phase, Generator().manual_seed(seed)) for seed in range(4)]
    for batch in found:
        assert batch.pictures.shape == (2, KNOWN, SIDE, SIDE) and batch.colours.shape == (2, 3, 1024, 1)
        near = nn.functional.max_pool3d(batch.inside[:, None], 3, 1, 1)
        at = nn.functional.grid_sample(near, batch.places[:, :, None, None], align_corners=False)[:, 0, :, 0, 0]
        assert float((at > 0.3).float().mean()) > 0.9
        assert ((batch.pictures[:, :3] == 0) | (batch.pictures[:, 3:4] > 0)).all()
    again = system.draw(prepared, phase, Generator().manual_seed(0))
    assert all(torch.equal(one, other) for one, other in zip(again, found[0], strict=True))
    assert not torch.equal(found[0].pictures, found[1].pictures)


def test_a_few_steps_train_it_and_resume(shards: Path, samples: list[Sample], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(_recipe(), whole, shards, device="cpu")
    assert train(_recipe(), parts, shards, device="cpu", stop_after=3) == {}
    train(_recipe(), parts, shards, device="cpu")
    assert (whole / "weights.safetensors").read_bytes() == (parts / "weights.safetensors").read_bytes()
    generator = load_orbit_generator("photo-volume", str(whole))
    photo = torch.cat([samples[0].truth[:SIDE], (samples[0].true_depth[:SIDE] > 0).float()], -1)  # type: ignore[index]
    state = generator.start(photo, 20.0, 3)
    while generator.steps_left(state):
        state = generator.step(state)
    assert all(frame.image.isfinite().all() for frame in generator.result(state))
    system = PhotoVolume(_recipe())
    picture = system.pictures(system.build())["generated"](samples[0])
    assert picture.shape == samples[0].truth.shape and picture.min() >= 0 and picture.max() <= 1


def test_the_recipe_in_the_package_is_of_this_network() -> None:
    recipe = load_recipe("photo_volume")
    net = PhotoVolume(recipe).build()
    assert sum(parameter.numel() for parameter in net.parameters()) * 2 < 3 * 2**20


def test_samples_of_others_are_refused(samples: list[Sample]) -> None:
    sample = samples[0]._replace(provenance={})
    with pytest.raises(UserError, match=r"sides:N with --long-side 64"):
        PhotoVolume(_recipe()).prepare(sample)


# ---------------------------------------------------------------------- frames


class _Ball(nn.Module):
    """A network that finds a ball, red before the middle and green behind it."""

    def forward(self, picture: Tensor, elevation: Tensor) -> tuple[Field, Elevation]:
        camera = object_cameras(float(elevation[0]), SIDE, 1, dtype=torch.float32)[0]
        way = unproject(torch.ones(SIDE, SIDE, 1), camera) - camera.position
        places = camera.position + way * ray_depths(48)[:, None, None, None]
        solid = (_BALL - places.norm(dim=-1)) * 60
        colours = torch.zeros(3, 24, 32, 32)
        colours[0, :12], colours[1, 12:] = 8, 8
        colours[1, :12], colours[0, 12:], colours[2] = -8, -8, -8
        count = len(picture)
        return Field(*(one.expand(count, *one.shape) for one in (solid, colours))), Elevation(
            torch.zeros(count), torch.zeros(count)
        )


def _frames(photo: Tensor, elevation: float, count: int) -> list[ObjectFrame]:
    generator = PhotoVolumeOrbitGenerator(_Ball(), torch.device("cpu"), threshold=0.0)  # type: ignore[arg-type]
    state = generator.start(photo, elevation, count)
    while generator.steps_left(state):
        state = generator.step(state)
    return generator.result(state)


def _blue_ball(side: int) -> Tensor:
    """A photo [S, S, 4] of the ball, all blue."""
    axis = (torch.arange(side) + 0.5) / side - 0.5
    reach = FOCAL * _BALL / (RADIUS**2 - _BALL**2) ** 0.5
    solid = (axis[:, None] ** 2 + axis**2 < reach**2).float()[..., None]
    return torch.cat([torch.tensor([0.0, 0, 1]).expand(side, side, 3) * solid, solid], -1)


@pytest.mark.parametrize("elevation", [0.0, 30.0])
def test_a_volume_is_seen_from_all_sides(elevation: float) -> None:
    """A ball is a ball from everywhere; what the photo shows is its, and the back is the network's."""
    photo = _blue_ball(80)
    frames = _frames(photo, elevation, 4)
    own = photo[..., 3:] > 0.5
    middle = slice(36, 44)
    for frame, camera in zip(frames, object_cameras(elevation, 80, 4, dtype=torch.float32), strict=True):
        solid = frame.alpha > 0.5
        assert float((solid & own).sum() / (solid | own).sum()) > 0.93
        assert frame.depth is not None
        inner = (frame.depth > 0)[..., 0]
        distance = unproject(frame.depth, camera)[inner].norm(dim=-1)
        assert float((distance - _BALL).abs().mean()) < 0.02
    back = frames[2].image[middle, middle].mean((0, 1))
    assert back[1] > 0.8 and back[2] < 0.2
    beside = frames[1].image[30:50]
    halves = beside[:, 24:30].mean((0, 1)), beside[:, 50:56].mean((0, 1))
    blue, green = sorted(halves, key=lambda colour: float(colour[1]))
    assert blue[2] > 0.6 and green[1] > 0.6


def test_a_mirrored_photo_makes_a_mirrored_volume() -> None:
    torch.manual_seed(0)
    generator = PhotoVolumeOrbitGenerator(VolumeNet(**_NET).eval(), torch.device("cpu"))  # type: ignore[arg-type]
    photo = torch.rand(SIDE, SIDE, 4)
    photo[..., 3] = (_blue_ball(SIDE)[..., 3] > 0.5) & (torch.arange(SIDE) < 40)
    camera = object_cameras(10.0, SIDE, 1, dtype=torch.float32)[0]
    one, other = (generator.shape(picture, 10.0, camera)["volume"] for picture in (photo, photo.flip(1)))
    assert float((one.flip(1) - other).abs().median()) < 1e-3  # y is the photo's right; pixels that are as near differ
    assert float((one - other).abs().mean()) > 0.1


def test_a_device_gives_what_the_processor_gives() -> None:
    torch.manual_seed(0)
    net, photo = VolumeNet(**_NET).eval(), _blue_ball(SIDE)  # type: ignore[arg-type]

    def made(generator: PhotoVolumeOrbitGenerator) -> list[ObjectFrame]:
        state = generator.start(photo, 10.0, 3)
        while generator.steps_left(state):
            state = generator.step(state)
            assert all(not values.is_cuda for values in state.values())  # states stay on the host
        return generator.result(state)

    expected = made(PhotoVolumeOrbitGenerator(net, torch.device("cpu")))
    with pretended_cuda():
        found = made(PhotoVolumeOrbitGenerator(copy.deepcopy(net).to("cuda"), torch.device("cuda")))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.image, other.image, atol=1e-4, rtol=0)


def test_an_elevation_and_a_doubt_are_told() -> None:
    torch.manual_seed(0)
    generator = PhotoVolumeOrbitGenerator(VolumeNet(**_NET).eval(), torch.device("cpu"))  # type: ignore[arg-type]
    degrees, error = generator.estimated_elevation(_blue_ball(SIDE))
    assert -90 < degrees < 90 and error > 0
    sure = PhotoVolumeOrbitGenerator(_Ball(), torch.device("cpu"))  # type: ignore[arg-type]
    assert 0 <= sure.doubt(_blue_ball(SIDE), 10.0) < generator.doubt(_blue_ball(SIDE), 10.0) <= 1
