"""Published upscalers: tiny folders written by diffusers, compared with its own pipelines."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionUpscalePipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from difix3d_ns import cli
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resampling import back_project_to_agree, resample
from difix3d_ns.priors.base import State, Upscaler
from difix3d_ns.priors.latent import LatentUpscaler, load
from difix3d_ns.priors.networks.latent_autoencoder import LatentAutoencoder
from difix3d_ns.priors.networks.window_tiles import average_tiles
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.published.pickled_folder import convert_folder
from difix3d_ns.priors.published.upscaler_folder import read_upscaler
from difix3d_ns.priors.registry import available_priors, load_upscaler
from tests.unit.official_upscalers import averaged, decoded, estimates, ldm, padded, photograph, stable, write

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
LEVELS = (999, 666, 333, 0)
MULTIPLE = 4  # of the tiny UNets


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"ldm": ldm(), "stable": stable(tmp_path_factory.mktemp("text") / "text")}


@pytest.fixture(scope="module")
def originals(pipelines: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("folders")
    return {name: write(pipeline, place / name) for name, pipeline in pipelines.items()}


@pytest.fixture
def folders(originals: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies to spoil."""
    return {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in originals.items()}


def finished(upscaler: LatentUpscaler, state: State) -> State:
    while upscaler.steps_left(state):
        state = upscaler.step(state)
    return state


def of(folder: Path, **options: Any) -> LatentUpscaler:
    return load(str(folder), dtype=torch.float32, **options)


def first_state(upscaler: LatentUpscaler, low: Tensor, factor: float = 4, seed: int = 3) -> State:
    size = (round(low.shape[0] * factor), round(low.shape[1] * factor))
    return upscaler.start([low], [size], [seed])


def planes(picture: Tensor) -> Tensor:
    return picture.permute(2, 0, 1)[None]


