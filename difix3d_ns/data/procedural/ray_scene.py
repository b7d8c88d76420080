"""A scene as the ray caster reads it, and a builder that puts furniture together from primitives."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from difix3d_ns.data.procedural.sample_pictures import Split
from difix3d_ns.data.procedural.textures import SIZE, make_sky, make_texture

QUAD, DISC, LEAF, SPHERE, CYLINDER = range(5)
_SKIES = 53
"""stream of random numbers of skies that are shared"""


@dataclass(frozen=True)
class Scene:
    """Textured primitives in metres, z up. Everything is known exactly, so depth is too."""

    kinds: np.ndarray  # [N] int8, QUAD .. CYLINDER
    shapes: np.ndarray  # [N, 16] float32, see ``SceneBuilder``
    materials: np.ndarray  # [N, 12] float32: repeat u v, offset u v, tint r g b, specular, shininess, texels per metre
    texture_ids: np.ndarray  # [N] int32
    textures: np.ndarray  # [T, texels, 4] uint8: every mip level of a texture one after another
    sky: np.ndarray  # [h, w, 3] float32 linear
    light: np.ndarray  # [7] float32: towards the sun (or a lamp's position), its colour, 0 for sun / 1 for lamp
    light_size: float  # metres (lamp) or radians (sun)
    ambient: np.ndarray  # [2, 3] float32: from above, from below
    split: Split = "train"


@dataclass
class SceneBuilder:
    """Collects primitives.

    Args:
        rng: of all draws.
        split: whose pictures and textures are used.
        variants: textures are drawn from so many of each kind, and skies from as many, which a process makes once;
            None: each of them is new, which takes most of a small scene's time.
    """

    rng: np.random.Generator
    split: Split
    variants: int | None = None
    _textures: list[np.ndarray] = field(default_factory=list)
    _kinds: list[int] = field(default_factory=list)
    _shapes: list[np.ndarray] = field(default_factory=list)
    _materials: list[np.ndarray] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)

    def texture(self, kind: str) -> int:
        """Make a texture, or draw one, and return its index."""
        if self.variants is None:
            levels = _mip_levels(make_texture(kind, self.rng, self.split))
        else:
            levels = _shared_texture(kind, int(self.rng.integers(self.variants)), self.split)
        self._textures.append(levels)
        return len(self._textures) - 1

    def _add(self, kind, shape, texture, repeat, tint, gloss, texels) -> None:
        row = np.zeros(16, np.float32)
        row[: len(shape)] = shape
        self._kinds.append(kind)
        self._shapes.append(row)
        offset = self.rng.random(2) if repeat[0] != 1 or repeat[1] != 1 else (0, 0)
        self._materials.append(np.array([*repeat, *offset, *tint, gloss, 20 + 60 * gloss, texels, 0, 0], np.float32))
        self._ids.append(texture)

    def quad(self, corner, along_u, along_v, texture, *, metres=None, tint=(1, 1, 1), gloss=0.0, kind=QUAD) -> None:
        """A rectangle from ``corner``; v runs down the texture. ``metres``: size of one repeat, None for one in all."""
        u, v = np.asarray(along_u, float), np.asarray(along_v, float)
        length_u, length_v = np.linalg.norm(u), np.linalg.norm(v)
        normal = np.cross(u, v) / (length_u * length_v)
        repeat = (1.0, 1.0) if metres is None else (length_u / metres, length_v / metres)
        texels = SIZE * max(repeat[0] / length_u, repeat[1] / length_v)
        shape = [*np.asarray(corner, float), *(u / length_u**2), *(v / length_v**2), *normal, length_u, length_v]
        self._add(kind, shape, texture, repeat, tint, gloss, texels)

    def box(self, centre, size, texture, *, yaw=0.0, metres=1.0, tint=(1, 1, 1), gloss=0.0, front=None) -> None:
        """An upright box; ``front``: another texture, once, on the face towards -y of the unrotated box."""
        c, s = np.cos(yaw), np.sin(yaw)
        x, y, z = np.array([c, s, 0]) * size[0], np.array([-s, c, 0]) * size[1], np.array([0, 0, float(size[2])])
        o = np.asarray(centre, float)
        surface = {"metres": metres, "tint": tint, "gloss": gloss}
        self.quad(o - x / 2 - y / 2 + z / 2, x, -z, texture if front is None else front, **surface | self._once(front))
        self.quad(o + x / 2 + y / 2 + z / 2, -x, -z, texture, **surface)
        self.quad(o - x / 2 + y / 2 + z / 2, -y, -z, texture, **surface)
        self.quad(o + x / 2 - y / 2 + z / 2, y, -z, texture, **surface)
        self.quad(o - x / 2 + y / 2 + z / 2, x, -y, texture, **surface)
        self.quad(o - x / 2 - y / 2 - z / 2, x, y, texture, **surface)

    @staticmethod
    def _once(front: int | None) -> dict:
        return {} if front is None else {"metres": None, "tint": (1, 1, 1)}

    def sphere(self, centre, radius, texture, *, metres=1.0, tint=(1, 1, 1), gloss=0.0) -> None:
        repeat = (max(1, round(2 * np.pi * radius / metres)), max(1, round(np.pi * radius / metres)))
        texels = SIZE * repeat[0] / (2 * np.pi * radius)
        self._add(SPHERE, [*np.asarray(centre, float), radius], texture, repeat, tint, gloss, texels)

    def cylinder(
        self, base, top, radius, texture, *, metres=1.0, tint=(1, 1, 1), gloss=0.0, capped=True, cap=None
    ) -> None:
        """A tube from ``base`` to ``top``, with lids if ``capped`` (``cap``: their texture)."""
        a, b = np.asarray(base, float), np.asarray(top, float)
        length = np.linalg.norm(b - a)
        axis = (b - a) / length
        side = np.cross(axis, [0, 0, 1] if abs(axis[2]) < 0.9 else [1, 0, 0])
        side /= np.linalg.norm(side)
        repeat = (max(1, round(2 * np.pi * radius / metres)), length / metres)
        texels = SIZE * max(repeat[0] / (2 * np.pi * radius), repeat[1] / length)
        self._add(CYLINDER, [*a, *axis, *side, length, radius], texture, repeat, tint, gloss, texels)
        if capped and radius > 0.02:
            u, v = side * radius, np.cross(axis, side) * radius
            for end in (a, b):
                lid = texture if cap is None else cap
                surface = {"metres": metres, "tint": tint, "gloss": gloss} | self._once(cap)
                self.quad(end - u - v, 2 * u, 2 * v, lid, kind=DISC, **surface)

    def foliage(self, centre, radii, count, texture, *, leaf=0.12, tint=(1, 1, 1)) -> None:
        """A cloud of leaves inside an ellipsoid, denser towards its surface."""
        for _ in range(count):
            way = self.rng.normal(size=3)
            way /= np.linalg.norm(way)
            place = np.asarray(centre) + way * np.asarray(radii) * self.rng.uniform(0.35, 1) ** 0.5
            u = self.rng.normal(size=3) + way * 0.8
            u /= np.linalg.norm(u)
            v = np.cross(u, self.rng.normal(size=3))
            v /= np.linalg.norm(v)
            length = leaf * self.rng.uniform(0.6, 1.4)
            tone = np.asarray(tint) * self.rng.uniform(0.6, 1.15)
            corner = place - u * length / 2 - v * length / 4
            self.quad(corner, u * length, v * length / 2, texture, tint=tone, gloss=0.05, kind=LEAF)

    def finish(self, *, light, light_colour, lamp: bool, light_size: float, ambient) -> Scene:
        """The scene under one light, with a sky behind it."""
        way = np.asarray(light, float)
        if not lamp:
            way = way / np.linalg.norm(way)
        return Scene(
            kinds=np.array(self._kinds, np.int8),
            shapes=np.stack(self._shapes),
            materials=np.stack(self._materials),
            texture_ids=np.array(self._ids, np.int32),
            textures=np.stack(self._textures),
            sky=make_sky(self.rng) if self.variants is None else _shared_sky(int(self.rng.integers(self.variants))),
            light=np.array([*way, *light_colour, float(lamp)], np.float32),
            light_size=light_size,
            ambient=np.asarray(ambient, np.float32),
            split=self.split,
        )


@cache
def _shared_texture(kind: str, number: int, split: Split) -> np.ndarray:
    return _mip_levels(make_texture(kind, np.random.default_rng([*kind.encode(), number]), split))


@cache
def _shared_sky(number: int) -> np.ndarray:
    return make_sky(np.random.default_rng([_SKIES, number]))


def _mip_levels(texture: np.ndarray) -> np.ndarray:  # [texels, 4] uint8
    """The texture and its halvings down to 4 x 4, one after another (averaged in linear light)."""
    level = (texture.astype(np.float32) / 255) ** 2.2
    levels = []
    while level.shape[0] >= 4:
        rgba = np.zeros((level.shape[0] ** 2, 4), np.uint8)
        rgba[:, :3] = (level.reshape(-1, 3) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)
        levels.append(rgba)
        level = level.reshape(level.shape[0] // 2, 2, level.shape[0] // 2, 2, 3).mean((1, 3))
    return np.concatenate(levels)
