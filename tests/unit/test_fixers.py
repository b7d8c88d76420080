"""What one fixer alone promises, beyond the contract of all (test_fixer_conformance)."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from difix3d_ns.enhance.enhancer import Enhancer, EnhancerSettings
from difix3d_ns.errors import UserError
from difix3d_ns.ns.viewer.live import LiveEnhancer
from difix3d_ns.priors import embedded
from difix3d_ns.priors.alignment.aligner import Aligner
from difix3d_ns.priors.base import FixRequest, FixResult
from difix3d_ns.priors.embedded import load as load_embedded
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.priors.none import IdentityFixer
from difix3d_ns.priors.published.lora import merge_lora
from difix3d_ns.priors.registry import available_fixers, load_fixer, load_prior
from tests.pretended_cuda import out_of_memory
from tests.stand_ins import FlatRenderer, NoReferences
from tests.unit.known_scenes import camera_at, photograph
from tests.unit.official_difix import Official
from tests.unit.tiny_fixers import CHAIN, write_embedded


@pytest.fixture(scope="module")
def embedded_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_embedded(tmp_path_factory.mktemp("embedded")))


def make_request(count: int, width: int = 131, height: int = 97) -> FixRequest:
    target, _ = photograph(camera_at(0.0, width=width, height=height))
    positions = [(0.4, 0.0), (-0.3, 0.1), (0.1, -0.2)][:count]
    references = [photograph(camera_at(x, y, width=150, height=110))[0] for x, y in positions]
    noise = torch.randn(target.image.shape, generator=torch.Generator().manual_seed(1)) * 0.05
    return FixRequest((target.image + noise).clamp(0, 1), references, target.camera, target.depth, target.alpha)


def test_a_misspelt_fixer_is_answered_with_the_names_of_all():
    with pytest.raises(ValueError, match=", ".join(available_fixers())):
        load_fixer("diffix")


def test_a_cascade_runs_one_after_the_other(tmp_path: Path):
    difix_weights = str(Official().write(tmp_path / "difix_ref"))
    request = make_request(2)
    shown = replace(request, references=request.references[:1])  # as many as in its training
    (first,) = load_fixer("difix", difix_weights, dtype=torch.float32).fix([shown])
    (expected,) = load_fixer("aligned-blend", dtype=torch.float32).fix([replace(request, image=first.image)])
    (result,) = load_fixer("cascade", difix_weights, dtype=torch.float32).fix([request])
    assert torch.equal(result.image, expected.image)
    assert torch.equal(result.confidence, torch.maximum(first.confidence, expected.confidence))
    assert torch.equal(result.depth, expected.depth)
    for missing in (None, "cascade"):
        with pytest.raises(ValueError, match=r"--pipeline\.guidance\.fixer\.weights"):
            load_fixer("cascade", missing)


def test_blend_removes_noise():
    request = make_request(3)
    truth = photograph(request.camera)[0].image
    (result,) = load_fixer("blend").fix([request])
    seen = result.confidence[..., 0] > 0.9
    before, after = ((x - truth)[seen].square().mean() for x in (request.image, result.image))
    assert after < 0.5 * before


def test_links_of_the_embedded_chain_switch_off(embedded_weights: str):
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
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors.*train-prior embedded"):
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
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 24 * 2**20  # of all systems together
    request = make_request(3)
    truth = photograph(request.camera)[0].image
    (result,) = load_fixer("embedded").fix([request])
    before, after = ((x - truth).square().mean() for x in (request.image, result.image))
    assert after < 0.7 * before


def test_loading_leaves_the_random_generator_and_threads_wait_for_each_other() -> None:
    load_prior.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fixer = load_fixer("embedded")
    assert torch.equal(torch.rand(2), expected)
    inside, most = [0], [0]
    fix = fixer._prior.fix  # type: ignore[attr-defined]

    def counting(requests: Sequence[FixRequest]) -> list[FixResult]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        result = fix(requests)
        inside[0] -= 1
        return result

    with mock.patch.object(fixer._prior, "fix", counting):  # type: ignore[attr-defined]
        threads = [threading.Thread(target=fixer.fix, args=([FixRequest(torch.rand(32, 48, 3))],)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most[0] == 1


def test_loading_leaves_other_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their generators are not asked for, which would start each of several GPUs."""
    load_prior.cache_clear()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", mock.Mock(side_effect=AssertionError("a GPU is started")))
    assert load_fixer("none").fix([make_request(0)])


