"""Hi3D's second stage with published weights: a video diffusion model that doubles the frames of an orbit together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.orbits import elevation_of
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.geometry.resize import pad_to_multiple
from difix3d_ns.priors.base import OrbitFrame, OrbitRefiner, State
from difix3d_ns.priors.networks.diffusion import closed_guidance, karras_sigmas, rising_guidance
from difix3d_ns.priors.networks.video_chain import MULTIPLE, VideoChain, embedded
from difix3d_ns.priors.orbit_video import GuidanceCurve
from difix3d_ns.priors.published.video_folder import VideoParts, load_video
from difix3d_ns.priors.published.video_kinds import EMBEDDING, MAX_SIGMA, MIN_SIGMA

_FACTOR = 2
_DEPTH = 3  # places of depth along each side of a latent's


class VideoOrbitRefiner(OrbitRefiner):
    """Hi3D's second stage behind the contract of ``OrbitRefiner``.

    Yang et al., ACM MM 2024, section 3.3. The paper's depth is estimated from each frame; here it is the splat's,
    inverted and normalised frame by frame as that was. Without depth the network is shown none.

    Args:
        parts: networks, on ``device``.
        device: where they live.
        guidance: published: rising from the first frame to the last; closed: highest on the other side.
        steps: of the chain; None: 25, as published.
    """

    factor = _FACTOR

    def __init__(
        self, parts: VideoParts, device: torch.device, guidance: GuidanceCurve = "published", steps: int | None = None
    ) -> None:
        if guidance not in ("published", "closed"):
            raise ValueError(f"guidance {guidance!r}: published or closed")
        self._kind, self._guidance = parts.kind, guidance
        sigmas = karras_sigmas(steps or parts.kind.steps, MIN_SIGMA, MAX_SIGMA)
        networks = parts.unet, parts.autoencoder, parts.encoder
        self._chain = VideoChain(*networks, device, sigmas, parts.kind.noise, hold=True)

    def start(self, frames: Sequence[OrbitFrame], seed: int = 0) -> State:
        if not frames:
            raise ValueError("an orbit has at least one frame")
        if len({frame.image.shape for frame in frames}) > 1:
            raise ValueError("the frames of an orbit have one size")
        depths = [frame.depth for frame in frames if frame.depth is not None]
        if depths and len(depths) < len(frames):
            raise ValueError("depth is given of all frames, or of none")
        height, width = (_FACTOR * side for side in frames[0].image.shape[:2])
        photos: dict[str, Tensor] = {}
        planes = []
        for number, frame in enumerate(frames):
            picture = frame.image if frame.photo is None else frame.photo
            planes.append(resampled(picture.detach().cpu().float(), height, width).clamp(0, 1).permute(2, 0, 1))
            if frame.photo is not None:
                photos[f"photo/{number}"] = planes[-1].to(torch.float16)
        pictures = pad_to_multiple(torch.stack(planes), MULTIPLE)
        rows, columns = (side // 8 for side in pictures.shape[-2:])
        depth = torch.zeros(len(frames), _DEPTH**2, rows, columns)
        if depths:
            depth = torch.cat([depth_condition(one.detach().cpu(), height, width) for one in depths])
        vector = torch.cat(
            [
                embedded(round(elevation_of([frame.camera for frame in frames])), EMBEDDING),
                embedded(self._kind.noise, EMBEDDING),
            ]
        )
        rule = closed_guidance if self._guidance == "closed" else rising_guidance
        state = self._chain.start(pictures, planes[0], vector, rule(len(frames), self._kind.guidance), depth, seed)
        return {**state, **photos, "size": torch.tensor([height, width])}

    def steps_left(self, state: State) -> int:
        return self._chain.steps_left(state)

    def step(self, state: State) -> State:
        return self._chain.step(state)

    def result(self, state: State) -> list[Tensor]:
        height, width = state["size"].tolist()
        found = []
        for number in range(len(state["guidance"])):
            photo = state.get(f"photo/{number}")
            planes = self._chain.frame(state, number)[:, :height, :width] if photo is None else photo.float()
            found.append(planes.permute(1, 2, 0).contiguous())
        return found


def depth_condition(depth: Tensor, height: int, width: int) -> Tensor:
    """Patches [1, 9, h, w] of a frame's inverse depth from 0, where it is farthest or nothing is, to 1.

    Args:
        depth: [H, W, 1] along z, 0 where nothing is.
        height, width: of the picture, whose sides are padded to multiples of ``MULTIPLE``; h and w are an eighth.
    """
    inverse = (1 / depth.float().clamp_min(1e-12)).where(depth > 0, 0.0).permute(2, 0, 1)[None]
    whole = pad_to_multiple(F.interpolate(inverse, (height, width), mode="nearest-exact"), MULTIPLE)
    places = F.interpolate(whole, [side * _DEPTH // 8 for side in whole.shape[-2:]], mode="bilinear", antialias=True)
    places = places - places.amin()
    return F.pixel_unshuffle(places / places.amax().clamp_min(1e-12), _DEPTH)


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    guidance: GuidanceCurve = "published",
    steps: int | None = None,
) -> OrbitRefiner:
    """Read the refiner.

    Args:
        weights: a folder that ``difix3d convert --kind hi3d-stage2`` wrote, or the hub id of a copy of it, which
            downloads.
        device: where its networks live.
        dtype: their precision; None for float16 on CUDA, as published, else ``fast_dtype``.
        guidance, steps: see ``VideoOrbitRefiner``.

    Raises:
        FileNotFoundError: no folder given, or a file is missing from it.
        RuntimeError: it is damaged, or of another sort.
        ValueError: as of ``VideoOrbitRefiner``.
    """
    place = torch.device(device)
    return VideoOrbitRefiner(load_video(weights, place, dtype, False), place, guidance, steps)
