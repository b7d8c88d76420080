"""Samples for refiners of orbits: one splat seen from all around an object, frame below frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from difix3d_ns.data.capture import Capture
from difix3d_ns.data.procedural import photograph_world, training_world
from difix3d_ns.data.procedural.dataset import structure_points
from difix3d_ns.data.samples import MIN_PSNR
from difix3d_ns.data.shards import Sample
from difix3d_ns.data.strategies import Unit
from difix3d_ns.metrics.psnr import psnr
from difix3d_ns.priors.base import FixRequest

FRAMES = 16
"""of an orbit, as in Hi3D"""
_STREAM = 43
_GROUNDED = 3  # every so many-th object stands on ground, before the sky; the others are cut out before white
_MIN_PHOTOS, _MAX_PHOTOS = 6, 12
_JITTER = 0.15  # of the distance between two photographs on the ring
_ASIDE = 2.0  # times the hand's jitter


def orbit_capture(
    seed: int, long_side: int, supersampling: int = 1, photos: int | None = None, grounded: bool | None = None
) -> Capture:
    """Photograph the object of a seed from a ring: some photographs to train on, and an orbit that is held out.

    Args:
        seed: of the object and its photographs.
        long_side: side of the square pictures, in pixels.
        supersampling: see ``photograph_world``.
        photos: to train on; None: 6 to 12.
        grounded: whether it stands on ground before the sky, or is cut out before white; None: some do.
    """
    if grounded is None:
        grounded = seed % _GROUNDED == _GROUNDED - 1
    world = training_world(seed, "grounded" if grounded else "object")
    rng = np.random.default_rng([_STREAM, seed])
    drawn, start = int(rng.integers(_MIN_PHOTOS, _MAX_PHOTOS + 1)), rng.random()
    photos = drawn if photos is None else photos
    poses = []
    for number in range(photos):
        place = (number + rng.normal(0, _JITTER)) / photos
        aside, aim = rng.normal(0, _ASIDE * world.spread, 2), rng.normal(0, world.spread, 2)
        poses.append((world.path.pose(place, aside, aim), True))
    poses += [(world.path.pose(start + frame / FRAMES), False) for frame in range(FRAMES)]
    views = photograph_world(
        world, rng, width=long_side, height=long_side, poses=poses, supersampling=supersampling, label=None
    )
    # Of the orbit's views as well: of six photographs structure from motion alone would find next to none.
    everything = [replace(view, training=True) for view in views]
    xyz, rgb = structure_points(everything, rng, int(rng.integers(1000, 2500)))
    masks = None if grounded else [(view.depth > 0).float() for view in views]
    images = [view.image for view in views]
    if masks is not None:
        images = [image * mask + 1 - mask for image, mask in zip(images, masks, strict=True)]
    return Capture(
        name=f"orbit_{seed:05d}",
        cameras=[view.camera for view in views],
        images=images,
        points=torch.from_numpy(xyz),
        colours=torch.from_numpy(rgb).float() / 255,
        train=[number for number, view in enumerate(views) if view.training],
        test=[number for number, view in enumerate(views) if not view.training],
        masks=masks,
        background=None if grounded else (1.0, 1.0, 1.0),
        depths=[view.depth for view in views],
    )


class OrbitSamples:
    """The one sample of a unit: all its poses, one below the other; ``scores`` has the PSNR of the whole.

    Args:
        capture: pictures of one size, and cameras.
        unit: the splat and the poses to render it at, in the order of the orbit.
        provenance: for the sample.
    """

    def __init__(self, capture: Capture, unit: Unit, provenance: dict[str, Any]) -> None:
        self.capture, self.unit, self.provenance = capture, unit, provenance
        self.scores: dict[int, float] = {}

    def __iter__(self) -> Iterator[Sample]:
        capture, poses = self.capture, self.unit.poses
        frames = [self.unit.splat.render(capture.cameras[pose]) for pose in poses]
        image, depth, alpha = (torch.cat(maps) for maps in zip(*frames, strict=True))
        truth = torch.cat([capture.images[pose] for pose in poses])
        self.scores[0] = psnr(image, truth)
        if self.scores[0] >= MIN_PSNR:
            depths = capture.depths
            true_depth = None if depths is None else torch.cat([depths[pose] for pose in poses])
            provenance = {**self.provenance, **capture.about, "frames": len(poses)}
            key = f"{self.provenance['scene']}/{self.unit.name}/0000"
            yield Sample(key, FixRequest(image, (), None, depth, alpha), truth, true_depth, None, provenance)

    @property
    def kept(self) -> list[float]:
        """PSNR of what became a sample."""
        return [score for score in self.scores.values() if score >= MIN_PSNR]
