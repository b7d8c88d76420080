"""Video diffusion models of orbits: their chain against its equations, and the contract of a generator of orbits."""

from __future__ import annotations

import math
import runpy
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import EulerDiscreteScheduler
from safetensors.torch import load, save
from torch import Tensor

from difix3d_ns.geometry.orbits import elevation_of
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.io.images import Picture, read_picture, write_picture
from difix3d_ns.priors.base import OrbitFrame, OrbitGenerator, State
from difix3d_ns.priors.hi3d_video import VideoOrbitRefiner, depth_condition
from difix3d_ns.priors.networks.diffusion import (
    anchoring,
    clean_estimate,
    closed_guidance,
    euler_step,
    karras_sigmas,
    rising_guidance,
    signal_of,
)
from difix3d_ns.priors.orbit_video import VideoOrbitGenerator
from difix3d_ns.priors.published.video_checkpoint import _SCHEDULER, convert_video
from difix3d_ns.priors.published.video_folder import read_video
from difix3d_ns.priors.published.video_kinds import KINDS
from difix3d_ns.priors.registry import available_priors, load_orbit_generator, load_orbit_refiner
from tests.unit.known_scenes import camera_at, picture
from tests.unit.official_video import (
    Autoencoder,
    VideoUNet,
    checkpoint,
    official,
    sinusoid,
    write_checkpoint,
    write_encoder,
)
from tests.unit.tiny_scene import look_at
from tests.unit.tiny_video import write_video

pytestmark = pytest.mark.usefixtures("one_thread")
LISTED = [700, 546, 422, 322, 244, 183, 135, 98.3, 70.5, 49.8, 34.5, 23.5, 15.6, 10.1, 6.35, 3.87, 2.27, 1.27]
LISTED += [0.678, 0.339, 0.157, 0.066, 0.025, 0.008, 0.002, 0]


def _around(azimuth: float, elevation: float) -> Pinhole:
    """A camera of 32 pixels that looks at the origin; radians, degrees."""
    pose = look_at((2 * math.cos(azimuth), 2 * math.sin(azimuth), 2 * math.tan(math.radians(elevation))))
    opencv = torch.as_tensor(pose) @ torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    return replace(camera_at(0, width=32, height=32), camera_to_world=opencv)


# ------------------------------------------------------------------ equations


def test_levels_of_noise_are_those_of_karras() -> None:
    sigmas = karras_sigmas(25, 0.002, 700)
    torch.testing.assert_close(sigmas, torch.tensor(LISTED).double(), rtol=0.01, atol=5e-4)
    scheduler = EulerDiscreteScheduler.from_config(_SCHEDULER)
    scheduler.set_timesteps(25)
    torch.testing.assert_close(scheduler.sigmas, sigmas.float(), rtol=1e-4, atol=1e-6)


def test_a_step_is_that_of_diffusers() -> None:
    scheduler = EulerDiscreteScheduler.from_config(_SCHEDULER)
    scheduler.set_timesteps(25)
    generator = torch.Generator().manual_seed(0)
    for place, time in enumerate(scheduler.timesteps):
        noisy, output = torch.randn(2, 1, 4, 3, 3, generator=generator)
        sigma, following = (float(level) for level in scheduler.sigmas[place : place + 2])
        noisy = noisy * (1 + sigma**2) ** 0.5
        scaled = noisy * signal_of(sigma) ** 0.5
        torch.testing.assert_close(scaled, scheduler.scale_model_input(noisy, time), rtol=1e-5, atol=1e-6)
        assert float(time) == pytest.approx(math.log(sigma) / 4, abs=1e-5)
        clean = clean_estimate(scaled, output, signal_of(sigma), "v_prediction")
        by_hand = noisy / (sigma**2 + 1) - sigma / math.sqrt(sigma**2 + 1) * output
        torch.testing.assert_close(clean, by_hand, rtol=1e-5, atol=1e-5)
        expected = scheduler.step(output, time, noisy).prev_sample
        torch.testing.assert_close(euler_step(noisy, clean, sigma, following), expected, rtol=1e-4, atol=1e-3)


def test_anchoring_falls_as_published() -> None:
    shares = [anchoring(step / 25) for step in (0, 1, 2, 3, 5, 8, 12, 16, 24)]
    assert shares == pytest.approx([1, 0.984, 0.938, 0.866, 0.67, 0.36, 0.10, 0.015, 7e-5], rel=0.1)


def test_guidance_of_frames() -> None:
    assert rising_guidance(16, 2.5).tolist() == pytest.approx([1 + 1.5 * k / 15 for k in range(16)])
    closed = closed_guidance(16, 2.5)
    assert closed[0] == 1 and closed[8] == 2.5 and torch.allclose(closed[1:], closed[1:].flip(0))
    repeated = closed_guidance(21, 2.5, repeats=True)
    assert repeated[0] == repeated[20] == 1 and repeated[10] == 2.5 and repeated[5] == 1.75


