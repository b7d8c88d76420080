"""Views predicted from photographs, in which a diffusion model makes up what these do not tell (SparseFusion)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from difix3d_ns.priors.base import GeneratedView, State
from difix3d_ns.priors.eft import read_net as read_epipolar_net
from difix3d_ns.priors.epipolar import padded
from difix3d_ns.priors.epipolar_views import EpipolarViewGenerator
from difix3d_ns.priors.networks.diffusion import cosine_signal, ddim_step, noise_estimate, noised
from difix3d_ns.priors.networks.eft_net import EpipolarNet
from difix3d_ns.priors.networks.view_denoiser import CHANNELS, ViewDenoiser
from difix3d_ns.priors.networks.weight_files import find_weights, loaded, read_weights

WEIGHTS = Path(__file__).parent / "weights" / "sparsefusion.safetensors"
STEPS = 10
"""of the sampler from noise alone; fewer from less noise"""
_KEPT = torch.float16


class SparseFusionViewGenerator(EpipolarViewGenerator):
    """``ViewDenoiser`` upon ``EpipolarNet``: first each camera's prediction, then a level of noise a step.

    Args:
        net: the epipolar network.
        denoiser: the diffusion model.
        device: where they live.
        everywhere: whether the diffusion model's picture is used where photographs show the surface as well.
    """

    generative = True
    _of_a_draw = ("render", "noisy", "clean")

    def __init__(
        self, net: EpipolarNet, denoiser: ViewDenoiser, device: torch.device, everywhere: bool = False
    ) -> None:
        super().__init__(net, device)
        self._denoiser = denoiser.eval().requires_grad_(False)
        self._everywhere = everywhere

    def _begun(self, renders: Sequence[Tensor] | None, noise: float, seed: int) -> dict[str, Tensor]:
        if not 0 <= noise <= 1:
            raise ValueError(f"noise {noise}: a number from 0 to 1 is needed")
        begun = {"noise": torch.tensor(noise), "seed": torch.tensor(seed), "denoised": torch.tensor(0)}
        if renders is None:
            return {**begun, "from_renders": torch.tensor(False)}
        kept = {f"render/{number}": render.detach().cpu().to(_KEPT) for number, render in enumerate(renders)}
        return {**begun, **kept, "from_renders": torch.tensor(True)}

    def steps_left(self, state: State) -> int:
        return super().steps_left(state) + self._cameras(state) * _levels(state) - int(state["denoised"])

    @torch.no_grad()
    def step(self, state: State) -> State:
        if super().steps_left(state):
            return self._predicted(state)
        number, place = divmod(int(state["denoised"]), _levels(state))
        signals = sampled_signals(float(state["noise"]))
        signal, following = float(signals[place]), float(signals[place + 1])
        predicted = padded(state[f"image/{number}"]).to(self._device)
        noisy = state["noisy"].to(self._device).float() if place else self._noised(state, number, predicted, signal)
        conditions = self._conditions(state, number, predicted)
        clean, noisy = sampled_step(self._denoiser, noisy, conditions, signal, following)
        last = place + 1 == _levels(state)
        kept = {f"clean/{number}": clean.cpu().to(_KEPT)} if last else {"noisy": noisy.cpu()}
        return {**state, **kept, "denoised": state["denoised"] + 1}

    def _noised(self, state: State, number: int, predicted: Tensor, signal: float) -> Tensor:
        generator = torch.Generator().manual_seed(int(state["seed"]) + number)
        height, width = (side // 4 for side in predicted.shape[-2:])
        noise = torch.randn(1, CHANNELS, height, width, generator=generator).to(self._device)
        if not bool(state["from_renders"]):
            return noised(torch.zeros_like(noise), noise, signal)
        render = padded(state[f"render/{number}"]).to(self._device)
        return noised(self._denoiser.encode(render, predicted), noise, signal)

    def _conditions(self, state: State, number: int, predicted: Tensor) -> Tensor:
        hidden = state[f"hidden/{number}"].to(self._device).float()
        known = padded(state[f"known/{number}"]).to(self._device)
        return self._denoiser.conditions(predicted, hidden, known)

    @torch.no_grad()
    def _view(self, state: State, number: int) -> GeneratedView:
        view = super()._view(state, number)
        if not _levels(state):
            return view
        height, width = view.image.shape[:2]
        predicted = padded(state[f"image/{number}"]).to(self._device)
        made = self._denoiser.decode(state[f"clean/{number}"].to(self._device).float(), predicted)
        picture = made[0, :, :height, :width].permute(1, 2, 0).clamp(0, 1).cpu()
        weight = 1 - float(cosine_signal(state["noise"]))
        if self._everywhere:
            return replace(view, image=picture, confidence=torch.ones_like(view.confidence), weight=weight)
        assert view.visible is not None
        unseen = 1 - view.visible
        # Where no photograph shows anything, the splat learns as much as was made up; elsewhere what photographs tell.
        return replace(
            view,
            image=torch.lerp(view.image, picture, unseen),
            confidence=torch.maximum(view.confidence, weight * unseen),
        )


def _levels(state: State) -> int:
    """Steps of the sampler from a state's level of noise."""
    return len(sampled_signals(float(state["noise"]))) - 1


def sampled_signals(noise: float) -> Tensor:
    """Compute ``a_t`` at the levels that the sampler goes through, from a level of noise to none, [steps + 1]."""
    steps = math.ceil(STEPS * noise - 1e-6)
    return cosine_signal(noise * torch.linspace(1, 0, steps + 1)) if steps else torch.ones(1)


def sampled_step(
    denoiser: ViewDenoiser, noisy: Tensor, conditions: Tensor, signal: float, following: float
) -> tuple[Tensor, Tensor]:
    """Estimate clean latents, and go to the next, cleaner level without fresh noise.

    Args:
        denoiser: the diffusion model.
        noisy, conditions: see ``ViewDenoiser.forward``.
        signal, following: ``a_t`` of this level and of the next one.
    """
    clean = denoiser(noisy, conditions, torch.tensor([signal]))
    noise = noise_estimate(noisy, clean, signal)
    return clean, ddim_step(clean, noise, signal, following, 0.0, torch.zeros_like(noise))


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    everywhere: bool = False,
) -> SparseFusionViewGenerator:
    """Read the diffusion model from a .safetensors file with its .json beside it.

    Args:
        weights: such a file, a folder with one ("weights.safetensors", as ``difix3d train-prior sparsefusion``
            writes), or None for the package's own. The epipolar network that it learned on, "eft.safetensors", lies
            beside it.
        device: where the networks live.
        dtype: ignored: they compute in float32.
        everywhere: see ``SparseFusionViewGenerator``.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: it cannot be read or does not fit.
    """
    place, path = torch.device(device), _find(weights)
    epipolar = read_epipolar_net(str(path.with_name("eft.safetensors"))).to(place)
    denoiser = read_net(str(path)).to(place).to(memory_format=torch.channels_last)
    return SparseFusionViewGenerator(epipolar, denoiser, place, everywhere)


def _find(weights: str | None) -> Path:
    return find_weights(WEIGHTS if weights is None else weights, "sparsefusion", "sparsefusion", "sparsefusion")


def read_net(weights: str | None) -> ViewDenoiser:
    """Read the diffusion model (float32, on the CPU); errors and argument as of ``load``."""
    remedy = "a folder written by `difix3d train-prior sparsefusion`"
    return read_weights(
        _find(weights), lambda config, tensors: loaded(ViewDenoiser(**config["net"]), tensors), "sparsefusion", remedy
    )
