"""Generators of orbits from one picture with published weights: Hi3D's first stage, and SV3D-u."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.io.cut_outs import before_plain_background
from difix3d_ns.priors.base import ObjectFrame, OrbitGenerator, State
from difix3d_ns.priors.networks.diffusion import closed_guidance, karras_sigmas, rising_guidance
from difix3d_ns.priors.networks.video_chain import MULTIPLE, VideoChain, embedded
from difix3d_ns.priors.published.video_folder import VideoParts, load_video
from difix3d_ns.priors.published.video_kinds import EMBEDDING, MAX_SIGMA, MIN_SIGMA

SCORE = 5.0
"""of aesthetics, which Hi3D's first stage was trained with; its code measures it by a network of its own"""

GuidanceCurve = Literal["published", "closed"]


class VideoOrbitGenerator(OrbitGenerator):
    """A video diffusion model behind the contract of ``OrbitGenerator``.

    Pictures are made before white, and cut out from it. SV3D's last frame is the photograph's, which comes first here.

    Args:
        parts: networks, on ``device``.
        device: where they live.
        guidance: published: of Hi3D, rising to the last frame, which is next to the first; of SV3D, highest on the
            other side. closed: highest on the other side, of both.
        steps: of the chain; None: as published, 25 of Hi3D and 50 of SV3D.
        side: pixels of a frame; None: as published, 512 of Hi3D and 576 of SV3D.
        score: of aesthetics, for Hi3D.
    """

    def __init__(
        self,
        parts: VideoParts,
        device: torch.device,
        guidance: GuidanceCurve = "published",
        steps: int | None = None,
        side: int | None = None,
        score: float = SCORE,
    ) -> None:
        kind = self._kind = parts.kind
        self._side = side or kind.side
        if self._side % MULTIPLE:
            raise ValueError(f"side {self._side}: a multiple of {MULTIPLE} is needed")
        if guidance not in ("published", "closed"):
            raise ValueError(f"guidance {guidance!r}: published or closed")
        self._score = score
        if kind.closed or guidance == "closed":
            self._guidance = closed_guidance(kind.frames, kind.guidance, repeats=kind.closed)
        else:
            self._guidance = rising_guidance(kind.frames, kind.guidance)
        sigmas = karras_sigmas(steps or kind.steps, MIN_SIGMA, MAX_SIGMA)
        self._chain = VideoChain(parts.unet, parts.autoencoder, parts.encoder, device, sigmas, kind.noise, hold=False)

    generative = True
    about = "What the photo does not show is made up; another seed makes another object."

    def start(self, photo: Tensor, elevation: float, count: int, seed: int = 0) -> State:
        if photo.dim() != 3 or photo.shape[0] != photo.shape[1] or photo.shape[2] != 4:
            raise ValueError(f"a square photo with alpha is needed, not {tuple(photo.shape)}")
        if count != self._kind.frames:
            raise ValueError(f"{count} pictures: this model makes {self._kind.frames}")
        if not -90 < elevation < 90:
            raise ValueError(f"elevation {elevation}: above -90 and below 90 degrees is needed")
        whole = resampled(photo.detach().cpu().float(), self._side, self._side)
        alpha = whole[..., 3:]
        planes = torch.lerp(torch.ones_like(whole[..., :3]), whole[..., :3], alpha).permute(2, 0, 1)
        state = self._chain.start(planes[None], planes, self._vector(elevation), self._guidance, None, seed)
        return {**state, "photo": whole.half()}

    def steps_left(self, state: State) -> int:
        return self._chain.steps_left(state)

    def step(self, state: State) -> State:
        return self._chain.step(state)

    def result(self, state: State) -> list[ObjectFrame]:
        photo = state["photo"].float()
        count = self._kind.frames
        numbers = range(count - 1) if self._kind.closed else range(1, count)
        made = [self._chain.frame(state, number).permute(1, 2, 0).contiguous() for number in numbers]
        return [
            ObjectFrame(photo[..., :3], photo[..., 3:]),
            *(ObjectFrame(image, _silhouette(image)) for image in made),
        ]

    def _vector(self, elevation: float) -> Tensor:
        """Embedded numbers that the network is given, in the order it was trained with."""
        noise = embedded(self._kind.noise, EMBEDDING)
        if self._kind.vector == EMBEDDING:
            return noise
        score = torch.cat([torch.tensor([self._score]), embedded(100 * self._score, EMBEDDING - 1)])
        return torch.cat([score, embedded(round(elevation), EMBEDDING), noise])


def _silhouette(image: Tensor) -> Tensor:
    """Alpha [S, S, 1] of a picture of an object before white; all of it if its border is of many colours.

    Who makes a scene of the frames leaves such a one out, and says so.
    """
    found = before_plain_background((image * 255).round().byte().numpy())
    return torch.ones_like(image[..., :1]) if found is None else torch.from_numpy(found).float()


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    guidance: GuidanceCurve = "published",
    steps: int | None = None,
    side: int | None = None,
    score: float = SCORE,
) -> OrbitGenerator:
    """Read a generator of orbits.

    Args:
        weights: a folder that ``difix3d convert --kind hi3d-stage1`` or ``--kind sv3d-u`` wrote, or the hub id of a
            copy of it, which downloads.
        device: where its networks live.
        dtype: their precision; None for float16 on CUDA, as published, else ``fast_dtype``.
        guidance, steps, side, score: see ``VideoOrbitGenerator``.

    Raises:
        FileNotFoundError: no folder given, or a file is missing from it.
        RuntimeError: it is damaged, or of another sort.
        ValueError: as of ``VideoOrbitGenerator``.
    """
    place = torch.device(device)
    return VideoOrbitGenerator(load_video(weights, place, dtype, True), place, guidance, steps, side, score)