def test_depth_is_inverted_normalised_and_put_into_channels() -> None:
    depth = torch.full((32, 32, 1), 4.0)
    depth[:, 16:] = 2.0
    depth[:4] = 0
    found = depth_condition(depth, 64, 64)
    assert found.shape == (1, 9, 8, 8)
    whole = F.pixel_shuffle(found, 3)[0, 0]  # [24, 24]
    assert whole[8:, :10].sub(0.5).abs().max() < 1e-5 and whole[8:, 14:].sub(1).abs().max() < 1e-5
    assert whole[:2].abs().max() < 1e-5
    marked = torch.zeros(24, 24)
    marked[3, 7] = 1  # row 1 of latents and row 0 inside, column 2 and column 1 inside
    assert F.pixel_unshuffle(marked[None, None], 3)[0, 1, 1, 2] == 1


def test_elevation_of_cameras() -> None:
    cameras = [_around(azimuth, 20) for azimuth in (0, 1, 2.5, 4)]
    assert elevation_of(cameras) == pytest.approx(20, abs=0.5)


# ------------------------------------------------------------------ the whole chain against the official one


def _denoised(
    unet: VideoUNet,
    latents: Tensor,
    condition: Tensor,
    context: Tensor,
    vector: Tensor,
    guidance: Tensor,
    **hold: Tensor,
) -> Tensor:
    """Hi3D's loop, with the scalings of Karras et al. as their table has them."""
    steps = 3
    ramp = [(700 ** (1 / 7) + k / (steps - 1) * (0.002 ** (1 / 7) - 700 ** (1 / 7))) ** 7 for k in range(steps)]
    noise, x = latents, latents * math.sqrt(1 + ramp[0] ** 2)
    for step, (sigma, following) in enumerate(zip(ramp, [*ramp[1:], 0.0], strict=True)):
        if hold:
            share = (0.5 * (1 + math.cos(step / steps))) ** 40
            x = x * (1 - share) + (noise * sigma + hold["start"]) * share
        root = math.sqrt(sigma**2 + 1)
        both = [
            x / root**2
            - sigma / root * unet(torch.cat([x / root, kept * condition], 1), math.log(sigma) / 4, vector, c)
            for kept, c in ((1, context), (0, 0 * context))
        ]
        clean = both[1] + guidance[:, None, None, None] * (both[0] - both[1])
        x = x + (x - clean) / sigma * (following - sigma)
    return x


def _seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _pixels(pictures: Tensor) -> Tensor:
    """[3, H, W] in [0, 1], as CLIP sees it."""
    small = F.interpolate(pictures[None], (224, 224), mode="bicubic", antialias=True)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    return (small - mean) / torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


@pytest.fixture(scope="module")
def stage2(tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoUNet, Autoencoder, Path]:
    place = tmp_path_factory.mktemp("stage2")
    unet, autoencoder = official(17, 512)
    file = write_checkpoint(place / "second_stage.pt", checkpoint(unet, autoencoder))
    base = write_encoder(place / "svd")
    return unet, autoencoder, convert_video(file, "hi3d-stage2", place / "out", str(base), torch.float32)


