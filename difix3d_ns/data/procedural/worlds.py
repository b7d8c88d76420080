"""Kinds of training scenes: room, facade, tabletop, courtyard, garden; objects, alone or on ground. Every seed is
another one.
"""

# ruff: noqa: RUF005  (``point + [x, y, z]`` is vector addition here)

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from difix3d_ns.data.procedural import furniture
from difix3d_ns.data.procedural.ray_scene import Scene, SceneBuilder
from difix3d_ns.data.procedural.solids import Box, Capsule, Cylinder, Solid, Sphere, Union
from difix3d_ns.data.procedural.trajectories import CameraPath, arc, forward_facing, walk


@dataclass(frozen=True)
class World:
    """A scene and the path on which somebody would photograph it."""

    kind: str
    scene: Scene
    path: CameraPath
    spread: float  # metres of jitter between the path and the hand
    field_of_view: float  # radians across the longer side
    solid: Solid | None = None  # all there is, where it is closed


def room(b: SceneBuilder) -> World:
    r = b.rng
    w, d, h = r.uniform(3.5, 5), r.uniform(3.5, 5), r.uniform(2.4, 3)
    floor = b.texture(str(r.choice(["wood", "tiles", "marble", "stones"])))
    b.quad((0, d, 0), (w, 0, 0), (0, -d, 0), floor, metres=r.uniform(0.8, 1.6), gloss=r.choice([0.0, 0.25]))
    walls = [b.texture(str(r.choice(["plaster", "bricks", "fabric", "plaster", "paint"]))) for _ in range(2)]
    scale = r.uniform(1.0, 1.8)
    b.quad((0, d, h), (w, 0, 0), (0, 0, -h), walls[0], metres=scale)
    b.quad((0, 0, h), (0, d, 0), (0, 0, -h), walls[1], metres=scale)
    b.quad((w, d, h), (0, -d, 0), (0, 0, -h), walls[1], metres=scale)
    b.quad((w, 0, h), (-w, 0, 0), (0, 0, -h), walls[0], metres=scale)
    b.quad((0, 0, h), (w, 0, 0), (0, d, 0), b.texture("paint"), metres=2.0, tint=(1.2, 1.2, 1.2))
    b.quad((w * 0.25, d * 0.75, 0.006), (w * 0.5, 0, 0), (0, -d * 0.4, 0), b.texture("fabric"))
    furniture.shelf(b, (r.uniform(0.8, 1.4), d - 0.18, 0))
    if r.random() < 0.6:
        furniture.sofa(b, (w - 1.2, d - 0.5, 0))
    else:
        furniture.bench(b, (w - 1.2, d - 0.4, 0))
    centre = np.array([w * r.uniform(0.4, 0.6), d * r.uniform(0.55, 0.65), 0])
    furniture.table(b, centre, (r.uniform(0.9, 1.5), r.uniform(0.6, 0.9), r.uniform(0.45, 0.75)), yaw=r.normal(0, 0.2))
    furniture.chair(b, centre + [r.uniform(-1.2, -0.9), r.uniform(-0.2, 0.4), 0], yaw=r.uniform(0, 6.28))
    furniture.plant(b, (w - 0.4, d - r.uniform(1.3, 1.8), 0), r.uniform(0.9, 1.4))
    furniture.floor_lamp(b, (0.35, d - 1.3, 0), r.uniform(1.4, 1.8))
    for _ in range(2):
        size = r.uniform(0.4, 0.8, 2)
        furniture.wall_picture(
            b, (r.uniform(2.0, w - 0.6), d - 0.02, r.uniform(1.5, 1.8)), size, (0, -1, 0), b.texture("picture")
        )
        furniture.wall_picture(b, (0.02, d * r.uniform(0.3, 0.8), 1.55), size[::-1], (1, 0, 0), b.texture("picture"))
    furniture.clutter(b, centre + [0, -1.1, 0], (1.6, 0.5), int(r.integers(1, 4)), 0.14)
    scene = b.finish(
        light=(w * r.uniform(0.3, 0.7), d * r.uniform(0.35, 0.6), h - 0.25),
        light_colour=np.array([1, 0.9, 0.75], np.float32) * r.uniform(3, 4.5),
        lamp=True,
        light_size=0.15,
        ambient=np.array([[0.5, 0.52, 0.55], [0.35, 0.32, 0.3]], np.float32) * r.uniform(0.8, 1.2),
    )
    target = centre + [0, 0.5, 0.7]
    if r.random() < 0.5:
        reach = min(d * 0.55, w * 0.45)
        path = arc(
            target, reach, -np.pi / 2 - r.uniform(0.4, 0.7), -np.pi / 2 + r.uniform(0.4, 0.7), r.uniform(1.2, 1.6)
        )
    else:
        path = walk((0.6, 0.6, 1.45), (w - 0.6, 0.7, 1.4), target + [0.3, 0, 0], target + [-0.3, 0, 0])
    return World("room", scene, path, 0.06, r.uniform(1.1, 1.3))


