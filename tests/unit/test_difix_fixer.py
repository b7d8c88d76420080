"""How the Difix fixer works: beside others, in tiles, cached, batched, compiled, out of memory, on bad input."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors import difix
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.difix import DifixFixer
from difix3d_ns.priors.difix import load as load_difix
from difix3d_ns.priors.networks.tiling import Tiling
from tests.unit.known_scenes import picture, requests_of
from tests.unit.official_difix import COARSE_UNET, UNET, Official


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Official().write(tmp_path_factory.mktemp("difix_ref"))


@pytest.fixture
def fixer(folder: Path) -> DifixFixer:
    return load_difix(str(folder), dtype=torch.float32)


def images(fixer: DifixFixer, requests: list[FixRequest]) -> Tensor:
    return torch.stack([result.image for result in fixer.fix(requests)])


def test_fixers_and_plain_networks_live_side_by_side(folder: Path, tmp_path: Path):
    torch.manual_seed(0)
    plain = UNet2DConditionModel(**UNET).eval()
    inputs = torch.randn(2, 4, 12, 16), 199, torch.randn(2, 7, UNET["cross_attention_dim"])
    methods = {kind: dict(vars(kind)) for kind in (UNet2DConditionModel, Attention)}
    (request,) = requests_of(64, 80, 2)
    with torch.no_grad():
        before = plain(*inputs).sample
        first = load_difix(str(folder), dtype=torch.float32)
        alone = images(first, [request])
        second = load_difix(str(Official(seed=3).write(tmp_path / "other")), dtype=torch.float32)
        other = images(second, [request])
        assert (alone - other).abs().max() > 0.01
        assert torch.equal(plain(*inputs).sample, before)
        assert torch.equal(images(first, [request]), alone)
        assert torch.equal(images(second, [request]), other)
    assert {kind: dict(vars(kind)) for kind in methods} == methods
    assert {type(p).__name__ for p in plain.attn_processors.values()} == {"AttnProcessor2_0"}


def test_no_references_is_the_model_without_mixing(fixer: DifixFixer):
    (request,) = requests_of(64, 80, 0)
    network, plain = fixer.network, UNet2DConditionModel(**UNET).eval()
    plain.load_state_dict(network.unet.state_dict())
    with torch.no_grad():
        latent, kept = network.encode(request.image.permute(2, 0, 1)[None] * 2 - 1)
        noise = plain(latent, 199, network.prompt[None]).sample
        expected = network.decode(network._clean(latent, noise), kept)[0].permute(1, 2, 0) / 2 + 0.5
    torch.testing.assert_close(fixer.fix([request])[0].image, expected.clamp(0, 1), atol=1e-5, rtol=0)


def test_only_the_target_is_decoded(fixer: DifixFixer, monkeypatch: pytest.MonkeyPatch):
    seen = []
    decode = fixer.network.autoencoder.decode

    def spy(latent: Tensor, kept: list[Tensor], tiling: Tiling | None = None) -> Tensor:
        seen.extend([len(latent), *(len(skip) for skip in kept)])
        return decode(latent, kept, tiling)

    monkeypatch.setattr(fixer.network.autoencoder, "decode", spy)
    images(fixer, requests_of(64, 80, 3, batch=2))
    assert set(seen) == {2}


@pytest.mark.parametrize("pixels", [1, 200, 1000, 10**6])
@pytest.mark.parametrize("size", [(96, 128), (8, 8), (104, 40)])
def test_tiles_equal_the_whole(fixer: DifixFixer, pixels: int, size: tuple[int, int]):
    network, views = fixer.network, torch.stack([picture(*size, seed).permute(2, 0, 1) * 2 - 1 for seed in (0, 1)])
    for rest in (None, torch.device("cpu")):
        tiling = Tiling(pixels, rest)
        with torch.no_grad():
            latent, kept = network.encode(views)
            tiled_latent, tiled_kept = network.encode(views, tiling=tiling)
            out, tiled = network.decode(latent, kept), network.decode(latent, tiled_kept, tiling)
        torch.testing.assert_close(tiled_latent, latent, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tiled, out, atol=1e-4, rtol=1e-4)


def test_tiles_in_bfloat16(fixer: DifixFixer):
    """Within 2e-2 of the whole, as asked; the whole in bfloat16 is itself that far from float32."""
    network = copy.deepcopy(fixer.network).bfloat16()
    view = (picture(96, 128, 0).permute(2, 0, 1)[None] * 2 - 1).bfloat16()
    with torch.no_grad():
        latent, kept = network.encode(view)
        whole, tiled = network.decode(latent, kept), network.decode(latent, kept, Tiling(1000))
    assert (whole.float() - tiled.float()).abs().mean() / 2 < 2e-3
    assert ((whole.float() - tiled.float()) / 2).abs().max() < 2e-2


def test_large_pictures_go_through_in_tiles(fixer: DifixFixer, monkeypatch: pytest.MonkeyPatch):
    (request,) = requests_of(97, 131, 3)
    expected = images(fixer, [request])
    monkeypatch.setattr(difix, "MAX_PIXELS_ON_CPU", 97 * 131 - 1)
    used: list[Tiling | None] = []
    encode = fixer.network.autoencoder.encode
    monkeypatch.setattr(
        fixer.network.autoencoder,
        "encode",
        lambda *a: used.append(a[2]) or encode(*a),  # type: ignore[func-returns-value]
    )
    fixer._latents.clear()  # the references are encoded anew
    torch.testing.assert_close(images(fixer, [request]), expected, atol=1e-4, rtol=0)
    assert len(used) == 4 and all(used)


@pytest.mark.slow
def test_an_8k_picture(tmp_path: Path):
    """7680 x 4320 in tiles; the networks are so small, and shrink so much, that a CPU does it."""
    vae = {
        "down_block_types": ["DownEncoderBlock2D"] * 6,
        "up_block_types": ["UpDecoderBlock2D"] * 6,
        "block_out_channels": [2] * 6,
        "layers_per_block": 1,
        "norm_num_groups": 1,
        "mid_block_add_attention": False,
    }
    prompt = torch.randn(3, COARSE_UNET["cross_attention_dim"])
    network = difix.DifixNet(COARSE_UNET, vae, {"prediction_type": "epsilon"}, prompt)
    request = FixRequest(picture(540, 960, 0).repeat_interleave(8, 0).repeat_interleave(8, 1))
    (result,) = DifixFixer(network).fix([request])
    assert result.image.shape == (4320, 7680, 3)
    assert result.image.isfinite().all() and result.image.std() > 1e-3


def test_references_are_encoded_once_for_all_frames(fixer: DifixFixer, monkeypatch: pytest.MonkeyPatch):
    encoded = 0
    encode = fixer.network.autoencoder.encode

    def count(pictures: Tensor, keep: bool = True, tiling: Tiling | None = None) -> tuple[Tensor, list[Tensor]]:
        nonlocal encoded
        encoded += 0 if keep else len(pictures)
        return encode(pictures, keep, tiling)

    monkeypatch.setattr(fixer.network.autoencoder, "encode", count)
    shared = [PosedImage(picture(64, 80, 5)), PosedImage(picture(80, 64, 6))]
    frames = [FixRequest(picture(64, 80, seed), shared) for seed in range(6)]
    first = images(fixer, frames)
    assert encoded == 2
    again = FixRequest(frames[0].image, [PosedImage(r.image) for r in shared])  # other objects around the same pictures
    torch.testing.assert_close(images(fixer, [again])[0], first[0], atol=1e-5, rtol=0)
    assert encoded == 2
    images(fixer, [FixRequest(picture(72, 80, 0), shared)])  # another size of frames: fitted anew
    assert encoded == 4
    shared[0].image.mul_(0.5)  # changed in place
    assert (images(fixer, frames[:1])[0] - first[0]).abs().max() > 1e-4
    assert encoded == 5
    again = FixRequest(frames[0].image, [PosedImage(r.image.clone()) for r in shared])  # as a scene gives them
    images(fixer, [again])
    assert encoded == 5
    monkeypatch.setattr(difix, "MAX_LATENTS", 2)
    for seed in range(4):
        images(fixer, [FixRequest(frames[0].image, [PosedImage(picture(64, 80, 100 + seed))])])
    assert encoded == 9 and len(fixer._latents) <= 6


def test_batches(fixer: DifixFixer, monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    decode = fixer.network.autoencoder.decode
    monkeypatch.setattr(
        fixer.network.autoencoder,
        "decode",
        lambda *a: sizes.append(len(a[0])) or decode(*a),  # type: ignore[func-returns-value]
    )
    requests = requests_of(64, 80, 1, batch=6) + requests_of(40, 48, 0, batch=1)
    together = fixer.fix(requests)
    assert sizes == [4, 2, 1]
    for request, result in zip(requests, together, strict=True):
        torch.testing.assert_close(result.image, fixer.fix([request])[0].image, atol=1e-5, rtol=0)


def compiled(folder: Path, monkeypatch: pytest.MonkeyPatch, backend: object) -> DifixFixer:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda part, **options: compile_(part, backend=backend, **options))
    torch._dynamo.reset()
    return load_difix(str(folder), dtype=torch.float32, compile=True)


@pytest.mark.slow
def test_compiling_says_so_once_for_each_size(
    folder: Path, fixer: DifixFixer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    graphs = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        nonlocal graphs
        graphs += 1
        return graph.forward

    fast = compiled(folder, monkeypatch, backend)
    requests = requests_of(64, 80, 1, batch=2)
    torch.testing.assert_close(images(fast, requests), images(fixer, requests), atol=1e-5, rtol=0)
    said = capsys.readouterr().err
    assert "Compiling for 2 of 80x64" in " ".join(said.split())
    # Encoder of targets and of references, UNet, decoder: whole graphs, nothing falls apart.
    assert graphs == 4
    images(fast, requests)
    assert graphs == 4 and "Compiling" not in capsys.readouterr().err


def test_compiling_may_fail(
    folder: Path, fixer: DifixFixer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        raise RuntimeError("no compiler here")

    slow = compiled(folder, monkeypatch, broken)
    (request,) = requests_of(64, 80, 1)
    torch.testing.assert_close(images(slow, [request]), images(fixer, [request]), atol=1e-5, rtol=0)
    said = " ".join(capsys.readouterr().err.split())
    assert "torch.compile failed, going on without it" in said and "no compiler here" in said
    images(slow, [request])
    assert "failed" not in capsys.readouterr().err


def starve(fixer: DifixFixer, monkeypatch: pytest.MonkeyPatch, enough: object) -> list[tuple[int, Tiling | None]]:
    """Let decoding run out of memory unless ``enough(batch, tiling)``; returns the attempts."""
    attempts: list[tuple[int, Tiling | None]] = []
    decode = fixer.network.autoencoder.decode

    def hungry(latent: Tensor, kept: list[Tensor], tiling: Tiling | None = None) -> Tensor:
        attempts.append((len(latent), tiling))
        if not enough(len(latent), tiling):  # type: ignore[operator]
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return decode(latent, kept, tiling)

    monkeypatch.setattr(fixer.network.autoencoder, "decode", hungry)
    return attempts


def test_out_of_memory_is_tried_once_in_smaller_pieces(
    fixer: DifixFixer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    requests = requests_of(64, 80, 1, batch=3)
    expected = images(fixer, requests)
    attempts = starve(fixer, monkeypatch, lambda batch, tiling: tiling is not None)
    torch.testing.assert_close(images(fixer, requests), expected, atol=1e-4, rtol=0)
    assert [batch for batch, _ in attempts] == [3, 1, 1, 1]
    assert "out of memory with 3 pictures of 80x64 at once; again in smaller pieces" in " ".join(
        capsys.readouterr().err.split()
    )


def test_out_of_memory_for_good(fixer: DifixFixer, monkeypatch: pytest.MonkeyPatch):
    attempts = starve(fixer, monkeypatch, lambda batch, tiling: False)
    with pytest.raises(RuntimeError, match=r"80x64 with 1 references does not fit .* fewer references, bfloat16"):
        fixer.fix(requests_of(64, 80, 1))
    assert len(attempts) == 2


@pytest.mark.parametrize("shape", [(10, 200), (200, 10), (1, 1), (64, 80)])
def test_references_of_any_aspect(fixer: DifixFixer, shape: tuple[int, int]):
    request = FixRequest(
        picture(64, 80, 0), [PosedImage(picture(*shape, 1) if min(shape) > 1 else torch.rand(1, 1, 3))]
    )
    alone = fixer.fix([FixRequest(request.image)])[0].image
    result = fixer.fix([request])[0].image
    assert result.isfinite().all()
    assert (result - alone).abs().max() > 1e-4


def test_the_padding_of_a_reference_is_not_looked_at(fixer: DifixFixer):
    """Keys in the padding are masked: content there changes the result only through convolutions near the border."""
    network = fixer.network
    latents = torch.randn(1, 2, 4, 16, 16)
    other = latents.clone()
    other[:, 1, :, :, 8:] += 5.0
    filled = torch.tensor([[[16, 16], [16, 8]]])
    masks = network.masks(filled, (16, 16))
    assert masks is not None and {k: int(v.sum()) for k, v in masks.items()} == {256: 384, 64: 96, 16: 24}
    with torch.no_grad():
        for block in network.unet.down_blocks[0].attentions[0].transformer_blocks:
            hidden = torch.randn(2, 256, UNET["block_out_channels"][0])
            changed = hidden.clone()
            changed[1].view(16, 16, -1)[:, 8:] += 5.0
            a, b = (block.attn1(h, views=2, masks=masks) for h in (hidden, changed))
        torch.testing.assert_close(a[0], b[0])
        assert (a[1] - b[1]).abs().max() > 1e-4  # as a query it is used
        unmasked = block.attn1(changed, views=2)
    assert (unmasked[0] - b[0]).abs().max() > 1e-4
    assert network.masks(torch.full((1, 2, 2), 16), (16, 16)) is None
