"""Photographs with known cameras, from which a reconstruction starts and with which it is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from difix3d_ns.data.procedural import photograph_world, training_world
from difix3d_ns.data.procedural.dataset import structure_points
from difix3d_ns.data.procedural.sample_pictures import load_picture, picture_names
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resampling import resample
from difix3d_ns.geometry.spacing import evenly_spaced

_PARTS = 6  # of a sample picture: each counts about as much as the others, whatever its size


class UnusableScene(UserError):
    """One scene of many that can only be left out."""


@dataclass(frozen=True)
class Capture:
    """A scene. Pictures may differ in size; lists are in the order of ``cameras``."""

    name: str
    cameras: list[Pinhole]
    images: list[Tensor]  # [H, W, 3] float32 in [0, 1]
    points: Tensor  # [P, 3] world
    colours: Tensor  # [P, 3] in [0, 1]
    train: list[int]
    test: list[int]
    masks: list[Tensor] | None = None  # [H, W, 1] in [0, 1], 0 = not to be used
    background: tuple[float, float, float] | None = None  # solid, behind a masked object; None: a scene all around
    depths: list[Tensor] | None = None  # [H, W, 1] truth along z, where known; 0 for sky
    devices: list[int] | None = None  # which physical camera took each picture
    notes: tuple[str, ...] = ()  # what was decided while reading, for the user
    random_points: bool = False  # since none came with the scene
    files: list[Path] | None = None  # of the photographs
    to_original: np.ndarray | None = None  # [4, 4] float64, to coordinates of the scene's own
    about: Mapping[str, float] = field(default_factory=dict)  # what decides an orbit, for its sample


def thinned(capture: Capture, views: int) -> Capture:
    """Keep at most so many training views, evenly spaced; the others are held out."""
    if len(capture.train) <= views:
        return capture
    kept = [capture.train[i] for i in evenly_spaced(len(capture.train), views)]
    held_out = sorted({*capture.test, *capture.train} - {*kept})
    note = f"{len(kept)} of {len(capture.train)} training views are trained on, the others are held out (--views)"
    return replace(capture, train=kept, test=held_out, notes=(*capture.notes, note))


def picture_capture(long_side: int) -> Capture:
    """Cut the sample pictures for training into parts; nothing is known of their cameras, and there are no points.

    Of each picture at its size and at half of it, at most ``_PARTS`` parts each, evenly spaced.

    Args:
        long_side: of a part at most, in pixels.
    """
    images = []
    for name in picture_names("train"):
        whole = torch.from_numpy(load_picture(name, "train").copy()).permute(2, 0, 1)[None].float() / 255
        half = resample(whole, whole.shape[-2] // 2, whole.shape[-1] // 2).clamp(0, 1)
        for picture in (whole, half):
            parts = [part for row in picture[0].split(long_side, 1) for part in row.split(long_side, 2)]
            parts = [part for part in parts if min(part.shape[1:]) >= long_side // 2]
            images += [parts[i].permute(1, 2, 0).contiguous() for i in evenly_spaced(len(parts), _PARTS)]
    cameras = [Pinhole(torch.eye(4), torch.eye(3), image.shape[1], image.shape[0]) for image in images]
    nothing = torch.zeros(0, 3)
    return Capture("sample-pictures", cameras, images, nothing, nothing, list(range(len(images))), [])


def procedural_capture(seed: int, long_side: int, supersampling: int = 1, kind: str | None = None) -> Capture:
    """Photograph the training world of a seed: 6 to 12 training views, random shape and exposure.

    Args:
        seed: of the world and its photographs.
        long_side: of the photographs, in pixels.
        supersampling: see ``photograph_world``.
        kind: of the world; None: kinds take turns.
    """
    world = training_world(seed, kind)
    rng = np.random.default_rng([5, seed])
    ratio = rng.choice([2 / 3, 3 / 4, 9 / 16])
    short = round(long_side * ratio / 16) * 16
    width, height = (short, long_side) if rng.random() < 0.2 else (long_side, short)
    views = photograph_world(
        world,
        rng,
        width=width,
        height=height,
        train_views=int(rng.integers(6, 13)) + (5 if world.path.closed else 0),  # a full circle needs more
        test_views=int(rng.integers(9, 13)),
        exposure_change=float(rng.choice([0.0, 0.0, 0.08, 0.2])),
        supersampling=supersampling,
        label=None,
    )
    xyz, rgb = structure_points(views, rng, int(rng.integers(1000, 2500)))
    return Capture(
        name=f"{kind or 'procedural'}_{seed:05d}",
        cameras=[v.camera for v in views],
        images=[v.image for v in views],
        points=torch.from_numpy(xyz),
        colours=torch.from_numpy(rgb).float() / 255,
        train=[i for i, v in enumerate(views) if v.training],
        test=[i for i, v in enumerate(views) if not v.training],
        depths=[v.depth for v in views],
    )
