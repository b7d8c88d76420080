"""The demo scene: a furnished corner that no fixer was trained on, and photographs of it for the tutorial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from difix3d_ns.data.procedural import furniture
from difix3d_ns.data.procedural.dataset import photograph_world, save_image, write_views
from difix3d_ns.data.procedural.ray_scene import SceneBuilder
from difix3d_ns.data.procedural.trajectories import arc
from difix3d_ns.data.procedural.worlds import World

_STEADY = 0.05  # metres of jitter: photographs and held-out views show the same part of the room
_DEMO_STREAM = 2  # training scenes draw from another random stream, so seeds can never meet


def demo_world(seed: int = 0) -> World:
    """A living-room corner with a window, from pictures and patterns reserved for the demo."""
    b = SceneBuilder(np.random.default_rng([_DEMO_STREAM, seed + 3]), "demo")
    r = b.rng
    w, d, h = 4.6, 4.4, 2.7
    b.quad((0, d, 0), (w, 0, 0), (0, -d, 0), b.texture("herringbone"), metres=1.6, gloss=0.2)
    b.quad((0, d, h), (w, 0, 0), (0, 0, -h), b.texture("bricks"), metres=1.3)
    plaster = b.texture("plaster")
    # The left wall has a window to the sky: four pieces around a hole.
    low, high, near, far = 0.95, 2.2, 1.5, 2.9
    for y0, y1, z0, z1 in ((0, d, high, h), (0, d, 0, low), (0, near, low, high), (far, d, low, high)):
        b.quad((0, y0, z1), (0, y1 - y0, 0), (0, 0, z0 - z1), plaster, metres=1.8)
    frame = b.texture("wood")
    middle = (near + far) / 2
    for y in (near, middle, far):
        b.box((0.0, y, (low + high) / 2), (0.1, 0.06, high - low), frame, metres=0.8, tint=(1.3, 1.3, 1.3))
    for z in (low, high):
        b.box((0.04, middle, z), (0.24, far - near + 0.2, 0.05), frame, metres=0.8, tint=(1.3, 1.3, 1.3))
    b.quad((w, d, h), (0, -d, 0), (0, 0, -h), plaster, metres=1.8)
    b.quad((0, 0, h), (w, 0, 0), (0, d, 0), b.texture("paint"), metres=2.0, tint=(1.2, 1.2, 1.2))

    b.quad((1.1, 3.5, 0.008), (2.4, 0, 0), (0, -1.7, 0), b.texture("medallion"))
    furniture.shelf(b, (0.85, d - 0.19, 0), size=(1.2, 0.32, 1.9))
    furniture.sofa(b, (3.1, d - 0.55, 0), length=1.9)
    furniture.wall_picture(b, (2.55, d - 0.02, 1.65), (0.8, 0.55), (0, -1, 0), b.texture("picture:coffee"))
    furniture.wall_picture(b, (3.75, d - 0.02, 1.6), (0.75, 0.52), (0, -1, 0), b.texture("picture:chelsea"))
    furniture.table(b, (2.35, 2.75, 0), (1.0, 0.6, 0.45), yaw=r.normal(0, 0.15), top=b.texture("marble"))
    furniture.clutter(b, (2.35, 2.75, 0.45), (0.75, 0.4), 5, 0.1)
    furniture.chair(b, (1.15, 2.35, 0), yaw=r.uniform(0.6, 1.2))
    furniture.plant(b, (0.45, 3.35, 0), 1.25, 200)
    furniture.plant(b, (4.2, 3.0, 0), 0.9, 130)
    furniture.floor_lamp(b, (1.75, d - 0.3, 0), 1.7)
    for x in (1.9, 2.7):
        b.cylinder((x, 2.9, 2.05), (x, 2.9, h), 0.006, b.texture("metal"), metres=0.3, capped=False)
        b.sphere((x, 2.9, 1.98), 0.09, b.texture("paint"), metres=0.4, gloss=0.6, tint=(1.3, 1.2, 0.9))
    b.box((4.2, 2.2, 0.22), (0.5, 0.5, 0.44), b.texture("picture:brick"), yaw=0.3, metres=0.6, tint=(1.2, 0.8, 0.6))
    scene = b.finish(
        light=(2.2, 1.7, 2.5),
        light_colour=np.array([1.0, 0.92, 0.8], np.float32) * 3.2,
        lamp=True,
        light_size=0.2,
        ambient=np.array([[0.55, 0.58, 0.62], [0.38, 0.35, 0.32]], np.float32),
    )
    target = (2.3, 3.1, 0.85)
    return World("demo", scene, arc(target, 2.6, -np.pi / 2 - 0.85, -np.pi / 2 + 0.8, 1.45), 0.13, 1.15)


def demo_scene(
    output: Path,
    seed: int = 0,
    width: int = 480,
    height: int = 320,
    train_views: int = 5,
    test_views: int = 10,
) -> Path:
    """Write the demo scene as a nerfstudio dataset; returns ``output``.

    Sparse training views some 20 degrees apart, and held-out views between them, as in the usual sparse captures:
    where no photograph sees, half of the error would come from 6 % of the pixels, and no method could repair it.

    Raises:
        OSError: the folder cannot be written.
    """
    rng = np.random.default_rng([3, seed])
    views = photograph_world(
        replace(demo_world(seed), spread=_STEADY),
        rng,
        width=width,
        height=height,
        train_views=train_views,
        test_views=test_views,
        beyond=0.0,
    )
    return write_views(views, Path(output), rng)


def photographs(output: Path, seed: int = 0, count: int = 32, width: int = 960, height: int = 640) -> Path:
    """Write only photographs (``output/IMG_0001.jpg`` ...), dense enough for COLMAP to find the cameras itself.

    Raises:
        ValueError: ``count`` is below 3.
        OSError: the folder cannot be written.
    """
    if count < 3:
        raise ValueError(f"structure from motion needs at least 3 photos, got count {count}")
    views = photograph_world(
        demo_world(seed),
        np.random.default_rng([4, seed]),
        width=width,
        height=height,
        train_views=count,
        test_views=0,
        label="Taking photos",
    )
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    for index, view in enumerate(views, start=1):
        save_image(view.image, output / f"IMG_{index:04d}.jpg")
    return output