@pytest.mark.parametrize("name", ["ldm", "stable"])
@pytest.mark.parametrize(("height", "width"), [(12, 16), (9, 13), (7, 22)])
def test_each_rounds_estimate_is_the_pipelines(
    pipelines: dict[str, Any], originals: dict[str, Path], name: str, height: int, width: int
) -> None:
    low, seed = photograph(height, width), 3
    upscaler = of(originals[name], back_projection=False)
    state = first_state(upscaler, low, seed=seed)
    shown = padded(planes(low), MULTIPLE)
    for round, level in enumerate(LEVELS):
        latent = state["noisy"].float()
        state = finished(upscaler, state)
        expected, picture = estimates(pipelines[name], latent, level, shown, seed)
        torch.testing.assert_close(state["clean"].float(), expected, rtol=2e-3, atol=2e-3)  # kept as float16
        (high,) = upscaler.result(state)
        assert high.shape == (4 * height, 4 * width, 3) and picture.std() > 0.05
        # Of what is kept, since rounding may lead to another code, and that to another picture.
        picture = decoded(pipelines[name], state["clean"].float())[..., : 4 * height, : 4 * width]
        torch.testing.assert_close(planes(high), picture, rtol=0, atol=1e-4)
        if round < 3:
            state = upscaler.advance(state, [photograph(4 * height, 4 * width, round)])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_what_the_network_predicts_is_in_the_folder(tmp_path: Path, prediction: str) -> None:
    pipeline = ldm(prediction=prediction)
    write(pipeline, tmp_path / "ldm")
    upscaler, low = of(tmp_path / "ldm"), photograph(8, 10)
    state = finished(upscaler, first_state(upscaler, low))
    noisy, t = state["noisy"].float(), torch.tensor(999)
    output = pipeline.unet(torch.cat([noisy, padded(planes(low), MULTIPLE) * 2 - 1], 1), t).sample
    pipeline.scheduler.set_timesteps(1)
    expected = pipeline.scheduler.step(output, 999, noisy).pred_original_sample
    torch.testing.assert_close(state["clean"].float(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["ldm", "stable"])
def test_the_first_latent_and_the_next_ones(pipelines: dict[str, Any], originals: dict[str, Path], name: str) -> None:
    pipeline, seed, low = pipelines[name], 5, photograph(10, 13)
    codes = name == "ldm"

    def encoded(picture: Tensor) -> Tensor:
        pixels = padded(picture, 4 * MULTIPLE) * 2 - 1
        if codes:
            return pipeline.vqvae.encode(pixels).latents
        return pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor

    upscaler = of(originals[name])
    state = first_state(upscaler, low, seed=seed)
    enlarged = torch.nn.functional.interpolate(
        planes(low), scale_factor=4, mode="bicubic", align_corners=False, antialias=True
    )
    with torch.no_grad():
        start = encoded(enlarged.clamp(0, 1))
        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(4 * seed))
        expected = pipeline.scheduler.add_noise(start, noise, torch.tensor([999]))
        torch.testing.assert_close(state["noisy"].float(), expected, rtol=2e-3, atol=2e-3)
        render = photograph(40, 52, 9)
        state = finished(upscaler, state)
        abar = pipeline.scheduler.alphas_cumprod
        noisy, clean = state["noisy"].float(), state["clean"].float()
        noise = (noisy - abar[999].sqrt() * clean) / (1 - abar[999]).sqrt()
        expected = abar[666].sqrt() * encoded(planes(render)) + (1 - abar[666]).sqrt() * noise
    torch.testing.assert_close(upscaler.advance(state, [render])["noisy"].float(), expected, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("name", ["ldm", "stable"])
@pytest.mark.parametrize("factor", [4, 3, 2, 1.5])
def test_smaller_factors_are_reduced_and_agree_with_the_photo(
    originals: dict[str, Path], name: str, factor: float
) -> None:
    upscaler, low = of(originals[name]), photograph(10, 14)
    assert isinstance(load_upscaler("latent", str(originals[name])).rounds, int)
    state = finished(upscaler, first_state(upscaler, low, factor))
    (high,) = upscaler.result(state)
    assert high.shape == (round(10 * factor), round(14 * factor), 3) and high.isfinite().all()
    inner = of(originals[name], back_projection=False).result(first_four(upscaler, state))[0]
    expected = back_project_to_agree(resample(planes(inner), *high.shape[:2]).clamp(0, 1), planes(low))
    torch.testing.assert_close(planes(high), expected, atol=1e-4, rtol=0)
    assert high.min() >= 0 and high.max() <= 1
    assert (resample(planes(high), 10, 14) - planes(low)).square().mean().sqrt() <= 1 / 255  # of a random network


def first_four(upscaler: LatentUpscaler, state: State) -> State:
    """The same finished state, of a result four times as large."""
    height, width = state["low"].shape[:2]
    return {**state, "size": torch.tensor((4 * height, 4 * width))}


def test_the_noise_on_the_photo_is_its_own_in_each_sample_and_the_same_in_each_round(
    originals: dict[str, Path],
) -> None:
    upscaler, low = of(originals["stable"], samples=2), planes(photograph(8, 8))
    first, again, other = (upscaler.condition(low, 3, number) for number in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, upscaler.condition(low, 4, 0))
    noise = first - (low * 2 - 1)
    assert 0.01 < noise.std() < 0.3
    plain = of(originals["ldm"])
    assert torch.equal(plain.condition(low, 3, 0), low * 2 - 1)
    state = finished(upscaler, first_state(upscaler, photograph(8, 8)))
    assert len(state["clean"]) == 2 and not torch.equal(*state["clean"])


def test_large_latents_in_tiles(pipelines: dict[str, Any], originals: dict[str, Path]) -> None:
    pipeline, low = pipelines["ldm"], photograph(72, 108)
    upscaler = of(originals["ldm"])
    noisy = torch.randn((1, 3, 72, 108), generator=torch.Generator().manual_seed(1))
    abar, t = pipeline.scheduler.alphas_cumprod[333], torch.tensor(333)
    with torch.no_grad():
        made = upscaler.estimate(noisy, 333, planes(low) * 2 - 1, (288, 432))
        stacked = torch.cat([noisy, planes(low) * 2 - 1], 1)
        output = averaged(lambda tile: pipeline.unet(tile, t).sample, stacked, (0, 8), (0, 32, 44), 64)
        whole = pipeline.unet(stacked, t).sample
    expected = (noisy - (1 - abar).sqrt() * output) / abar.sqrt()
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
    assert (output - whole).abs().max() > 1e-4  # tiles have statistics of their own: they are no detail of memory


def test_tiles_of_a_constant_network_leave_no_seam() -> None:
    latent = torch.rand((1, 2, 150, 33), generator=torch.Generator().manual_seed(0))
    seen: list[tuple[int, ...]] = []

    def doubled(tile: Tensor) -> Tensor:
        seen.append(tuple(tile.shape[2:]))
        return tile * 2

    torch.testing.assert_close(average_tiles(doubled, latent, 64, 32), latent * 2)
    assert set(seen) == {(64, 33)} and len(seen) == 4


@pytest.mark.parametrize("name", ["ldm", "stable"])
def test_autoencoder_in_tiles_is_the_whole(originals: dict[str, Path], name: str) -> None:
    network = read_upscaler(originals[name]).autoencoder.requires_grad_(False)
    whole, tiled = LatentAutoencoder(network), LatentAutoencoder(network, max_pixels=40 * 7)
    picture = planes(photograph(32, 40)) * 2 - 1
    latent = whole.encode(picture)
    torch.testing.assert_close(tiled.encode(picture), latent, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tiled.decode(latent), whole.decode(latent), atol=1e-5, rtol=1e-4)
    expected = (
        network.decode(latent).sample
        if name == "ldm"
        else network.decode(latent / network.config.scaling_factor).sample
    )
    torch.testing.assert_close(whole.decode(latent), expected, atol=1e-5, rtol=1e-4)


def test_attention_names_of_before_diffusers_018(folders: dict[str, Path]) -> None:
    before, low = of(folders["ldm"]), photograph(8, 8)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part in ("unet", "vqvae"):
        file, state = folders["ldm"] / part / "diffusion_pytorch_model.safetensors", {}
        for key, value in load_file(file).items():
            new = next((name for name in older if f".{name}." in key), "")
            state[key.replace(f".{new}.", f".{older[new]}.") if new else key] = value
        assert any(".query." in key for key in state)
        save_file(state, file)
    after = of(folders["ldm"])
    states = [finished(upscaler, first_state(upscaler, low)) for upscaler in (before, after)]
    assert torch.equal(states[0]["clean"], states[1]["clean"])


def test_the_text_encoder_is_needed_once(folders: dict[str, Path]) -> None:
    prompt = read_upscaler(folders["stable"]).prompt
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folders["stable"] / part)
    again = read_upscaler(folders["stable"]).prompt
    assert prompt is not None and again is not None and torch.equal(prompt, again)
    (folders["stable"] / hub.EMPTY_CACHE).unlink()
    with pytest.raises(FileNotFoundError, match=r"text_encoder/config.json is missing: without empty_prompt"):
        of(folders["stable"])


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def pickled(folder: Path) -> Path:
    """Only .bin, as the published LDM-SR."""
    for file in list(folder.glob("*/*.safetensors")):
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    return folder


