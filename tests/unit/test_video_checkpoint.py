"""Checkpoints of video models of orbits, converted: every name and shape, the same numbers, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from difix3d_ns import cli
from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import stream_tensors
from difix3d_ns.priors.published.video_checkpoint import _SCHEDULER, convert_video
from difix3d_ns.priors.published.video_folder import build, read_video
from difix3d_ns.priors.published.video_kinds import KINDS, KindName
from difix3d_ns.priors.published.video_names import autoencoder_name, unet_name
from tests.unit import official_video
from tests.unit.official_video import Autoencoder, VideoUNet, checkpoint, official, write_checkpoint, write_encoder

pytestmark = pytest.mark.usefixtures("one_thread")
FULL = (320, 640, 1280, 1280)
VECTORS: dict[KindName, tuple[int, int]] = {"hi3d-stage1": (8, 768), "hi3d-stage2": (17, 512), "sv3d-u": (8, 256)}


def _full_config(channels: int, vector: int) -> dict[str, Any]:
    return {
        "in_channels": channels,
        "projection_class_embeddings_input_dim": vector,
        "block_out_channels": FULL,
        "num_attention_heads": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
    }


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_name_and_shape_at_full_size(kind: KindName) -> None:
    channels, vector = VECTORS[kind]
    with torch.device("meta"):
        theirs = VideoUNet(channels, vector, FULL, cross=1024).state_dict()
    ours = build("unet", _full_config(channels, vector)).state_dict()
    renamed = {unet_name(name): value.shape for name, value in theirs.items()}
    assert len(theirs) == len(renamed) == len(ours) == 1428
    assert renamed == {name: value.shape for name, value in ours.items()}
    count = sum(value.numel() for value in ours.values())
    assert count / 1e6 == pytest.approx({"hi3d-stage1": 1524.6, "hi3d-stage2": 1524.3, "sv3d-u": 1524.0}[kind], abs=0.1)


def test_every_name_of_the_autoencoder_as_diffusers_renames_it() -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    with torch.device("meta"):
        theirs = Autoencoder((128, 256, 512, 512)).state_dict()
    expected = convert_ldm_vae_checkpoint(
        {f"first_stage_model.{name}": value for name, value in theirs.items()},
        {"down_block_types": [""] * 4, "up_block_types": [""] * 4},
    )
    renamed = {autoencoder_name(name, 4): value for name, value in theirs.items()}
    assert renamed.keys() == expected.keys()
    ours = build("vae", {**_vae_config((128, 256, 512, 512))}).state_dict()
    assert {name: value.shape for name, value in expected.items()} == {n: v.shape for n, v in ours.items()}


def _vae_config(widths: tuple[int, ...]) -> dict[str, Any]:
    return {
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
    }


@pytest.mark.parametrize("name", ["input_blocks.1.0.other.0.weight", "middle_block.3.norm.weight", "lora.weight"])
def test_other_names_have_none(name: str) -> None:
    assert unet_name(name) is None


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("svd"))


@pytest.mark.parametrize("kind", ["hi3d-stage2", "sv3d-u"])  # the first stage: see test_orbit_video
def test_the_same_numbers_come_out(kind: KindName, tmp_path: Path, base: Path) -> None:
    channels, vector = VECTORS[kind]
    unet, autoencoder = official(channels, vector)
    tensors = checkpoint(unet, autoencoder)
    if kind == "sv3d-u":
        save_file(tensors, file := tmp_path / "sv3d_u.safetensors")
    else:
        file = write_checkpoint(tmp_path / "stage.pt", tensors)
    folder = convert_video(file, kind, tmp_path / "out", str(base), torch.float32)
    parts = read_video(folder, KINDS[kind].from_picture)
    generator = torch.Generator().manual_seed(3)
    noisy, given = torch.randn(4, channels, 16, 8, generator=generator), torch.randn(vector, generator=generator)
    context = torch.randn(1, official_video.CROSS, generator=generator)
    expected = unet(noisy, -0.7, given, context)
    found = parts.unet(noisy[None], torch.tensor(-0.7), context[None], given[None]).sample[0]
    assert expected.std() > 0.1
    for other in (
        unet(noisy, 0.9, given, context),
        unet(noisy, -0.7, -given, context),
        unet(noisy, -0.7, given, -context),
    ):
        assert (other - expected).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    pictures = torch.rand(2, 3, 32, 48, generator=generator)
    latents = autoencoder.encode(pictures)
    torch.testing.assert_close(parts.autoencoder.encode(pictures).latent_dist.mode(), latents, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(
        parts.autoencoder.decode(latents).sample, autoencoder.decode(latents), atol=2e-5, rtol=1e-5
    )
    assert parts.encoder(torch.zeros(1, 3, 224, 224)).image_embeds.shape == (1, official_video.CROSS)


def test_the_folder_holds_json_and_half_precision(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "second_stage.pt", checkpoint(*official(17, 512)))
    folder = convert_video(file, "hi3d-stage2", tmp_path / "out")
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    assert not (folder / "image_encoder").exists()
    state = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert len(state) == 1428 and {value.dtype for value in state.values()} == {torch.float16}
    config = json.loads((folder / "unet" / "config.json").read_text())
    assert (config["in_channels"], config["num_frames"], config["sample_size"]) == (17, 16, 128)
    with pytest.raises(FileNotFoundError, match=r"image_encoder.*is missing: copy image_encoder/ of stabilityai"):
        read_video(folder, from_picture=False)
    with pytest.raises(RuntimeError, match="another sort: one of hi3d-stage1, sv3d-u"):
        read_video(folder, from_picture=True)


def test_scheduler_has_the_listed_sigmas() -> None:
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler.from_config(_SCHEDULER)
    scheduler.set_timesteps(25)
    listed = [700, 546, 422, 322, 244, 183, 135, 98.3, 70.5, 49.8, 34.5, 23.5, 15.6, 10.1, 6.35, 3.87, 2.27, 1.27]
    listed += [0.678, 0.339, 0.157, 0.066, 0.025, 0.008, 0.002, 0]
    torch.testing.assert_close(scheduler.sigmas, torch.tensor(listed), rtol=0.01, atol=5e-4)


def test_the_autoencoder_of_the_condition_serves_where_the_first_stage_knows_of_time(tmp_path: Path) -> None:
    unet, autoencoder = official(8, 256)
    tensors = {name: v for name, v in checkpoint(unet, autoencoder).items() if "first_stage_model.encoder" not in name}
    tensors["first_stage_model.decoder.mid.block_1.time_stack.in_layers.0.weight"] = torch.zeros(3)
    save_file(tensors, file := tmp_path / "sv3d_u.safetensors")
    with pytest.raises(UserError, match="no whole autoencoder of single pictures"):
        convert_video(file, "sv3d-u", tmp_path / "out")
    more = {f"conditioner.embedders.1.encoder.{name}": v.clone() for name, v in autoencoder.state_dict().items()}
    save_file({**tensors, **more}, file)
    folder = convert_video(file, "sv3d-u", tmp_path / "out", dtype=torch.float32)
    name = "encoder.mid_block.attentions.0.to_q.weight"
    with safe_open(folder / "vae" / "diffusion_pytorch_model.safetensors", "pt") as opened:
        assert torch.equal(opened.get_tensor(name), autoencoder.encoder.mid.attn_1.q.weight[..., 0, 0])


class _Code:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return checkpoint(*official(17, 512))


def _written(output: Path) -> list[Path]:
    return [path for path in output.parent.iterdir() if path.name.startswith((".out", "out"))]


def test_the_wrong_kind_names_the_right_one(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    file = write_checkpoint(tmp_path / "second_stage.pt", tensors)
    with pytest.raises(UserError, match=r"second_stage\.pt is not of --kind hi3d-stage1.*give --kind hi3d-stage2"):
        convert_video(file, "hi3d-stage1", tmp_path / "out")
    polar = {**tensors, "model.diffusion_model.label_emb.0.0.weight": torch.zeros(128, 1280)}
    with pytest.raises(UserError, match="it looks like sv3d_p"):
        convert_video(write_checkpoint(file, polar), "sv3d-u", tmp_path / "out")
    torch.save({"state_dict": {"unet.weight": torch.zeros(1)}}, file)
    with pytest.raises(UserError, match=r"no checkpoint of a video model.*found unet"):
        convert_video(file, "sv3d-u", tmp_path / "out")


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    file, output = tmp_path / "second_stage.pt", tmp_path / "out"
    fewer = {name: value for name, value in tensors.items() if ".output_blocks.11." not in name}
    with pytest.raises(UserError, match=r"of 1428 tensors of unet/ 80 are missing: (up_blocks\.3\.\S+, ){3}\."):
        convert_video(write_checkpoint(file, fewer), "hi3d-stage2", output)
    more = {**tensors, "model.diffusion_model.controlnet.weight": torch.zeros(1)}
    with pytest.raises(UserError, match=r"1 tensors are not known: model\.diffusion_model\.controlnet\.weight"):
        convert_video(write_checkpoint(file, more), "hi3d-stage2", output)
    other = {**tensors, "first_stage_model.quant_conv.bias": torch.zeros(3)}
    with pytest.raises(UserError, match=r"1 have other shapes: first_stage_model\.quant_conv\.bias"):
        convert_video(write_checkpoint(file, other), "hi3d-stage2", output)
    infinite = {**tensors, "first_stage_model.quant_conv.bias": torch.full((8,), 1e6)}
    with pytest.raises(UserError, match=r"quant_conv\.bias is not finite in float16; give --dtype"):
        convert_video(write_checkpoint(file, infinite), "hi3d-stage2", output)
    assert not _written(output)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(ending: str, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    file = tmp_path / f"half{ending}"
    save_file(tensors, file) if ending == ".safetensors" else write_checkpoint(file, tensors)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"half\{ending} .*damaged.* or download it again"):
        convert_video(file, "hi3d-stage2", tmp_path / "out")
    assert not _written(tmp_path / "out")


def test_nothing_in_a_pickle_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"module": {"weight": _Code()}}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"bad\.pt can't be read safely"):
        convert_video(tmp_path / "bad.pt", "sv3d-u", tmp_path / "out")
    assert "run\n" not in capsys.readouterr().out


def test_a_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    with pytest.raises(UserError, match=r"0\.0 GiB are free.*make room"):
        convert_video(write_checkpoint(tmp_path / "a.pt", tensors), "hi3d-stage2", tmp_path / "out")
    assert not _written(tmp_path / "out")


def test_the_command_says_what_is_left_to_do(
    tmp_path: Path, tensors: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_checkpoint(tmp_path / "second_stage.pt", tensors)
    cli.convert(file, tmp_path / "out", kind="hi3d-stage2")
    said = " ".join(capsys.readouterr().out.split())
    assert "Left out: image_encoder/. Copy that folder of stabilityai/stable-video-diffusion-img2vid-xt" in said
    flags = "--pipeline.guidance.orbit-refiner"
    assert f"hi3d-splatfacto {flags}.name hi3d-video {flags}.weights {tmp_path / 'out'} --data" in said
    with pytest.raises(UserError, match="is missing: copy image_encoder"):
        convert_video(file, "hi3d-stage2", tmp_path / "other", base=str(tmp_path))


def test_streamed_tensors_are_what_safetensors_reads(tmp_path: Path) -> None:
    given = {"a": torch.randn(3, 5), "b.c": torch.randn(()), "d": torch.randn(2, 2, 2).transpose(0, 2)}
    sizes: list[int] = []
    shapes = {name: value.shape for name, value in given.items()}
    stream_tensors(tmp_path / "x.safetensors", torch.bfloat16, shapes, given.__getitem__, sizes.append)
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], value.bfloat16()) for name, value in given.items()) and sizes == [30, 2, 16]
    with pytest.raises(ValueError, match=r"a has shape \[3, 5\]"):
        stream_tensors(tmp_path / "y.safetensors", torch.float16, {"a": (5, 3)}, given.__getitem__)
    assert not (tmp_path / "y.safetensors").exists()