def facade(b: SceneBuilder) -> World:
    r = b.rng
    w, h = r.uniform(9, 13), r.uniform(5, 7)
    ground = b.texture(str(r.choice(["stones", "concrete", "lawn", "tiles"])))
    b.quad((-20, 14, 0), (40, 0, 0), (0, -26, 0), ground, metres=r.uniform(1.5, 3))
    wall = b.texture(str(r.choice(["bricks", "plaster", "stones", "concrete"])))
    b.box((0, 3, h / 2), (w, 6, h), wall, metres=r.uniform(1.5, 2.6))
    trim = b.texture(str(r.choice(["concrete", "plaster"])))
    b.box((0, -0.1, h - 0.2), (w + 0.3, 0.4, 0.3), trim, metres=1.5)
    b.box((0, -0.05, 0.25), (w, 0.25, 0.5), trim, metres=1.5)
    columns = int(r.integers(3, 5))
    door = int(r.integers(columns))
    for i in range(columns):
        x = (i + 0.5) / columns * w - w / 2
        furniture.window(b, (x, 0, h * 0.72), (1.1, 1.5), (0, -1, 0))
        if i != door:
            furniture.window(b, (x, 0, h * 0.33), (1.1, 1.5), (0, -1, 0))
            continue
        b.box((x, -0.02, 1.1), (1.1, 0.12, 2.2), b.texture("wood"), metres=1.2, gloss=0.1)
        for side in (-0.75, 0.75):
            b.cylinder((x + side, -0.5, 0), (x + side, -0.5, 2.5), 0.12, b.texture("marble"), metres=0.8)
        b.box((x, -0.4, 2.6), (2.0, 0.8, 0.2), trim, metres=1.2)
        for step in range(3):
            b.box((x, -0.3 - 0.25 * step, 0.24 - 0.08 * step), (2.0, 0.6 + 0.1 * step, 0.12), trim, metres=1.0)
        b.quad((x - 0.9, -0.16, 3.1), (1.8, 0, 0), (0, 0, -0.45), b.texture("poster"))
    b.quad((r.uniform(-w / 2 + 0.5, w / 2 - 2), -0.02, h * 0.55), (1.5, 0, 0), (0, 0, -1.0), b.texture("picture"))
    furniture.fence(b, (-w / 2, -1.6, 0), (-w / 2 + r.uniform(2, 4), -1.6, 0), 1.0)
    furniture.tree(b, (r.uniform(1, w / 2), -r.uniform(1.8, 2.6), 0), r.uniform(3, 4.5), 420)
    furniture.bench(b, (r.uniform(-2, 1), -1.2, 0))
    for _ in range(int(r.integers(1, 4))):
        furniture.plant(b, (r.uniform(-w / 2, w / 2), -0.9, 0), r.uniform(0.7, 1.3), 160)
    lamp = r.uniform(-w / 2, 0)
    b.cylinder((lamp, -2.3, 0), (lamp, -2.3, 3.4), 0.045, b.texture("metal"), metres=0.5)
    b.sphere((lamp, -2.3, 3.5), 0.17, b.texture("paint"), gloss=0.7, tint=(1.3, 1.3, 1.2))
    furniture.clutter(b, (r.uniform(-3, 3), -2.4, 0), (3, 1), int(r.integers(2, 5)), 0.3)
    scene = _sun(b)
    target = np.array([r.uniform(-1, 1), 0, h * 0.4])
    if r.random() < 0.5:
        path = arc(target, r.uniform(7, 9), -np.pi / 2 - 0.6, -np.pi / 2 + 0.6, 1.6)
    else:
        path = walk((-4, -7, 1.6), (4, -6.5, 1.6), target - [1.5, 0, 0], target + [1.5, 0, 0])
    return World("facade", scene, path, 0.15, r.uniform(1.05, 1.25))


