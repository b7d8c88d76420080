"""Options of curation. Light: the command line reads this file before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Strategy = Literal["sparse", "underfit", "cycle", "cross", "enlarged", "photographs", "orbit", "sides"]
STRATEGIES: tuple[Strategy, ...] = ("sparse", "underfit", "cycle", "cross")
"""of samples for fixers; enlarged is for upscalers, photographs for depth, orbit for refiners of orbits, sides
for generators from one photo"""


@dataclass(frozen=True)
class CurationOptions:
    """Samples to make of each scene."""

    strategies: tuple[Strategy, ...] = STRATEGIES
    """sparse: from all, half, a third, a quarter of the training views; underfit: stopped at 25, 50 and 75 % of the
    schedule; cycle: a splat trained on another splat's renders beside the path; cross: trained on one camera or one
    side of the path, seen from the other; enlarged, for upscalers: trained on photos reduced to a quarter or half and
    enlarged again, or on the reduced ones, and rendered at their full size; photographs, for depth: the photos
    themselves, with the scene's points; orbit, for refiners of orbits: trained on photos reduced to half, and rendered
    at their full size at all held-out poses, which make one sample; sides, for generators from one photo: the photos
    of sides:N as they are, in one sample."""
    split: Literal["auto", "train", "validation"] = "auto"
    """Split that the scenes go to, each as a whole; auto: by a fixed draw on the scene's name."""
    validation_share: float = 0.1
    """Share of scenes that auto makes validation."""
    long_side: int = 288
    """Pictures are reduced to this many pixels on their longer side."""
    steps: int = 700
    """Training steps of a splat from all training views; others get 70 %."""
    max_gaussians: int = 15000
    """Densification stops there."""
    references: int = 5
    """Photos shown with each sample, at most."""
    views: int = 24
    """Training views used of a scene, at most, evenly spaced; the others are held out."""
    samples: int = 40
    """Samples per shard, at most, evenly spaced."""
    hold_out: int = 4
    """Hold out every so many-th training view of a scene without test views."""
    white_background: bool = False
    """The photos show an object before white: mask it."""
    supersampling: int = 1
    """Procedural scenes are rendered so many times larger and reduced by an antialiased filter: their fine detail
    is then true."""
    threads: int = 1
    """Threads of this process. More repeat results less exactly; several processes use several cores better."""
    seed: int = 0
    """Seed of the reconstructions: order of the views, backgrounds, splits, trajectories."""

    def settings(self) -> dict[str, Any]:
        """Options that decide the content of samples."""
        names = ("long_side", "steps", "max_gaussians", "references", "views", "samples", "hold_out")
        content = {name: getattr(self, name) for name in (*names, "white_background", "seed")}
        return content | ({} if self.supersampling == 1 else {"supersampling": self.supersampling})
