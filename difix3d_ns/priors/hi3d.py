"""The refiner of orbits: a small diffusion model of what renders of a splat lack, agreed among frames (Hi3D)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.priors.base import OrbitFrame, OrbitRefiner, State
from difix3d_ns.priors.networks.diffusion import anchored, anchoring, ddim_step, noise_estimate, noised
from difix3d_ns.priors.networks.orbit_frames import agreed, depth_conditions, normalised_depths
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.priors.networks.residual_net import Enlargement, ResidualNet
from difix3d_ns.priors.networks.weight_files import find_weights, read_weights
from difix3d_ns.priors.residual import build_net

WEIGHTS = Path(__file__).parent / "weights" / "hi3d.safetensors"
LEVELS = (0,)
"""timesteps of the chain, falling. Hi3D's has 25 and is anchored to its start; of this network, one pass without noise
was better than 666, 333, 0, by 0.4 and 0.1 dB on two objects"""
AGREEMENT = 0.25
"""weight of a neighbouring frame that shows the same surface"""
_FACTOR = 2
_REACH = 4  # pixels around a surface: its edge may lie elsewhere
_KEPT = torch.float16


class ResidualOrbitRefiner(OrbitRefiner):
    """``ResidualNet`` behind the contract of ``OrbitRefiner``: a frame a step, and after each level an agreement.

    Yang et al., "Hi3D: Pursuing High-Resolution Image-to-3D Generation with Video Diffusion Models", ACM MM 2024,
    section 3.3: a chain of several levels is anchored to the frames it begins with, and the network knows their depth,
    here the splat's, normalised once for all frames. In place of attention over time, frames agree by geometry: what
    two of them add to one surface is mixed.

    Args:
        net: the network.
        signals: ``a_t`` of each timestep, [T].
        device: where the network lives.
        agreement: weight of a neighbouring frame; 0: each frame is refined alone.
        levels: see ``LEVELS``.
    """

    factor = _FACTOR

    def __init__(
        self,
        net: ResidualNet,
        signals: Tensor,
        device: torch.device,
        agreement: float = AGREEMENT,
        levels: Sequence[int] = LEVELS,
    ) -> None:
        self.net = net.eval().requires_grad_(False)
        self._levels = tuple(levels)
        self._signals = signals
        self._device, self._agreement = device, agreement

    def start(self, frames: Sequence[OrbitFrame], seed: int = 0) -> State:
        if not frames:
            raise ValueError("an orbit has at least one frame")
        if len({frame.image.shape for frame in frames}) > 1:
            raise ValueError("the frames of an orbit have one size")
        known = [frame.depth is not None for frame in frames]
        if any(known) and not all(known):
            raise ValueError("depth is given of all frames, or of none")
        cameras = [frame.camera for frame in frames]
        state = {
            "frames": _planes([frame.image for frame in frames]).to(_KEPT),
            "camera_to_world": torch.stack([camera.camera_to_world.cpu().double() for camera in cameras]),
            "intrinsics": torch.stack([camera.intrinsics.cpu().double() for camera in cameras]),
            "seed": torch.tensor(seed),
            "levels": torch.tensor(self._levels),
            "agreement": torch.tensor(self._agreement),
            "done": torch.tensor(0),
        }
        height, width = (_FACTOR * side for side in frames[0].image.shape[:2])
        if all(known):
            depths = [frame.depth for frame in frames if frame.depth is not None]
            planes = [F.interpolate(_planes([depth]), (height, width), mode="nearest-exact") for depth in depths]
            state["depths"] = torch.cat(planes)
            state["told"] = normalised_depths(state["depths"]).to(_KEPT)
        for number, frame in enumerate(frames):
            if frame.photo is not None:
                state[f"photo/{number}"] = _planes([resampled(frame.photo, height, width)]).to(_KEPT)
        return state

    def steps_left(self, state: State) -> int:
        return len(state["levels"]) * (_count(state) + 1) - int(state["done"])

    @torch.no_grad()
    def step(self, state: State) -> State:
        place, number = divmod(int(state["done"]), _count(state) + 1)
        made = self._agree(state, place) if number == _count(state) else self._estimate(state, place, number)
        return {**state, **made, "done": state["done"] + 1}

    def result(self, state: State) -> list[Tensor]:
        return [self._refined(state, number)[0].permute(1, 2, 0).clamp(0, 1).cpu() for number in _all(state)]

    def _refined(self, state: State, number: int) -> Tensor:
        """A frame [1, 3, H, W] with what was added to it; nothing is where the splat has no surface nearby."""
        enlarged = self._enlarged(state, number)
        picture = enlarged.decode(self._of(state, "clean", number))
        if "depths" not in state or f"photo/{number}" in state:
            return picture
        near = F.max_pool2d((state["depths"][number : number + 1] > 0).float(), 2 * _REACH + 1, 1, _REACH)
        return torch.lerp(enlarged.picture, picture, near.to(self._device))

    def _estimate(self, state: State, place: int, number: int) -> dict[str, Tensor]:
        """Clean latent of a frame, by the network, or by its photograph."""
        enlarged = self._enlarged(state, number)
        if (photo := state.get(f"photo/{number}")) is not None:
            return {f"clean/{number}": enlarged.encode(photo.to(self._device).float()).cpu().to(_KEPT)}
        noisy = self._noisy(state, place, number, enlarged)
        height, width = noisy.shape[-2:]
        if "told" in state:
            depth = depth_conditions(state["told"][number : number + 1].to(self._device).float(), height, width)
        else:
            depth = noisy.new_zeros(1, self.net.extra, height, width)
        conditions = torch.cat([enlarged.conditions(), depth], 1)
        level = state["levels"][place : place + 1].to(self._device)
        signal = noisy.new_full((1,), self._signal(state, place))
        clean = self.net.in_tiles(noisy, conditions, level, signal, enlarged.factor)
        return {f"clean/{number}": clean.cpu().to(_KEPT)}

    def _agree(self, state: State, place: int) -> dict[str, Tensor]:
        """Clean latents that agree, and unless it was the last level the noisy ones of the next."""
        made: dict[str, Tensor] = {}
        enlarged = [self._enlarged(state, number) for number in _all(state)]
        cleans = [self._of(state, "clean", number) for number in _all(state)]
        agreement, levels = float(state["agreement"]), len(state["levels"])
        if agreement and "depths" in state and len(cleans) > 2:
            shown = [one.decode(clean) - one.picture for one, clean in zip(enlarged, cleans, strict=True)]
            depths, cameras = state["depths"].to(self._device), _cameras(state)
            mixed = agreed(torch.cat(shown), depths, cameras, agreement)
            cleans = [
                clean
                if f"photo/{number}" in state
                else enlarged[number].encode(enlarged[number].picture + mixed[number])
                for number, clean in enumerate(cleans)
            ]
            made |= {f"clean/{number}": clean.cpu().to(_KEPT) for number, clean in enumerate(cleans)}
        if place + 1 < levels:
            signal, following = self._signal(state, place), self._signal(state, place + 1)
            for number, clean in enumerate(cleans):
                noisy = self._noisy(state, place, number, enlarged[number])
                noise = noise_estimate(noisy, clean, signal)
                noisy = ddim_step(clean, noise, signal, following, 0.0, torch.zeros_like(noise))
                start = self._start(state, number, following, enlarged[number])
                noisy = anchored(noisy, start, anchoring((place + 1) / levels))
                made[f"noisy/{number}"] = noisy.cpu().to(_KEPT)
        return made

    def _signal(self, state: State, place: int) -> float:
        """``a_t`` of a level of the chain."""
        return float(self._signals[int(state["levels"][place])])

    def _noisy(self, state: State, place: int, number: int, enlarged: Enlargement) -> Tensor:
        """Noisy latent of a frame at a level of the chain."""
        if place:
            return self._of(state, "noisy", number)
        return self._start(state, number, self._signal(state, 0), enlarged)

    def _start(self, state: State, number: int, signal: float, enlarged: Enlargement) -> Tensor:
        """Latent of the frame as it is, which is 0, with the noise of its chain at a level."""
        nothing = enlarged.encode(enlarged.picture)
        generator = torch.Generator().manual_seed(int(state["seed"]) + number)
        noise = torch.randn(nothing.shape, generator=generator).to(nothing)
        return noised(nothing, noise, signal)

    def _enlarged(self, state: State, number: int) -> Enlargement:
        low = state["frames"][number : number + 1].to(self._device).float()
        height, width = (_FACTOR * side for side in low.shape[-2:])
        return Enlargement(low, (height, width), self.net.scales)

    def _of(self, state: State, kind: str, number: int) -> Tensor:
        return state[f"{kind}/{number}"].to(self._device).float()


def _count(state: State) -> int:
    return len(state["frames"])


def _all(state: State) -> range:
    return range(_count(state))


def _cameras(state: State) -> list[Pinhole]:
    """Cameras of the results."""
    height, width = state["frames"].shape[-2:]
    return [
        Pinhole(pose, intrinsics, width, height).resized(_FACTOR * width, _FACTOR * height)
        for pose, intrinsics in zip(state["camera_to_world"], state["intrinsics"], strict=True)
    ]


def _planes(maps: Sequence[Tensor]) -> Tensor:
    """Maps [H, W, C] as [N, C, H, W] on the CPU."""
    return torch.stack([values.detach().cpu().float().permute(2, 0, 1) for values in maps])


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    agreement: float = AGREEMENT,
    levels: Sequence[int] = LEVELS,
) -> OrbitRefiner:
    """Read the refiner from a .safetensors file with its .json beside it.

    Args:
        weights: such a file, a folder with one ("weights.safetensors", as ``difix3d train-prior hi3d`` writes), or None
            for the package's own.
        device: where the network lives.
        dtype: its precision; None for ``fast_dtype``.
        agreement: weight of a neighbouring frame that shows the same surface, 0 or more.
        levels: timesteps of the chain, falling.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: it cannot be read or does not fit.
        ValueError: ``agreement`` is below 0.
    """
    if agreement < 0:
        raise ValueError(f"agreement {agreement}: 0 or more is needed")
    net, signals = read_net(weights)
    net = net.to(device, dtype or fast_dtype(torch.device(device).type)).to(memory_format=torch.channels_last)
    return ResidualOrbitRefiner(net, signals, torch.device(device), agreement, levels)


def read_net(weights: str | None) -> tuple[ResidualNet, Tensor]:
    """Read network (float32, on the CPU) and signal levels [T] from weights; errors and argument as of ``load``."""
    return read_weights(
        find_weights(WEIGHTS if weights is None else weights, "hi3d", "orbit refiner", "hi3d"),
        build_net,
        "orbit refiner",
        "--pipeline.guidance.orbit-refiner.weights a folder written by `difix3d train-prior hi3d`",
    )