def tabletop(b: SceneBuilder) -> World:
    r = b.rng
    b.quad((-6, 6, 0), (12, 0, 0), (0, -12, 0), b.texture(str(r.choice(["wood", "tiles", "stones"]))), metres=1.5)
    for angle in np.arange(4) * np.pi / 2:
        out = np.array([np.cos(angle), np.sin(angle), 0])
        side = np.array([-out[1], out[0], 0])
        b.quad(
            out * 3 - side * 3 + [0, 0, 3],
            side * 6,
            (0, 0, -3),
            b.texture(str(r.choice(["plaster", "bricks", "painting"]))),
            metres=2.0,
        )
        furniture.wall_picture(
            b, out * 2.97 + side * r.uniform(-1, 1) + [0, 0, 1.5], r.uniform(0.6, 1.2, 2), -out, b.texture("picture")
        )
        if r.random() < 0.6:
            furniture.plant(b, out * 2.4 + side * r.uniform(-1.5, 1.5), r.uniform(1, 1.5), 150)
    size = (r.uniform(1.3, 1.7), r.uniform(0.9, 1.3), 0.75)
    furniture.table(b, (0, 0, 0), size, top=b.texture(str(r.choice(["wood", "marble", "fabric", "tiles"]))))
    furniture.clutter(b, (0, 0, 0.75), (size[0] * 0.75, size[1] * 0.75), int(r.integers(6, 12)), 0.13)
    scene = b.finish(
        light=(r.uniform(-1, 1), r.uniform(-1, 1), 2.6),
        light_colour=np.array([1, 0.93, 0.82], np.float32) * r.uniform(3.0, 4.5),
        lamp=True,
        light_size=0.12,
        ambient=np.array([[0.5, 0.52, 0.55], [0.35, 0.32, 0.3]], np.float32),
    )
    start = r.uniform(0, 6.28)
    sweep = 2 * np.pi if r.random() < 0.5 else r.uniform(1.2, 2.2)
    path = arc((0, 0, 0.85), r.uniform(1.2, 1.5), start, start + sweep, r.uniform(1.25, 1.6))
    return World("tabletop", scene, path, 0.04, r.uniform(1.0, 1.2))


def courtyard(b: SceneBuilder) -> World:
    r = b.rng
    side = r.uniform(6, 8)
    b.quad(
        (-15, 15, 0),
        (30, 0, 0),
        (0, -30, 0),
        b.texture(str(r.choice(["stones", "concrete", "bricks", "lawn"]))),
        metres=2.0,
    )
    h = r.uniform(2.5, 4.5)
    for out, along in (np.array([[0, 1, 0], [1, 0, 0.0]]), np.array([[-1, 0, 0], [0, 1, 0.0]])):
        wall = b.texture(str(r.choice(["bricks", "stones", "plaster", "wood"])))
        b.quad(
            out * side / 2 - along * side / 2 + [0, 0, h], along * side, (0, 0, -h), wall, metres=r.uniform(1.2, 2.2)
        )
        for x in (-0.25, 0.25):
            centre = out * side / 2 + along * side * x + [0, 0, h * 0.55]
            if r.random() < 0.5:
                furniture.window(b, centre - out * 0.02, (1.0, 1.2), -out)
            else:
                furniture.wall_picture(
                    b,
                    centre - out * 0.03,
                    r.uniform(0.7, 1.3, 2),
                    -out,
                    b.texture(str(r.choice(["poster", "picture"]))),
                )
    furniture.bench(b, (r.uniform(-1, 1.5), side / 2 - 0.6, 0))
    furniture.tree(b, (r.uniform(-1.5, -0.5), r.uniform(0.5, 1.5), 0), r.uniform(2.5, 3.5), 380)
    for _ in range(int(r.integers(2, 5))):
        furniture.plant(
            b, (r.uniform(-side / 2 + 0.4, side / 2), r.uniform(0.3, side / 2 - 0.5), 0), r.uniform(0.6, 1.2), 140
        )
    furniture.table(b, (r.uniform(0.5, 1.5), r.uniform(0, 1), 0), (1.1, 0.8, 0.72))
    for _ in range(2):
        furniture.chair(b, (r.uniform(0, 2.2), r.uniform(-0.6, 1.6), 0), yaw=r.uniform(0, 6.28))
    furniture.fence(b, (side / 2, side / 2, 0), (side / 2, r.uniform(-1, 1), 0), 1.1)
    furniture.clutter(b, (0, 0, 0), (3, 2), int(r.integers(3, 7)), 0.25)
    scene = _sun(b)
    target = np.array([-0.2, 0.6, 0.9])
    choice = r.random()
    if choice < 0.4:
        path = arc(target, r.uniform(3.6, 4.4), -np.pi / 2 - 0.4, r.uniform(0.1, 0.4), 1.55)
    elif choice < 0.7:
        path = walk((-1.5, -3.5, 1.5), (3.2, -2.4, 1.5), target, target + [0.3, 0.3, 0])
    else:
        path = forward_facing((1.2, -3.2, 1.5), target, 2.2, 0.8)
    return World("courtyard", scene, path, 0.08, r.uniform(1.1, 1.25))