def test_the_second_stage_is_the_official_loop(stage2: tuple[VideoUNet, Autoencoder, Path]) -> None:
    unet, autoencoder, folder = stage2
    parts = read_video(folder, from_picture=False)
    refiner = VideoOrbitRefiner(parts, torch.device("cpu"), steps=3)
    given = [
        OrbitFrame(
            picture(32, 32, number).half().float(),
            _around(azimuth, 30),
            1 + picture(64, 64, number + 5)[..., :1],
        )
        for number, azimuth in enumerate((0, 2, 4))
    ]
    state = refiner.start(given, seed=7)
    while refiner.steps_left(state):
        state = refiner.step(state)
    pictures = torch.stack([resampled(frame.image, 64, 64).permute(2, 0, 1) for frame in given]).half().float()
    signs = 2 * pictures - 1
    noise = torch.cat([_seeded(-1 - 4096 * 7 - number, 1, 3, 64, 64) for number in range(3)])
    shown = autoencoder.encode(signs + 0.02 * noise)
    depths = []
    for frame in given:
        assert frame.depth is not None
        inverse = F.interpolate(1 / frame.depth.permute(2, 0, 1)[None], (24, 24), mode="bilinear", antialias=True)
        inverse = (inverse - inverse.min()) / (inverse.max() - inverse.min())
        depths.append(inverse.view(1, 8, 3, 8, 3).permute(0, 2, 4, 1, 3).reshape(1, 9, 8, 8))
    vector = torch.cat([sinusoid(torch.tensor([30.0]), 256)[0], sinusoid(torch.tensor([0.02]), 256)[0]])
    context = parts.encoder(_pixels(pictures[0])).image_embeds
    latents = _denoised(
        unet,
        _seeded(7, 3, 4, 8, 8),
        torch.cat([torch.cat(depths).half().float(), shown], 1),
        context,
        vector,
        torch.tensor([1, 1.5, 2.0]),
        start=0.18215 * autoencoder.encode(signs),
    )
    torch.testing.assert_close(state["noisy"], latents, atol=2e-4, rtol=1e-4)
    expected = (autoencoder.decode(latents / 0.18215) / 2 + 0.5).clamp(0, 1)
    found = torch.stack(refiner.result(state)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert expected.std() > 0.05


def test_the_first_stage_is_the_official_loop(tmp_path: Path) -> None:
    unet, autoencoder = official(8, 768)
    file = write_checkpoint(tmp_path / "first_stage.pt", checkpoint(unet, autoencoder))
    folder = convert_video(file, "hi3d-stage1", tmp_path / "out", str(write_encoder(tmp_path)), torch.float32)
    parts = read_video(folder, from_picture=True)
    parts = replace(parts, kind=replace(parts.kind, frames=4))
    generator = VideoOrbitGenerator(parts, torch.device("cpu"), steps=3, side=64, score=6.5)
    given = picture(64, 64, 2).half().float()
    state = generator.start(_cut_out(given), -9.8, 4, seed=3)
    while generator.steps_left(state) > 4:  # but for decoding
        state = generator.step(state)
    planes = given.permute(2, 0, 1)[None]
    shown = autoencoder.encode(2 * planes - 1 + 0.02 * _seeded(-1 - 4096 * 3, 1, 3, 64, 64))
    numbers = [sinusoid(torch.tensor([value]), size)[0] for value, size in ((650.0, 255), (-10.0, 256), (0.02, 256))]
    latents = _denoised(
        unet,
        _seeded(3, 4, 4, 8, 8),
        shown.expand(4, -1, -1, -1),
        parts.encoder(_pixels(planes[0])).image_embeds,
        torch.cat([torch.tensor([6.5]), *numbers]),
        torch.tensor([1, 1.5, 2.0, 2.5]),
    )
    torch.testing.assert_close(state["noisy"], latents, atol=2e-4, rtol=1e-4)


# ------------------------------------------------------------------ the contract


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    kinds = ("hi3d-stage1", "sv3d-u")
    return {kind: str(write_video(tmp_path_factory.mktemp(kind), kind)) for kind in kinds}


def _cut_out(image: Tensor) -> Tensor:
    """A photograph with alpha, opaque."""
    return torch.cat([image, torch.ones_like(image[..., :1])], -1)


COUNT = {"hi3d-stage1": 16, "sv3d-u": 21}


def _finished(generator: OrbitGenerator, state: State) -> State:
    while left := generator.steps_left(state):
        before = {name: values.clone() for name, values in state.items()}
        following = generator.step(state)
        assert generator.steps_left(following) == left - 1
        assert all(torch.equal(state[name], values) for name, values in before.items())
        state = following
    return state


@pytest.mark.parametrize("kind", COUNT)
def test_it_makes_an_orbit(kind: str, weights: Mapping[str, str]) -> None:
    generator = load_orbit_generator("orbit-video", weights[kind], options=(("side", 64),))
    globally = torch.get_rng_state()
    given = torch.cat([picture(80, 80, 1), torch.ones(80, 80, 1)], -1)
    given[:20, :, 3] = 0
    state = generator.start(given, 20, COUNT[kind], seed=1)
    for _ in range(generator.steps_left(state) // 2):
        state = generator.step(state)
    saved = load(save({name: values.contiguous() for name, values in state.items()}))
    one, again = (generator.result(_finished(generator, way)) for way in (state, saved))
    assert len(one) == COUNT[kind] and {tuple(frame.image.shape) for frame in one} == {(64, 64, 3)}
    for frame in one:
        assert frame.image.dtype == torch.float32 and frame.image.min() >= 0 and frame.image.max() <= 1
        assert frame.alpha.shape == (64, 64, 1) and frame.alpha.min() >= 0 and frame.alpha.max() <= 1
    assert all(torch.equal(a.image, b.image) for a, b in zip(one, again, strict=True))
    assert (one[0].image - resampled(given, 64, 64)[..., :3]).abs().max() < 1e-3
    assert one[0].alpha[:12].max() < 0.1 and one[0].alpha[20:].min() > 0.9
    assert torch.equal(torch.get_rng_state(), globally)
    state, other = (generator.step(generator.start(given, 20, COUNT[kind], seed=seed)) for seed in (1, 2))
    assert not torch.equal(generator.step(state)["noisy"], generator.step(other)["noisy"])


def test_elevation_counts_where_it_is_needed(weights: Mapping[str, str]) -> None:
    for kind, count in COUNT.items():
        generator = load_orbit_generator("orbit-video", weights[kind], options=(("side", 64),))
        vectors = [generator.start(_cut_out(picture(64, 64, 1)), degrees, count)["vector"] for degrees in (0, 30)]
        assert torch.equal(*vectors) is (kind == "sv3d-u") and len(vectors[0]) == KINDS[kind].vector


def test_guidance_is_as_published_or_closed(weights: Mapping[str, str]) -> None:
    def guidance(kind: str, *options: tuple[str, str]) -> Tensor:
        generator = load_orbit_generator("orbit-video", weights[kind], options=(("side", 64), *options))
        return generator.start(_cut_out(picture(64, 64, 1)), 0, COUNT[kind])["guidance"]

    assert torch.equal(guidance("sv3d-u"), closed_guidance(21, 2.5, repeats=True))
    assert torch.equal(guidance("hi3d-stage1"), rising_guidance(16, 2.5))
    assert torch.equal(guidance("hi3d-stage1", ("guidance", "closed")), closed_guidance(16, 2.5))


def test_numbers_that_are_not_finite_are_said(weights: Mapping[str, str]) -> None:
    parts = read_video(Path(weights["sv3d-u"]), from_picture=True)
    parts.unet.conv_out.bias.data[0] = torch.inf
    generator = VideoOrbitGenerator(parts, torch.device("cpu"), side=64)
    state = generator.step(generator.start(_cut_out(picture(64, 64, 1)), 0, 21))
    with pytest.raises(RuntimeError, match="no finite numbers in float32; use bfloat16 or float32"):
        generator.step(state)


def test_what_it_cannot_take_is_refused(weights: Mapping[str, str], tmp_path: Path) -> None:
    assert "orbit-video" in available_priors(OrbitGenerator)
    assert VideoOrbitGenerator.about == "What the photo does not show is made up; another seed makes another object."
    generator = load_orbit_generator("orbit-video", weights["sv3d-u"], options=(("side", 64),))
    with pytest.raises(ValueError, match=r"a square photo with alpha is needed, not \(64, 64, 3\)"):
        generator.start(torch.zeros(64, 64, 3), 0, 21)
    with pytest.raises(ValueError, match="elevation 95"):
        generator.start(torch.zeros(64, 64, 4), 95, 21)
    with pytest.raises(ValueError, match="16 pictures: this model makes 21"):
        generator.start(torch.zeros(64, 64, 4), 0, 16)
    with pytest.raises(ValueError, match="a multiple of 64"):
        load_orbit_generator("orbit-video", weights["sv3d-u"], options=(("side", 100),))
    for load_prior, name in ((load_orbit_generator, "orbit-video"), (load_orbit_refiner, "hi3d-video")):
        with pytest.raises(FileNotFoundError, match="no weights of its own: give a folder that difix3d convert --kind"):
            load_prior(name)
        with pytest.raises(FileNotFoundError, match="no such folder; give a folder"):
            load_prior(name, str(tmp_path / "none"))
        with pytest.raises(FileNotFoundError, match="holds no model of orbits"):
            load_prior(name, str(tmp_path))
    with pytest.raises(RuntimeError, match="another sort: one of hi3d-stage2 is needed"):
        load_orbit_refiner("hi3d-video", weights["sv3d-u"])


def test_the_example_of_the_page_runs(
    tmp_path: Path, weights: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(__file__).parents[2] / "docs" / "examples" / "make_orbit.py"
    write_picture(tmp_path / "photo.png", Picture(picture(64, 64, 1), torch.ones(64, 64, 1)))
    small = partial(load_orbit_generator, options=(("side", 64),))
    monkeypatch.setattr("difix3d_ns.priors.registry.load_orbit_generator", small)
    given = [str(tmp_path / "photo.png"), str(tmp_path / "frames"), weights["hi3d-stage1"], "20", "16"]
    monkeypatch.setattr(sys, "argv", [str(script), *given])
    runpy.run_path(str(script), run_name="__main__")
    assert [file.name for file in sorted((tmp_path / "frames").iterdir())] == [f"{k:03d}.png" for k in range(16)]
    assert (read_picture(tmp_path / "frames" / "000.png").image - picture(64, 64, 1)).abs().max() < 5e-3
    assert "docs/examples/make_orbit.py" in (script.parents[1] / "hi3d.md").read_text()