def test_pickles_are_converted_on_demand_only(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    low = photograph(8, 10)
    expected = of(folders["ldm"])
    folder, output = pickled(folders["ldm"]), tmp_path / "converted"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(FileNotFoundError, match=rf"model\.bin there is a pickle.*convert {folder} --output DIR"):
        of(folder)
    monkeypatch.setattr("sys.argv", ["difix3d", "convert", str(folder), "--output", str(output)])
    cli.main()
    assert f"--weights {output}" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert not list(output.rglob("*.bin"))
    states = [finished(upscaler, first_state(upscaler, low)) for upscaler in (expected, of(output))]
    assert torch.equal(states[0]["clean"], states[1]["clean"])
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        convert_folder(str(folder), output)


def test_converting_halves_floats_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = pickled(folders["stable"])
    shutil.move(folder / "text_encoder" / "model.bin", folder / "text_encoder" / "pytorch_model.bin")
    file = folder / "unet" / "diffusion_pytorch_model.bin"
    output = convert_folder(str(folder), tmp_path / "half", torch.bfloat16)
    kept, made = torch.load(file, weights_only=True), load_file(output / UNET_FILE)
    assert made.keys() == kept.keys() and {value.dtype for value in made.values()} == {torch.bfloat16}
    of(output)


@pytest.mark.parametrize("plain", [False, True])
def test_a_malicious_pickle_does_not_run(folders: dict[str, Path], tmp_path: Path, plain: bool) -> None:
    folder, mark = pickled(folders["ldm"]), tmp_path / "mark"
    file = folder / "unet" / "diffusion_pytorch_model.bin"
    content = {"conv_in.weight": Trap(mark)}
    if plain:
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    (folder / "unet" / "modeling.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    with pytest.raises(UserError, match=r"model\.bin can't be read safely"):
        convert_folder(str(folder), tmp_path / "out")
    assert not mark.exists() and not (tmp_path / "out").exists()


def test_what_does_not_fit_is_not_converted(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = pickled(folders["ldm"])
    file = folder / "unet" / "diffusion_pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    gone = state.pop("conv_out.bias")
    torch.save(state, file)
    with pytest.raises(UserError, match=r"1 missing: conv_out\.bias"):
        convert_folder(str(folder), tmp_path / "out")
    torch.save({**state, "conv_out.bias": gone, "step": 3}, file)
    with pytest.raises(UserError, match="holds no weights of a part"):
        convert_folder(str(folder), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_nothing_to_convert_and_no_base(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to convert"):
        convert_folder(str(folders["ldm"]), tmp_path / "out")
    with pytest.raises(UserError, match=r"model_1\.pkl: give --base"):
        cli.convert(tmp_path / "model_1.pkl", tmp_path / "out")


def test_folders_that_are_none(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give a folder or a hub id"):
        load()
    with pytest.raises(FileNotFoundError, match="no such folder"):
        of(tmp_path / "nowhere")
    (tmp_path / "x4.ckpt").touch()
    with pytest.raises(FileNotFoundError, match="is a file"):
        of(tmp_path / "x4.ckpt")
    shutil.rmtree(folders["ldm"] / "vqvae")
    with pytest.raises(FileNotFoundError, match=r"neither vqvae/ nor low_res_scheduler/ is there \(found .*unet"):
        of(folders["ldm"])
    config = folders["stable"] / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "in_channels": 4}))
    with pytest.raises(RuntimeError, match="the UNet maps 4 channels to 4, but the latent has 4"):
        of(folders["stable"])


def test_an_autoencoder_of_another_factor_is_refused(tmp_path: Path) -> None:
    write(ldm(), tmp_path / "ldm")
    config = tmp_path / "ldm" / "vqvae" / "config.json"
    two = {"block_out_channels": [4, 8], "down_block_types": ["DownEncoderBlock2D"] * 2}
    config.write_text(json.dumps({**json.loads(config.read_text()), **two, "up_block_types": ["UpDecoderBlock2D"] * 2}))
    with pytest.raises(RuntimeError, match="the autoencoder enlarges 2 times, 4 are needed"):
        of(tmp_path / "ldm")


def test_hub_ids_download_what_is_needed(
    originals: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def download(name: str, files: tuple[str, ...] = ()) -> Path:
        asked.append(tuple(files))
        return originals["stable"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "download", download)
    (originals["stable"] / hub.EMPTY_CACHE).unlink(missing_ok=True)
    load("owner/upscaler", dtype=torch.float32)
    assert asked == [hub.UPSCALER, hub.TEXT]
    assert not any(name.endswith(".bin") for name in hub.UPSCALER)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(hub, "download", lambda name, files=(): empty)
    with pytest.raises(FileNotFoundError, match=r"difix3d convert owner/pickles --output DIR, then give DIR"):
        load("owner/pickles")


def test_it_is_an_upscaler_of_the_registry(originals: dict[str, Path]) -> None:
    assert {"latent", "realesrgan"} <= set(available_priors(Upscaler))
    options = (("transition", "posterior"), ("eta", 1.0), ("samples", 2), ("back_projection", False))
    upscaler = load_upscaler("latent", str(originals["ldm"]), options=options)
    assert upscaler.rounds == 4 and [upscaler.level(round) for round in range(4)] == ["999", "666", "333", "0"]
    assert not upscaler.joint


def test_the_stable_folder_is_diffusers_own(originals: dict[str, Path]) -> None:
    """Written by save_pretrained, it loads there and here, and nothing was added that a pipeline would stumble over."""
    of(originals["stable"])
    again = StableDiffusionUpscalePipeline.from_pretrained(originals["stable"])
    assert again.config.max_noise_level == 350