def garden(b: SceneBuilder) -> World:
    r = b.rng
    b.quad(
        (-20, 20, 0),
        (40, 0, 0),
        (0, -40, 0),
        b.texture(str(r.choice(["lawn", "picture", "lawn", "stones"]))),
        metres=2.2,
    )
    shed = np.array([r.uniform(-1, 1), 3.2, 0])
    b.box(shed + [0, 0, 1.1], (2.6, 2.0, 2.2), b.texture(str(r.choice(["wood", "bricks"]))), metres=1.4)
    roof = b.texture("tiles")
    b.quad(shed + [-1.5, 0, 2.9], (3, 0, 0), (0, -1.25, -0.8), roof, metres=1.0)
    b.quad(shed + [1.5, 0, 2.9], (-3, 0, 0), (0, 1.25, -0.8), roof, metres=1.0)
    b.box(shed + [0.5, -1.02, 0.95], (0.8, 0.06, 1.9), b.texture("paint"), metres=1.2)
    furniture.window(b, shed + [-0.6, -1.0, 1.3], (0.7, 0.7), (0, -1, 0), 0.08)
    for _ in range(int(r.integers(2, 4))):
        x = r.uniform(1.4, 4) * r.choice([-1, 1])
        furniture.tree(b, (shed[0] + x, r.uniform(1.5, 4), 0), r.uniform(2.5, 4.5), 320)
    leaf = b.texture("leaves")
    for _ in range(int(r.integers(3, 6))):
        size = r.uniform(0.3, 0.6)
        at = (r.uniform(-2.5, 2.5), r.uniform(0.2, 1.8), size * 0.7)
        b.foliage(at, (size, size, size * 0.8), 170, leaf, leaf=0.16, tint=r.uniform(0.7, 1.2, 3))
    for side in (-1, 1):
        furniture.fence(b, (side * 4.0, -1, 0), (side * r.uniform(2.2, 3), 2.6, 0), r.uniform(0.8, 1.2), 0.18)
    furniture.bench(b, (r.uniform(-1.5, 1.5), 1.2, 0), yaw=r.normal(0, 0.3))
    furniture.clutter(b, (0, -0.2, 0), (3.5, 1.2), int(r.integers(3, 7)), 0.22)
    scene = _sun(b)
    target = np.array([0, 1.5, 0.9])
    if r.random() < 0.5:
        path = arc(target, r.uniform(4, 5), -np.pi / 2 - r.uniform(0.5, 0.8), -np.pi / 2 + r.uniform(0.5, 0.8), 1.5)
    else:
        path = forward_facing((0, -3.3, 1.4), target, 3.0, 0.9)
    return World("garden", scene, path, 0.09, r.uniform(1.05, 1.25))


def closed_object(b: SceneBuilder) -> World:
    """Overlapping closed solids in front of the sky alone, photographed from all around."""
    r = b.rng
    solid = _overlapping(b)
    scene = _sun(b)
    return _around(r, scene, solid, (0, 0.6), 0.03)


PLAIN, TEXTURED = ("paint", "plaster"), ("wood", "stones", "fabric", "tiles")
"""kinds of ground"""


def grounded_object(
    b: SceneBuilder, ground: Sequence[str] = (*PLAIN, *TEXTURED), reach: float = 6.0
) -> World:  # metres from the object to the ground's edges
    """Overlapping closed solids on plain or textured ground, photographed from all around and above."""
    r = b.rng
    solid = _overlapping(b)
    texture = b.texture(str(r.choice(ground)))
    lowest = float(min(solid.surface_point(r)[2] for _ in range(500)))
    b.quad((-reach, reach, lowest), (2 * reach, 0, 0), (0, -2 * reach, 0), texture, metres=r.uniform(0.6, 1.5))
    scene = _sun(b)
    return _around(r, scene, solid, (0.3, 0.8), 0.12)


