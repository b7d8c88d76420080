"""Diffusion without networks: levels of noise, what a network's output means, and steps that take a clean estimate from
elsewhere.

Notation of Ho et al., "Denoising Diffusion Probabilistic Models" (2020) and Song et al., "Denoising Diffusion Implicit
Models" (2021): ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise``, where ``a_t`` is the cumulative product of the alphas.
diffusers' schedulers estimate ``x_0`` from the network's output alone; these steps are given one, since between two of
them a splat may have made it agree with other views (3DSR, Chen et al., ICCV 2025, equations 1 to 3).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]


def signal_levels(config: Mapping[str, Any]) -> Tensor:
    """Compute ``a_t`` [T], float64 on the CPU, of a scheduler.

    Args:
        config: betas as in a scheduler's JSON of diffusers; what else it has is ignored.

    Raises:
        ValueError: no such schedule of betas.
    """
    from diffusers import DDPMScheduler

    known = inspect.signature(DDPMScheduler).parameters
    used = {key: value for key, value in config.items() if key in known}
    with torch.device("cpu"):  # also where networks are built without memory of their own
        try:
            scheduler: Any = DDPMScheduler(**used)
            return scheduler.alphas_cumprod.double()
        except NotImplementedError as error:
            raise ValueError(f"unknown beta_schedule {config.get('beta_schedule')!r}") from error


def cosine_signal(time: Tensor) -> Tensor:
    """Compute ``a_t`` of the cosine schedule at continuous times in [0, 1] (Nichol and Dhariwal, 2021).

    The logarithm of the ratio of signal to noise is that of a_t / (1 - a_t), as SparseFusion's network is told.
    """
    angle = (time.double() + 0.008) / 1.008 * (math.pi / 2)
    return angle.cos().square().clamp(1e-6, 1 - 1e-6)


def noised(clean: Tensor, noise: Tensor, signal: float) -> Tensor:
    """Mix a clean tensor with noise at the level where ``a_t`` is ``signal``."""
    return signal**0.5 * clean + (1 - signal) ** 0.5 * noise


def clean_estimate(noisy: Tensor, output: Tensor, signal: float, prediction: str) -> Tensor:
    """Return the network's estimate of ``x_0``.

    Args:
        noisy: ``x_t``.
        output: of the network.
        signal: ``a_t``.
        prediction: what the network was trained to give: epsilon, v_prediction or sample.

    Raises:
        ValueError: none of these.
    """
    if prediction == "epsilon":
        return (noisy - (1 - signal) ** 0.5 * output) / signal**0.5
    if prediction == "v_prediction":
        return signal**0.5 * noisy - (1 - signal) ** 0.5 * output
    if prediction == "sample":
        return output
    raise ValueError(f"unknown prediction_type {prediction!r} in the scheduler's configuration")


def noise_estimate(noisy: Tensor, clean: Tensor, signal: float) -> Tensor:
    """Return the noise that turns ``clean`` into ``noisy`` where ``a_t`` is ``signal``."""
    return (noisy - signal**0.5 * clean) / (1 - signal) ** 0.5


def ddim_step(clean: Tensor, noise: Tensor, signal: float, next_signal: float, eta: float, fresh: Tensor) -> Tensor:
    """Go to the next, cleaner level (Song et al., equation 12; 3DSR, equation 3).

    Args:
        clean: estimate of ``x_0``, from anywhere.
        noise: the network's at this level.
        signal: ``a_t`` of this level.
        next_signal: of the next one, above ``signal``.
        eta: 0 deterministic, 1 as noisy as the DDPM.
        fresh: noise of unit variance, used if ``eta`` is above 0.
    """
    spread = eta * ((1 - next_signal) / (1 - signal) * (1 - signal / next_signal)) ** 0.5
    kept = max(0.0, 1 - next_signal - spread**2) ** 0.5
    return next_signal**0.5 * clean + kept * noise + spread * fresh


def anchored(noisy: Tensor, start: Tensor, share: float) -> Tensor:
    """Hold a noisy tensor to the start of its chain, noised to the same level (Hi3D's second stage).

    Args:
        noisy: ``x_t``.
        start: what the chain began with, at the level of ``noisy``, with the noise it began with.
        share: of ``start``.
    """
    return torch.lerp(noisy, start, share)


def anchoring(place: float) -> float:
    """Compute the share of the start at a place of the chain, from 0 (all of it) to 1 (none), as Hi3D's code does."""
    return float((0.5 * (1 + math.cos(place))) ** 40)


def posterior_step(clean: Tensor, noisy: Tensor, signal: float, next_signal: float, fresh: Tensor) -> Tensor:
    """Draw the next, cleaner level from the posterior of the chain respaced to these levels (Ho et al., equation 7).

    Args:
        clean: estimate of ``x_0``, from anywhere.
        noisy: ``x_t``.
        signal, next_signal: ``a_t`` of this level and of the next one.
        fresh: noise of unit variance.
    """
    alpha = signal / next_signal
    of_clean = next_signal**0.5 * (1 - alpha) / (1 - signal)
    of_noisy = alpha**0.5 * (1 - next_signal) / (1 - signal)
    spread = ((1 - next_signal) / (1 - signal) * (1 - alpha)) ** 0.5
    return of_clean * clean + of_noisy * noisy + spread * fresh


_RHO = 7.0  # of Karras et al.: the larger, the closer the last levels are to each other


def karras_sigmas(steps: int, lowest: float, highest: float) -> Tensor:
    """Compute levels of noise [steps + 1], float64, falling, the last of them 0 (Karras et al., 2022, equation 5).

    Here ``x = x_0 + sigma noise``; divided by ``sqrt(1 + sigma^2)`` it is ``x_t`` where ``a_t`` is
    ``signal_of(sigma)``.
    """
    places = torch.linspace(0, 1, steps, dtype=torch.float64)
    first, last = highest ** (1 / _RHO), lowest ** (1 / _RHO)
    return torch.cat([(first + places * (last - first)) ** _RHO, torch.zeros(1, dtype=torch.float64)])


def signal_of(sigma: float) -> float:
    """Return ``a_t`` of the level whose noise is ``sigma`` times as large as the signal."""
    return 1 / (1 + sigma**2)


def euler_step(noisy: Tensor, clean: Tensor, sigma: float, next_sigma: float) -> Tensor:
    """Go along the chain's ordinary differential equation (Karras et al., 2022, algorithm 1).

    Args:
        noisy: ``x_0 + sigma noise``.
        clean: estimate of ``x_0``, from anywhere.
        sigma, next_sigma: of this level and the next one.
    """
    return clean + next_sigma / sigma * (noisy - clean)


def rising_guidance(frames: int, highest: float) -> Tensor:
    """Guidance [frames] of a video that leaves its first frame: from 1, linearly, to ``highest`` (Blattmann et al.)."""
    return torch.linspace(1, highest, frames)


def closed_guidance(frames: int, highest: float, repeats: bool = False) -> Tensor:
    """Guidance [frames] of an orbit: 1, linearly to ``highest`` on the other side, and back (Voleti et al., SV3D).

    Args:
        frames: how many.
        highest: on the other side.
        repeats: whether the last frame has 1 as the first, as in SV3D; else it is a step before the first.
    """
    places = torch.linspace(0, 1, frames) if repeats else torch.arange(frames) / frames
    return 1 + (highest - 1) * (1 - (2 * places - 1).abs())