@pytest.mark.parametrize("fitting", [2, 1])
def test_out_of_memory_is_tried_again_with_fewer_pictures(
    embedded_weights: str, monkeypatch: pytest.MonkeyPatch, fitting: int
):
    fixer = load_embedded(embedded_weights, dtype=torch.float32)
    requests = [replace(make_request(2), seed=seed) for seed in range(5)]
    requests = [replace(r, image=(r.image + 0.01 * r.seed).clamp(0, 1)) for r in requests]
    expected = fixer.fix(requests)
    attempts, forward = [], fixer.chain.forward

    def hungry(image: torch.Tensor, *others: torch.Tensor, **options: bool) -> object:
        attempts.append(len(image))
        if len(image) > fitting:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(image, *others, **options)

    monkeypatch.setattr(fixer.chain, "forward", hungry)
    for result, whole in zip(fixer.fix(requests), expected, strict=True):
        torch.testing.assert_close(result.image, whole.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(result.depth, whole.depth)
    assert attempts == {2: [5, 2, 2, 1], 1: [5, 2, 1, 1, 1, 1, 1]}[fitting]


def test_one_picture_that_does_not_fit(embedded_weights: str):
    fixer = load_embedded(embedded_weights)
    with (
        out_of_memory(Aligner, "forward", 1),
        pytest.raises(torch.cuda.OutOfMemoryError, match=r"131x97 does not fit .* use smaller pictures"),
    ):
        fixer.fix([make_request(2)])


def test_pictures_run_together_as_free_memory_allows(embedded_weights: str, monkeypatch: pytest.MonkeyPatch):
    fixer = load_embedded(embedded_weights, dtype=torch.float32)
    requests = [make_request(1) for _ in range(4)]
    batches, run = [], fixer._run
    monkeypatch.setattr(
        fixer, "_run", lambda requests, aligned: batches.append(len(requests)) or run(requests, aligned)
    )
    fixer.fix(requests)
    for free in (embedded.memory_of_call(131, 97, 3, element_size=4), 0):
        monkeypatch.setattr(embedded, "free_memory", lambda device, free=free: free)
        fixer.fix(requests)
    assert batches == [4, 3, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("owner", "name"), [(FlatRenderer, "median_depth"), (IdentityFixer, "fix")])
def test_an_enhanced_picture_without_memory(owner: type, name: str) -> None:
    """The command ends in a sentence, a viewer shows the plain render; the next picture is enhanced again."""
    enhancer = Enhancer(EnhancerSettings(FixerConfig("none"), 1.0), FlatRenderer(), NoReferences())
    camera = camera_at(0.0, width=40, height=30)
    image = torch.rand(30, 40, 3)
    with out_of_memory(owner, name, 1):
        with pytest.raises(UserError, match=r"enhance a picture of 40x30; .*--downscale-factor 2 of ns-render"):
            enhancer.enhance(camera, image)
        assert torch.equal(enhancer.enhance(camera, image), image)


def test_weights_are_downloaded_while_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, fetched = FlatRenderer(), []

    def download(hub_id: str, *files: object) -> Path:
        fetched.append((hub_id, renderer.held))
        raise FileNotFoundError("offline")

    monkeypatch.setattr("difix3d_ns.priors.published.hub.download", download)
    enhancer = Enhancer(EnhancerSettings(FixerConfig("difix", "owner/name"), 1.0), renderer, NoReferences())
    with pytest.raises(UserError, match=r"--pipeline\.enhancer\.weights owner/name cannot be downloaded: offline"):
        enhancer.enhance(camera_at(0.0, width=40, height=30), torch.rand(30, 40, 3))
    assert fetched == [("owner/name", 0)]


def test_a_viewer_says_once_that_memory_does_not_suffice(capsys: pytest.CaptureFixture[str]) -> None:
    enhancer = Enhancer(EnhancerSettings(FixerConfig("none"), 1.0), FlatRenderer(), NoReferences())
    live = LiveEnhancer(enhancer.enhance)
    live.always = True
    image = torch.rand(30, 40, 3)
    with out_of_memory(IdentityFixer, "fix", 1, 2):
        for place in (0.0, 0.1):
            shown = live.picture(mock.Mock(), camera_at(place, width=40, height=30), image)
            assert torch.equal(shown, image)
            live.settings_changed()
    assert capsys.readouterr().out.count("showing the plain render") == 1
