"""The chain of a video diffusion model of orbits, in pieces that can be saved: encode, denoise jointly, decode."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from difix3d_ns.priors.base import State
from difix3d_ns.priors.networks.diffusion import (
    anchored,
    anchoring,
    clean_estimate,
    euler_step,
    signal_of,
)
from difix3d_ns.priors.networks.latent_autoencoder import LatentAutoencoder

MULTIPLE = 64
"""of the sides of pictures: latents are an eighth, and the UNet halves them three times"""
_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""of colours, as CLIP was trained"""
_KEPT = torch.float16
_STREAM = 4096  # seeds between two pieces of work


class VideoChain:
    """A UNet over frames, its autoencoder and its encoder of one picture.

    A step encodes a picture, takes one of the chain's steps with all frames, or decodes a frame. The chain is that of
    Karras et al. by Euler, with v-prediction; where nothing is shown to the network its vector stays.

    Args:
        unet: a UNetSpatioTemporalConditionModel that is given the finished vector.
        autoencoder: an AutoencoderKL.
        encoder: a CLIPVisionModelWithProjection.
        device: where they live.
        sigmas: levels of noise [S + 1], falling to 0.
        noise: on the pictures that the network is shown.
        hold: whether the chain is held to the latents of the pictures, one for each frame (Hi3D, section 3.3).
    """

    def __init__(
        self,
        unet: Any,
        autoencoder: Any,
        encoder: Any,
        device: torch.device,
        sigmas: Tensor,
        noise: float,
        hold: bool,
    ) -> None:
        self._unet, self._encoder = (network.eval().requires_grad_(False) for network in (unet, encoder))
        self._autoencoder = LatentAutoencoder(autoencoder.eval().requires_grad_(False))
        self._scale = float(autoencoder.config.scaling_factor)
        self._device, self._sigmas, self._noise, self._hold = device, sigmas.double(), noise, hold

    @torch.no_grad()
    def start(
        self, pictures: Tensor, first: Tensor, vector: Tensor, guidance: Tensor, depth: Tensor | None, seed: int
    ) -> State:
        """Create a state.

        Args:
            pictures: [M, 3, H, W] in [0, 1], sides multiples of ``MULTIPLE``: one for each frame, or one.
            first: [3, h, w] in [0, 1], what CLIP sees.
            vector: [V].
            guidance: [N] of each frame.
            depth: [N, C, H/8, W/8] shown beside the pictures' latents, or None.
            seed: of all random draws.
        """
        pixels = F.interpolate(first[None].cpu().float(), (224, 224), mode="bicubic", antialias=True)
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
        pixels = ((pixels - mean) / deviation).to(self._device, self._encoder.dtype)
        state = {
            "pictures": pictures.cpu().to(_KEPT),
            "context": self._encoder(pixel_values=pixels).image_embeds.float().cpu(),
            "vector": vector.cpu().float(),
            "guidance": guidance.cpu().float(),
            "sigmas": self._sigmas,
            "seed": torch.tensor(seed),
            "done": torch.tensor(0),
        }
        return state if depth is None else {**state, "depth": depth.cpu().to(_KEPT)}

    def steps_left(self, state: State) -> int:
        """Number of steps until all frames are decoded."""
        encoded, denoised, decoded = self._counts(state)
        return encoded + denoised + decoded - int(state["done"])

    @torch.no_grad()
    def step(self, state: State) -> State:
        """Do one piece of the work."""
        encoded, denoised, _ = self._counts(state)
        done = int(state["done"])
        if done < encoded:
            made = self._encode(state, done)
        elif done < encoded + denoised:
            made = {"noisy": self._denoise(state, done - encoded)}
        else:
            made = self._decode(state, done - encoded - denoised)
        return {**state, **made, "done": state["done"] + 1}

    def frame(self, state: State, number: int) -> Tensor:
        """Decoded frame [3, H, W] in [0, 1], float32."""
        return state[f"frame/{number}"].float()

    def _counts(self, state: State) -> tuple[int, int, int]:
        return len(state["pictures"]), len(state["sigmas"]) - 1, len(state["guidance"])

    def _encode(self, state: State, number: int) -> dict[str, Tensor]:
        """Latents of a picture: with noise and without scale, as it is shown; plain and scaled, to hold to."""
        picture = 2 * state["pictures"][number : number + 1].float() - 1
        generator = torch.Generator().manual_seed(-1 - _STREAM * int(state["seed"]) - number)
        noisy = picture + self._noise * torch.randn(picture.shape, generator=generator)
        made = {f"shown/{number}": (self._autoencoder.encode(noisy.to(self._device)) / self._scale).cpu()}
        if self._hold:
            made[f"start/{number}"] = self._autoencoder.encode(picture.to(self._device)).cpu()
        return made

    def _denoise(self, state: State, place: int) -> Tensor:
        """Noisy latents [N, 4, h, w] of the next level."""
        frames, pictures = len(state["guidance"]), len(state["pictures"])
        shown = torch.cat([state[f"shown/{number}"] for number in range(pictures)]).expand(frames, -1, -1, -1)
        sigma, following = (float(level) for level in state["sigmas"][place : place + 2])
        generator = torch.Generator().manual_seed(int(state["seed"]))
        noise = torch.randn(shown.shape, generator=generator)
        noisy = state["noisy"] if place else noise * (1 + sigma**2) ** 0.5
        if self._hold:
            start = torch.cat([state[f"start/{number}"] for number in range(pictures)])
            noisy = anchored(noisy, start + sigma * noise, anchoring(place / (len(state["sigmas"]) - 1)))
        condition = torch.cat([state["depth"].float(), shown], 1) if "depth" in state else shown
        context, vector, guidance = (state[name].to(self._device) for name in ("context", "vector", "guidance"))
        noisy, condition = noisy.to(self._device), condition.to(self._device)
        with_all = self._estimate(noisy, condition, context, vector, sigma)
        without = self._estimate(noisy, torch.zeros_like(condition), torch.zeros_like(context), vector, sigma)
        clean = without + guidance.view(-1, 1, 1, 1) * (with_all - without)
        if not bool(clean.isfinite().all()):
            precision = str(self._unet.dtype).removeprefix("torch.")
            raise RuntimeError(f"the video network gives no finite numbers in {precision}; use bfloat16 or float32")
        return euler_step(noisy, clean, sigma, following).cpu()

    def _estimate(self, noisy: Tensor, condition: Tensor, context: Tensor, vector: Tensor, sigma: float) -> Tensor:
        """Clean latents [N, 4, h, w] as the network estimates them without guidance."""
        signal = signal_of(sigma)
        scaled = noisy * signal**0.5
        kind = self._unet.dtype
        given = torch.cat([scaled, condition], 1)[None].to(kind)
        time = torch.tensor(math.log(sigma) / 4, device=noisy.device)
        output = self._unet(given, time, context[None].to(kind), vector[None].to(kind)).sample[0].float()
        return clean_estimate(scaled, output, signal, "v_prediction")

    def _decode(self, state: State, number: int) -> dict[str, Tensor]:
        latent = state["noisy"][number : number + 1].to(self._device)
        picture = (self._autoencoder.decode(latent)[0] / 2 + 0.5).clamp(0, 1)
        return {f"frame/{number}": picture.cpu().to(_KEPT)}


def embedded(value: float, size: int) -> Tensor:
    """Embed a number in [size] cosines and sines of it, a 0 at the end if the size is odd."""
    return get_timestep_embedding(torch.tensor([value]), size, flip_sin_to_cos=True, downscale_freq_shift=0)[0]
