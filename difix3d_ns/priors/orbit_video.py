"""Generators of orbits from one picture with published weights: Hi3D's first stage, and SV3D-u."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.priors.base import OrbitGenerator, State
from difix3d_ns.priors.networks.diffusion import closed_guidance, karras_sigmas, rising_guidance
from difix3d_ns.priors.networks.video_chain import MULTIPLE, VideoChain, embedded
from difix3d_ns.priors.published.video_folder import VideoParts, load_video
from difix3d_ns.priors.published.video_kinds import EMBEDDING, MAX_SIGMA, MIN_SIGMA

SCORE = 5.0
"""of aesthetics, which Hi3D's first stage was trained with; its code measures it by a network of its own"""

Guidance = Literal["published", "closed"]


class VideoOrbitGenerator:
    """A video diffusion model behind the contract of ``OrbitGenerator``.

    Frame k of Hi3D is taken k times 22.5 degrees further to the camera's own right. SV3D's frames are an equal number
    of steps apart; its last one is the picture's, which comes first here.

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
        guidance: Guidance = "published",
        steps: int | None = None,
        side: int | None = None,
        score: float = SCORE,
    ) -> None:
        kind = self._kind = parts.kind
        self.frames = kind.frames
        self.needs_elevation = kind.vector > EMBEDDING
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

    def start(self, picture: Tensor, elevation: float = 0.0, seed: int = 0) -> State:
        if picture.dim() != 3 or picture.shape[0] != picture.shape[1]:
            raise ValueError(f"a square picture is needed, not {tuple(picture.shape)}")
        if not -90 < elevation < 90:
            raise ValueError(f"elevation {elevation}: above -90 and below 90 degrees is needed")
        planes = resampled(picture.detach().cpu().float(), self._side, self._side).clamp(0, 1).permute(2, 0, 1)
        return self._chain.start(planes[None], planes, self._vector(elevation), self._guidance, None, seed)

    def steps_left(self, state: State) -> int:
        return self._chain.steps_left(state)

    def step(self, state: State) -> State:
        return self._chain.step(state)

    def result(self, state: State) -> list[Tensor]:
        made = [self._chain.frame(state, number).permute(1, 2, 0) for number in range(self.frames)]
        if not self._kind.closed:
            return made
        picture = state["pictures"][0].float().permute(1, 2, 0)  # its last frame, as its own code puts it there
        return [picture, *made[:-1]]

    def _vector(self, elevation: float) -> Tensor:
        """Embedded numbers that the network is given, in the order it was trained with."""
        noise = embedded(self._kind.noise, EMBEDDING)
        if not self.needs_elevation:
            return noise
        score = torch.cat([torch.tensor([self._score]), embedded(100 * self._score, EMBEDDING - 1)])
        return torch.cat([score, embedded(round(elevation), EMBEDDING), noise])


def framed(picture: Tensor, alpha: Tensor, share: float = 0.75) -> Tensor:
    """Put an object in the middle of a square, before white, as large as these models saw objects.

    Args:
        picture: [H, W, 3] in [0, 1].
        alpha: [H, W, 1] in [0, 1].
        share: of the square's side that the longer side of the object's box takes.

    Returns:
        [S, S, 3].

    Raises:
        ValueError: alpha is 0 everywhere.
    """
    rows, columns = (torch.nonzero(alpha[..., 0].amax(axis) > 0.05)[:, 0] for axis in (1, 0))
    if not len(rows):
        raise ValueError("nothing is in the picture: alpha is 0 everywhere")
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    cut = torch.lerp(torch.ones_like(picture), picture, alpha)[top:bottom, left:right]
    height, width = cut.shape[:2]
    side = max(round(max(height, width) / share), max(height, width))
    above, before = (side - height) // 2, (side - width) // 2
    margins = (0, 0, before, side - width - before, above, side - height - above)
    return F.pad(cut, margins, value=1.0)


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    guidance: Guidance = "published",
    steps: int | None = None,
    side: int | None = None,
    score: float = SCORE,
) -> OrbitGenerator:
    """Read a generator of orbits.

    Args:
        weights: a folder that ``difix3d convert --kind hi3d-stage1`` or ``--kind sv3d-u`` wrote, or the hub id of a
            copy of it, which downloads.
        device: where its networks live.
        dtype: their precision; None for ``fast_dtype``.
        guidance, steps, side, score: see ``VideoOrbitGenerator``.

    Raises:
        FileNotFoundError: no folder given, or a file is missing from it.
        RuntimeError: it is damaged, or of another sort.
        ValueError: as of ``VideoOrbitGenerator``.
    """
    if weights is None:
        raise FileNotFoundError(
            "it has no weights of its own: give a folder that difix3d convert --kind hi3d-stage1 or --kind sv3d-u wrote"
        )
    place = torch.device(device)
    return VideoOrbitGenerator(load_video(weights, place, dtype, True), place, guidance, steps, side, score)
