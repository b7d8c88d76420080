"""The Difix architecture at a tiny size: what mixing, padding and skips must and must not do."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from difix3d_ns.priors.alignment.aligned_references import MAX_REFERENCES
from difix3d_ns.priors.networks.blend_net import BlendNet
from difix3d_ns.priors.networks.difix_net import DifixNet
from difix3d_ns.priors.networks.stages import EmbeddedChain
from tests.unit.tiny_fixers import CHAIN, SCHEDULER, UNET, VAE


def network(seed: int = 0, **scheduler) -> DifixNet:
    torch.manual_seed(seed)
    net = DifixNet(UNET, VAE, {**SCHEDULER, **scheduler}, torch.randn(3, 8)).eval()
    for skip in net.skips:
        torch.nn.init.normal_(skip.weight, std=0.1)
    return net


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47), (8, 8), (1, 1)])
def test_any_size(height: int, width: int):
    with torch.no_grad():
        out = network()(torch.rand(2, 3, 3, height, width))
    assert out.shape == (2, 3, height, width)
    assert out.isfinite().all()


def test_padding_is_edge_replication():
    net, picture = network(), torch.rand(1, 1, 3, 33, 47)
    padded = torch.nn.functional.pad(picture[0], (0, 1, 0, 3), mode="replicate")[None]
    with torch.no_grad():
        torch.testing.assert_close(net(picture), net(padded)[..., :33, :47])


def test_batch_equals_one_by_one():
    net, views = network(), torch.rand(3, 2, 3, 32, 32)
    with torch.no_grad():
        together, alone = net(views), torch.cat([net(view[None]) for view in views])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_references_matter_their_order_does_not_and_one_view_is_the_plain_model():
    net, views = network(), torch.rand(1, 3, 3, 32, 32)
    plain = UNet2DConditionModel.from_config(UNET).eval()
    plain.load_state_dict(net.unet.state_dict())
    with torch.no_grad():
        alone = net(views[:, :1])
        assert (net(views) - alone).abs().max() > 1e-5
        torch.testing.assert_close(net(views), net(views[:, [0, 2, 1]]), atol=1e-5, rtol=1e-4)
        latent = torch.randn(2, 4, 8, 8)
        prompt = net.prompt.expand(2, -1, -1)
        torch.testing.assert_close(
            net.unet(latent, 199, prompt, cross_attention_kwargs={"views": 1}).sample,
            plain(latent, 199, prompt).sample,
            atol=1e-5,
            rtol=1e-4,
        )


def test_mixing_equals_one_long_sequence():
    """The processor against diffusers' own attention on views laid end to end."""
    net = network()
    attention = net.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1
    tokens = torch.randn(2 * 3, 5, 16)
    with torch.no_grad():
        mixed = attention(tokens, views=3)
        attention.set_processor(type(UNet2DConditionModel.from_config(UNET).attn_processors.popitem()[1])())
        expected = attention(tokens.view(2, 15, 16)).view(6, 5, 16)
    torch.testing.assert_close(mixed, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_clean_latent_is_the_schedulers(kind: str):
    net = network(prediction_type=kind)
    scheduler = DDPMScheduler(**{**SCHEDULER, "prediction_type": kind}, clip_sample=False)
    latent, prediction = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    expected = scheduler.step(prediction, 199, latent).pred_original_sample
    torch.testing.assert_close(net._clean(latent, prediction), expected, atol=1e-5, rtol=1e-5)
    assert net.alpha_bar == pytest.approx(0.75524, abs=1e-5)


def test_skips_carry_the_encoder_to_the_decoder():
    net, picture = network(), torch.rand(1, 1, 3, 32, 32)
    with torch.no_grad():
        before = net(picture)
        net.autoencoder.gamma = 0.0
        assert (net(picture) - before).abs().max() > 1e-4


def test_blend_starts_as_visibility_weighted_mean_and_never_leaves_the_unseen():
    net = BlendNet((8, 8, 8))
    image, warps, visibility = (
        torch.rand(1, 3, 33, 47),
        torch.rand(1, MAX_REFERENCES, 3, 33, 47),
        torch.rand(1, MAX_REFERENCES, 1, 33, 47),
    )
    visibility[..., :20] = 0
    blend, weights = net(image, torch.ones(1, 1, 33, 47), warps, visibility)
    expected = (image + (visibility * warps).sum(1)) / (1 + visibility.sum(1))
    torch.testing.assert_close(blend, expected)
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 33, 47))
    torch.nn.init.normal_(net.leave.weight)
    blend, _ = net(image, torch.ones(1, 1, 33, 47), warps, visibility)
    assert (blend[..., :20] - image[..., :20]).abs().max() < 1e-6
    assert (blend[..., 20:] - expected[..., 20:]).abs().max() > 1e-3


@pytest.mark.parametrize("count", [0, 1, 3])
def test_chain_starts_as_its_blend_and_the_gate_keeps_out_of_the_unseen(count: int):
    chain = EmbeddedChain(CHAIN).eval()
    image, alpha = torch.rand(1, 3, 33, 47), torch.ones(1, 1, 33, 47)
    warps, visibility = torch.rand(1, count, 3, 33, 47), torch.rand(1, count, 1, 33, 47)
    visibility[..., :20] = 0
    with torch.no_grad():
        out = chain(image, alpha, warps, visibility)
        torch.testing.assert_close(out.image, out.blend)
        torch.nn.init.normal_(chain.gate[2].weight)
        out = chain(image, alpha, warps, visibility)
    torch.testing.assert_close(out.image[..., :20], image[..., :20])
    assert (((out.image - out.blend).abs().amax(1) > 1e-4).any()) == (count > 0)
