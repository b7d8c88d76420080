"""Published video diffusion models of orbits, and the settings they were trained and are run with.

Hi3D (Yang et al., ACM MM 2024) as its official code runs it, and SV3D-u (Voleti et al., ECCV 2024) as that of its
authors does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KindName = Literal["hi3d-stage1", "hi3d-stage2", "sv3d-u"]


@dataclass(frozen=True)
class VideoKind:
    """A model's inputs, and how it is sampled."""

    channels: int  # of the UNet's input: 4 noisy, 9 of depth if it has them, 4 of the condition
    vector: int  # numbers that are added to the time's embedding
    frames: int
    side: int  # pixels of a frame
    steps: int
    guidance: float  # of the last frame, or the middle one; 1 of the first
    noise: float  # on the condition
    from_picture: bool  # an orbit is made from one picture, rather than refined
    closed: bool = False  # guidance rises to the middle of the orbit and falls again


KINDS: dict[KindName, VideoKind] = {
    "hi3d-stage1": VideoKind(8, 768, 16, 512, 25, 2.5, 0.02, from_picture=True),
    "hi3d-stage2": VideoKind(17, 512, 16, 1024, 25, 2.0, 0.02, from_picture=False),
    "sv3d-u": VideoKind(8, 256, 21, 576, 50, 2.5, 1e-5, from_picture=True, closed=True),
}
EMBEDDING = 256
"""numbers of one embedded value in the vector: Hi3D's first stage has score, elevation and noise, the second elevation
and noise, SV3D-u noise"""
MIN_SIGMA, MAX_SIGMA = 0.002, 700.0
SCALE = 0.18215
"""of the autoencoder's latents"""
