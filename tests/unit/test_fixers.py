"""Every fixer keeps the contract: any size, any number of references, deterministic, no side effects."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from difix3d_ns.priors.embedded import load as load_embedded
from difix3d_ns.priors.networks.difix import DifixNet
from difix3d_ns.priors.networks.stages import EmbeddedChain
from difix3d_ns.priors.published.lora import merge_lora
from difix3d_ns.priors.registry import FixRequest, FixResult, PosedImage, available_fixers, embedded, load_fixer
from tests.unit.test_fixer_networks import CHAIN, SCHEDULER, UNET, VAE
from tests.unit.test_geometry_warp import camera_at, photograph


@pytest.fixture(scope="session")
def embedded_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    chain = EmbeddedChain(CHAIN)
    torch.nn.init.normal_(chain.blend.leave.weight, std=0.05)
    torch.nn.init.normal_(chain.gate[2].weight, std=0.1)
    folder = tmp_path_factory.mktemp("embedded")
    save_file(
        {key: value.half().contiguous() for key, value in chain.state_dict().items()}, folder / "weights.safetensors"
    )
    (folder / "weights.json").write_text(json.dumps(CHAIN))
    return str(folder)


@pytest.fixture(scope="session")
def difix_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny folder with the published files and key names, LoRA unmerged."""
    torch.manual_seed(0)
    vae = {**VAE, "gamma": 1.0, "ignore_skip": False, "lora_rank": 4}
    net = DifixNet(UNET, vae, SCHEDULER, torch.randn(77, 8))
    folder = tmp_path_factory.mktemp("difix")
    state = {f"vae/{key}": value for key, value in net.vae.state_dict().items()}
    for i, skip in enumerate(net.skips):
        state[f"vae/decoder.skip_conv_{i + 1}.base_layer.weight"] = skip.weight.data
        state[f"vae/decoder.skip_conv_{i + 1}.lora_A.vae_skip.weight"] = torch.randn(4, skip.in_channels, 1, 1)
        state[f"vae/decoder.skip_conv_{i + 1}.lora_B.vae_skip.weight"] = torch.randn(skip.out_channels, 4, 1, 1)
    state |= {f"unet/{key}": value for key, value in net.unet.state_dict().items()}
    for part, config in (("vae", vae), ("unet", UNET)):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
        tensors = {key.split("/", 1)[1]: value.contiguous() for key, value in state.items() if key.startswith(part)}
        save_file(tensors, folder / part / "diffusion_pytorch_model.safetensors")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    save_file({"prompt": net.prompt}, folder / "prompt_embedding.safetensors")
    return str(folder)


@pytest.fixture(params=["none", "blend", "embedded", "detail", "difix", "chain"])
def fixer(request: pytest.FixtureRequest):
    needed = {"embedded": "embedded_weights", "detail": "embedded_weights", "difix": "difix_weights"}
    weights = request.getfixturevalue(needed.get(request.param, "difix_weights"))
    if request.param in ("none", "blend"):
        weights = None
    return load_fixer(request.param, weights, dtype=torch.float32)


def make_request(count: int, width: int = 131, height: int = 97) -> FixRequest:
    target, _ = photograph(camera_at(0.0, width=width, height=height))
    positions = [(0.4, 0.0), (-0.3, 0.1), (0.1, -0.2)][:count]
    references = [photograph(camera_at(x, y, width=150, height=110))[0] for x, y in positions]
    noise = torch.randn(target.image.shape, generator=torch.Generator().manual_seed(1)) * 0.05
    return FixRequest((target.image + noise).clamp(0, 1), references, target.camera, target.depth, target.alpha)


def test_registry_knows_the_fixers():
    assert set(available_fixers()) == {"none", "blend", "embedded", "detail", "difix", "chain"}
    with pytest.raises(ValueError, match="blend, chain, detail, difix, embedded, none"):
        load_fixer("diffix")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_odd_sizes_and_any_number_of_references(fixer, count: int):
    request = make_request(count)
    (result,) = fixer.fix([request])
    assert result.image.shape == (97, 131, 3)
    assert result.confidence.shape == (97, 131, 1)
    for depth in (result.depth, result.depth_confidence):
        assert depth is None or depth.shape == (97, 131, 1)
    assert result.image.dtype == result.confidence.dtype == torch.float32
    for tensor in (result.image, result.confidence):
        assert tensor.isfinite().all()
        assert tensor.min() >= 0
        assert tensor.max() <= 1


def test_batches_equal_one_by_one(fixer):
    requests = [make_request(3), make_request(0, width=64), make_request(3), make_request(1)]
    for together, request in zip(fixer.fix(requests), requests, strict=True):
        (alone,) = fixer.fix([request])
        # A last digit of one network can tip the next one's choice between two depths.
        torch.testing.assert_close(together.image, alone.image, atol=2e-3, rtol=0)
        torch.testing.assert_close(together.confidence, alone.confidence, atol=2e-3, rtol=0)


def test_deterministic_without_touching_the_global_generator(fixer):
    request = make_request(3)
    before = torch.get_rng_state()
    first, second = fixer.fix([request])[0], fixer.fix([request])[0]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.image, second.image)


def test_requests_without_geometry(fixer):
    full = make_request(2)
    bare = FixRequest(full.image, [PosedImage(r.image) for r in full.references])
    (result,) = fixer.fix([bare])
    assert result.image.shape == full.image.shape


