"""Upscaling by a diffusion model whose clean estimates are replaced by a splat's renders between its levels (3DSR).

Chen et al., "Bridging Diffusion Models and 3D Representations: A 3D Consistent Super-Resolution Framework", ICCV 2025.
Which networks estimate, and in which space, is the subclass's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from difix3d_ns.geometry.resampling import back_project_to_agree, resample
from difix3d_ns.priors.base import State, picture_round
from difix3d_ns.priors.networks.diffusion import ddim_step, noise_estimate, noised, posterior_step

LEVELS = (999, 666, 333, 0)
"""timesteps of the paper's four rounds"""
Transition = Literal["ddim", "posterior", "fresh", "released"]
"""how the next level is reached: the paper's DDIM step; a draw from the DDPM's posterior; other noise each round; the
posterior from noise at the first round's level that all photographs share, in every round, as the released code does"""
_SHARED_SEED = 0
_KEPT = torch.float16  # of latents between calls: half the disk, and rounding far below the noise


class AlternatingUpscaler(ABC):
    """Upscaler of one photograph at a time; see ``priors.base.Upscaler``.

    Args:
        signals: ``a_t`` of each timestep, [T].
        device: where the networks live.
        levels: timesteps of the rounds, falling.
        transition: how the next level is reached.
        eta: noise of the DDIM step, 0 to 1.
        samples: estimates from so many seeds, whose mean is the result.
        back_projection: whether results are made to agree with the photograph.

    Raises:
        ValueError: an argument out of its range.
    """

    joint = False

    def __init__(
        self,
        signals: Tensor,
        device: torch.device,
        levels: Sequence[int] = LEVELS,
        transition: Transition = "ddim",
        eta: float = 0.0,
        samples: int = 1,
        back_projection: bool = True,
    ) -> None:
        if transition not in get_args(Transition):
            raise ValueError(f"transition {transition!r}: one of {', '.join(get_args(Transition))} is needed")
        if not 0 <= eta <= 1 or samples < 1:
            raise ValueError(f"eta {eta}, samples {samples}: eta is from 0 to 1, samples are at least 1")
        self.device = device
        self.levels = tuple(levels)
        self._signals = [float(signals[level]) for level in self.levels]
        self._transition, self._eta, self._samples = transition, eta, samples
        self._back_projection = back_projection

    @abstractmethod
    def encode(self, picture: Tensor, low: Tensor) -> Tensor:
        """Turn a picture [1, 3, H, W] in [0, 1] of a photograph [1, 3, h_low, w_low] into a latent [1, C, h, w]."""

    @abstractmethod
    def decode(self, latent: Tensor, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Turn a latent into a picture [1, 3, H, W], not clamped, of the size ``inner_size`` gave."""

    @abstractmethod
    def estimate(self, noisy: Tensor, level: int, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Estimate the clean latent: one pass of the network.

        Args:
            noisy: [1, C, h, w].
            level: timestep.
            low: [1, 3, h_low, w_low] the photograph, or what ``condition`` made of it.
            size: height and width of the picture that is made.
        """

    def condition(self, low: Tensor, seed: int, sample: int) -> Tensor:
        """Return what ``estimate`` is shown of a photograph: itself, unless the subclass has other needs.

        Args:
            low: [1, 3, h_low, w_low] the photograph.
            seed: of the photograph's random draws; the same in every round.
            sample: number of the estimate among ``samples``.
        """
        return low

    def inner_size(self, low: Tensor, size: tuple[int, int]) -> tuple[int, int]:
        """Size at which the network works on a picture of some size; the result is reduced from it."""
        return size

    @property
    def rounds(self) -> int:
        """Number of levels."""
        return len(self.levels)

    def level(self, round: int) -> str:
        """Timestep of a round."""
        return str(self.levels[round])

    @torch.no_grad()
    def start(
        self,
        lows: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        seeds: Sequence[int],
        renders: Sequence[Tensor] | None = None,
    ) -> State:
        (low,), (size,), (seed,) = lows, sizes, seeds
        round = 0 if renders is None else picture_round(self.rounds)
        photo = self._picture(low)
        shown = resample(photo, *size) if renders is None else self._picture(renders[0])
        clean = self.encode(self._inner(shown, photo, size), photo)
        noise = self._noise((self._samples, *clean.shape[1:]), seed, 0)
        state = {
            "low": low.detach().float().cpu(),
            "size": torch.tensor(size),
            "seed": torch.tensor(seed),
            "round": torch.tensor(round),
            "noisy": self._kept(noised(clean, noise, self._signals[round])),
        }
        if self._transition == "released":
            shared = self._noise(noise.shape, _SHARED_SEED, 0)
            state["first"] = self._kept(noised(clean, shared, self._signals[round]))
        return state

    def steps_left(self, state: State) -> int:
        return self._samples - len(state.get("clean", ()))

    @torch.no_grad()
    def step(self, state: State) -> State:
        done = state.get("clean")
        number = 0 if done is None else len(done)
        photo, size = self._picture(state["low"]), self._size(state)
        noisy = state["noisy"][number : number + 1].to(self.device).float()
        shown = self.condition(photo, int(state["seed"]), number)
        clean = self._kept(self.estimate(noisy, self.levels[int(state["round"])], shown, size))
        return {**state, "clean": clean if done is None else torch.cat([done, clean])}

    @torch.no_grad()
    def result(self, state: State) -> list[Tensor]:
        photo, size = self._picture(state["low"]), self._size(state)
        clean = state["clean"].to(self.device).float()
        pictures = [self.decode(one[None], photo, self.inner_size(photo, size)) for one in clean]
        picture = resample(torch.stack(pictures).mean(0), *size).clamp(0, 1)
        if self._back_projection:
            picture = back_project_to_agree(picture, photo)
        return [picture[0].permute(1, 2, 0).contiguous()]

    @torch.no_grad()
    def advance(self, state: State, renders: Sequence[Tensor]) -> State:
        round = int(state["round"])
        signal, following = self._signals[round], self._signals[round + 1]
        photo, size = self._picture(state["low"]), self._size(state)
        shown = self.encode(self._inner(self._picture(renders[0]), photo, size), photo)
        noisy, clean = (state[name].to(self.device).float() for name in ("noisy", "clean"))
        released = self._transition == "released"
        drawn = self._transition != "ddim" or self._eta > 0
        fresh = self._noise(noisy.shape, int(state["seed"]), round + 1) if drawn else torch.zeros_like(noisy)
        if self._transition == "fresh":
            noisy = noised(shown, fresh, following)
        elif self._transition == "ddim":
            noise = noise_estimate(noisy, clean, signal)
            noisy = ddim_step(shown.expand_as(noise), noise, signal, following, self._eta, fresh)
        else:
            before = state.get("first", state["noisy"]).to(self.device).float() if released else noisy
            noisy = posterior_step(shown, before, signal, following, fresh)
        kept = {name: state[name] for name in ("low", "size", "seed")}
        if released:
            kept["first"] = state.get("first", state["noisy"])  # begun with another transition, it has none
        return {**kept, "round": torch.tensor(round + 1), "noisy": self._kept(noisy)}

    def _picture(self, picture: Tensor) -> Tensor:  # [H, W, 3] -> [1, 3, H, W]
        return picture.detach().to(self.device).float().permute(2, 0, 1)[None]

    def _inner(self, picture: Tensor, photo: Tensor, size: tuple[int, int]) -> Tensor:
        return resample(picture, *self.inner_size(photo, size)).clamp(0, 1)

    @staticmethod
    def _size(state: State) -> tuple[int, int]:
        height, width = state["size"].tolist()
        return height, width

    @staticmethod
    def _kept(latent: Tensor) -> Tensor:
        return latent.to("cpu", _KEPT)

    def _noise(self, shape: Sequence[int], seed: int, round: int) -> Tensor:
        """Draw on the CPU: the same on every device."""
        generator = torch.Generator().manual_seed(seed * len(self.levels) + round)
        return torch.randn(tuple(shape), generator=generator).to(self.device)