def _overlapping(b: SceneBuilder) -> Union:
    """A large solid with up to six smaller ones on it, each of its own texture."""
    r = b.rng
    solid = _drawn(r)
    for part in solid.parts:
        kind = str(r.choice(_SKINS))
        part.build(b, b.texture(kind), metres=r.uniform(0.3, 0.8), gloss=float(r.choice([0.0, 0.0, 0.3, 0.6])))
    return solid


def _drawn(r: np.random.Generator) -> Union:
    parts: list[Solid] = [_solid(r, np.zeros(3), r.uniform(0.3, 0.5))]
    for _ in range(int(r.integers(1, 7))):
        at = Union(parts).surface_point(r)
        parts.append(_solid(r, at, r.uniform(0.08, 0.28)))
    return Union(parts)


def _around(
    r: np.random.Generator, scene: Scene, solid: Solid, elevations: tuple[float, float], spread: float
) -> World:
    """The world of a solid, photographed on a circle from which it fills the picture."""
    surface = np.stack([solid.surface_point(r) for _ in range(200)])
    middle = (surface.min(0) + surface.max(0)) / 2
    reach = float(np.linalg.norm(surface - middle, axis=1).max())
    field_of_view, elevation, start = r.uniform(0.75, 0.9), r.uniform(*elevations), r.uniform(0, 2 * np.pi)
    distance = reach / np.sin(0.3 * field_of_view) * r.uniform(0.95, 1.2)  # it fills the shorter side
    path = arc(
        middle,
        distance * np.cos(elevation),
        start,
        start + 2 * np.pi,
        middle[2] + distance * np.sin(elevation),
    )
    return World("object", scene, path, spread, field_of_view, solid)


_SKINS = ("wood", "tiles", "fabric", "stones", "marble", "paint", "poster", "painting", "bricks", "metal", "picture")


def _solid(r: np.random.Generator, at: np.ndarray, size: float) -> Solid:
    """A solid of about a size (half of its extent, metres) around a point."""
    kind = int(r.integers(4))
    if kind == 0:
        return Box(at, 2 * size * r.uniform(0.5, 1.0, 3), r.uniform(0, np.pi))
    if kind == 1:
        return Sphere(at, size * r.uniform(0.6, 0.9))
    way = r.normal(size=3)
    way *= size * r.uniform(0.6, 1.0) / np.linalg.norm(way)
    rod = Cylinder if kind == 2 else Capsule
    return rod(at - way, at + way, size * r.uniform(0.25, 0.6))


def _sun(b: SceneBuilder) -> Scene:
    r = b.rng
    azimuth, height = r.uniform(-2.6, -0.5), r.uniform(0.5, 1.1)
    way = (np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height))
    overcast = r.random() < 0.25
    return b.finish(
        light=way,
        light_colour=np.array([1.0, 0.93, 0.82], np.float32) * (0.25 if overcast else r.uniform(0.8, 1.2)),
        lamp=False,
        light_size=0.25 if overcast else 0.02,
        ambient=np.array([[0.48, 0.55, 0.65], [0.3, 0.27, 0.24]], np.float32) * (1.5 if overcast else 1.0),
    )


_BY_TURNS: tuple[Callable[[SceneBuilder], World], ...] = (room, facade, tabletop, courtyard, garden)
WORLDS: dict[str, Callable[[SceneBuilder], World]] = {
    **{f.__name__: f for f in _BY_TURNS},
    "object": closed_object,
    "grounded": grounded_object,
}
_TRAINING_STREAM = 1


def training_world(seed: int, kind: str | None = None, variants: int | None = None) -> World:
    """The training scene of a seed; the kinds of ``_BY_TURNS`` take turns unless one is asked for.

    Draws from a random stream of its own and only from the pictures and textures of the training split, so no seed can
    meet the demo scene.

    Args:
        seed: of all of it.
        kind: of world.
        variants: of each kind of texture; see ``SceneBuilder``.
    """
    make = _BY_TURNS[seed % len(_BY_TURNS)] if kind is None else WORLDS[kind]
    return make(SceneBuilder(_stream(seed), "train", variants))


def training_solid(seed: int) -> Union:
    """The solid of ``training_world(seed, "object")``, without its textures."""
    return _drawn(_stream(seed))


def _stream(seed: int) -> np.random.Generator:
    return np.random.default_rng([_TRAINING_STREAM, seed])