def test_no_network(fixer, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a fixer opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert len(fixer.fix([make_request(1)])) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_images_of_any_dtype(fixer, dtype: torch.dtype):
    full = make_request(1)
    (result,) = fixer.fix([FixRequest(full.image.to(dtype), full.references, full.camera, full.depth, full.alpha)])
    (expected,) = fixer.fix([full])
    assert result.image.dtype == torch.float32
    torch.testing.assert_close(result.image, expected.image, atol=0.03, rtol=0)


@pytest.mark.parametrize("name", ["blend", "embedded", "detail"])
def test_nothing_changes_and_nothing_is_trusted_where_nothing_is_seen(name: str, embedded_weights: str):
    fixer = load_fixer(name, None if name == "blend" else embedded_weights)
    request = make_request(3)
    masked = [replace(r, mask=torch.ones_like(r.alpha)) for r in request.references]
    for reference in masked:
        reference.mask[:, : reference.mask.shape[1] // 2] = 0  # the left half of the world
    (result,) = fixer.fix([replace(request, references=masked)])
    assert result.confidence[:, :16].max() == 0
    torch.testing.assert_close(result.image[:, :16], request.image[:, :16])
    assert (result.image[20:-20, 90:-20] - request.image[20:-20, 90:-20]).abs().max() > 1e-3
    assert result.confidence[20:-20, 90:-20].mean() > 0.05
    (unseen,) = fixer.fix([replace(request, references=())])
    torch.testing.assert_close(unseen.image, request.image)
    assert unseen.confidence.max() == 0


def test_chain_runs_one_after_the_other(difix_weights: str):
    request = make_request(2)
    (first,) = load_fixer("difix", difix_weights, dtype=torch.float32).fix([request])
    (expected,) = load_fixer("detail", dtype=torch.float32).fix([replace(request, image=first.image)])
    (result,) = load_fixer("chain", difix_weights, dtype=torch.float32).fix([request])
    assert torch.equal(result.image, expected.image)
    assert torch.equal(result.confidence, torch.maximum(first.confidence, expected.confidence))
    assert torch.equal(result.depth, expected.depth)
    for missing in (None, "chain"):
        with pytest.raises(ValueError, match=r"--pipeline\.fixer\.weights"):
            load_fixer("chain", missing)


def test_blend_removes_noise():
    request = make_request(3)
    truth = photograph(request.camera)[0].image
    (result,) = load_fixer("blend").fix([request])
    seen = result.confidence[..., 0] > 0.9
    before, after = ((x - truth)[seen].square().mean() for x in (request.image, result.image))
    assert after < 0.5 * before


def test_links_of_the_chain_switch_off(embedded_weights: str):
    request = make_request(3)
    whole, part = (
        load_embedded(embedded_weights, dtype=torch.float32, diffusion=on).fix([request])[0].image
        for on in (True, False)
    )
    assert (whole - part).abs().max() > 1e-4


def test_low_precision_stays_close(embedded_weights: str):
    request = make_request(3)
    exact, low = (
        load_embedded(embedded_weights, dtype=d).fix([request])[0].image for d in (torch.float32, torch.bfloat16)
    )
    assert (exact - low).abs().mean() < 0.005


def test_unreadable_weights_name_the_file(tmp_path: Path, embedded_weights: str):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors.*--pipeline\.fixer\.weights"):
        load_embedded(str(tmp_path / "nowhere"))
    whole = (Path(embedded_weights) / "weights.safetensors").read_bytes()
    (tmp_path / "weights.json").write_text(json.dumps(CHAIN))
    (tmp_path / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RuntimeError, match=r"weights\.safetensors"):
        load_embedded(str(tmp_path))
    (tmp_path / "weights.safetensors").write_bytes(whole)
    (tmp_path / "weights.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"weights\.safetensors.*lacks align, blend, difix"):
        load_embedded(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no weights of its own"):
        load_fixer("difix")


def test_lora_is_merged_as_peft_defines_it():
    base, down, up = torch.randn(6, 5, 3, 3), torch.randn(4, 5, 3, 3), torch.randn(6, 4, 1, 1)
    state = {
        "decoder.conv.base_layer.weight": base,
        "decoder.conv.base_layer.bias": torch.ones(6),
        "decoder.conv.lora_A.vae_skip.weight": down,
        "decoder.conv.lora_B.vae_skip.weight": up,
    }
    merged = merge_lora(state)
    assert set(merged) == {"decoder.conv.weight", "decoder.conv.bias"}
    picture = torch.randn(1, 5, 8, 8)
    adapted = torch.nn.functional.conv2d(torch.nn.functional.conv2d(picture, down), up)
    expected = torch.nn.functional.conv2d(picture, base) + 2.0 * adapted
    torch.testing.assert_close(
        torch.nn.functional.conv2d(picture, merged["decoder.conv.weight"]), expected, atol=1e-4, rtol=1e-4
    )


def test_the_packaged_weights_load_and_repair():
    folder = Path(embedded.WEIGHTS).parent
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 16 * 2**20
    request = make_request(3)
    truth = photograph(request.camera)[0].image
    (result,) = load_fixer("embedded").fix([request])
    before, after = ((x - truth).square().mean() for x in (request.image, result.image))
    assert after < 0.7 * before


def test_loading_leaves_the_random_generator_and_threads_wait_for_each_other() -> None:
    load_fixer.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fixer = load_fixer("embedded")
    assert torch.equal(torch.rand(2), expected)
    inside, most = [0], [0]
    fix = fixer._fixer.fix  # type: ignore[attr-defined]

    def counting(requests: Sequence[FixRequest]) -> list[FixResult]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        result = fix(requests)
        inside[0] -= 1
        return result

    with mock.patch.object(fixer._fixer, "fix", counting):  # type: ignore[attr-defined]
        threads = [threading.Thread(target=fixer.fix, args=([FixRequest(torch.rand(32, 48, 3))],)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most[0] == 1
