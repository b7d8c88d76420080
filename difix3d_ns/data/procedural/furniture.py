"""Things to put into scenes: each function adds one to a builder. Lengths in metres, z up, ``yaw`` about z."""

# ruff: noqa: RUF005  (``point + [x, y, z]`` is vector addition here)

from __future__ import annotations

import numpy as np

from difix3d_ns.data.procedural.ray_scene import SceneBuilder


def _turn(yaw: float) -> np.ndarray:  # [3, 3]
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def table(b: SceneBuilder, at, size=(1.4, 0.8, 0.75), yaw=0.0, top: int | None = None, legs: int | None = None) -> None:
    top = b.texture("wood") if top is None else top
    legs = b.texture("metal") if legs is None else legs
    at, turn = np.asarray(at, float), _turn(yaw)
    w, d, h = size
    b.box(at + [0, 0, h - 0.025], (w, d, 0.05), top, yaw=yaw, metres=0.9, gloss=0.25)
    for x in (-1, 1):
        for y in (-1, 1):
            foot = at + turn @ [x * (w / 2 - 0.06), y * (d / 2 - 0.06), 0]
            b.cylinder(foot, foot + [0, 0, h - 0.05], 0.025, legs, metres=0.4)


def chair(b: SceneBuilder, at, yaw=0.0, seat: int | None = None) -> None:
    wood = b.texture("wood")
    seat = b.texture("fabric") if seat is None else seat
    at, turn = np.asarray(at, float), _turn(yaw)
    b.box(at + [0, 0, 0.45], (0.44, 0.44, 0.06), seat, yaw=yaw, metres=0.4)
    for x in (-0.19, 0.19):
        for y in (-0.19, 0.19):
            foot = at + turn @ [x, y, 0]
            b.cylinder(foot, foot + [0, 0, 0.44 if y < 0 else 0.95], 0.018, wood, metres=0.4)
    for z in (0.62, 0.74, 0.86):
        b.box(at + turn @ [0, 0.19, z], (0.38, 0.02, 0.06), wood, yaw=yaw, metres=0.6)


def books(b: SceneBuilder, start, along, length: float, depth=0.2, height=0.26) -> None:
    """Upright books from ``start`` along a unit vector."""
    along = np.asarray(along, float)
    yaw = float(np.arctan2(along[1], along[0]))
    spines = [b.texture("poster") for _ in range(2)] + [b.texture("paint")]
    x = 0.0
    while x < length - 0.06:
        thick, tall = b.rng.uniform(0.02, 0.055), height * b.rng.uniform(0.7, 1)
        centre = np.asarray(start) + along * (x + thick / 2) + [0, 0, tall / 2]
        tint = b.rng.uniform(0.3, 1.0, 3)
        b.box(centre, (thick * 0.96, depth * b.rng.uniform(0.85, 1), tall), spines[int(b.rng.integers(3))], yaw=yaw,
              metres=0.3, tint=tint)  # fmt: skip
        x += thick if b.rng.random() < 0.94 else thick + 0.12


def shelf(b: SceneBuilder, at, yaw=0.0, size=(1.2, 0.3, 1.8), boards=4) -> None:
    """A book case; its front faces -y before ``yaw``."""
    wood = b.texture("wood")
    at, turn = np.asarray(at, float), _turn(yaw)
    w, d, h = size
    for x in (-w / 2, w / 2):
        b.box(at + turn @ [x, 0, h / 2], (0.03, d, h), wood, yaw=yaw, metres=0.8)
    b.box(at + turn @ [0, d / 2 - 0.01, h / 2], (w, 0.02, h), wood, yaw=yaw, metres=0.8, tint=(0.7, 0.7, 0.7))
    for i in range(boards + 1):
        z = 0.05 + i * (h - 0.07) / boards
        b.box(at + turn @ [0, 0, z], (w, d, 0.025), wood, yaw=yaw, metres=0.8)
        if i < boards:
            gap = (h - 0.07) / boards
            if b.rng.random() < 0.8:
                first = at + turn @ [-w / 2 + 0.03, 0, z + 0.013]
                books(b, first, turn @ [1, 0, 0], (w - 0.06) * b.rng.uniform(0.5, 1), d * 0.8, gap * 0.8)
            else:
                vase(b, at + turn @ [b.rng.uniform(-0.3, 0.3), 0, z + 0.013], gap * 0.7)


def vase(b: SceneBuilder, at, height=0.3) -> None:
    at = np.asarray(at, float)
    glaze = b.texture(str(b.rng.choice(["paint", "marble", "tiles", "painting"])))
    b.sphere(at + [0, 0, height * 0.35], height * 0.35, glaze, metres=0.5, gloss=0.6)
    b.cylinder(
        at + [0, 0, height * 0.6], at + [0, 0, height], height * 0.14, glaze, metres=0.5, gloss=0.6, capped=False
    )


def mug(b: SceneBuilder, at, radius=0.05, height=0.1) -> None:
    at = np.asarray(at, float)
    side = b.texture(str(b.rng.choice(["paint", "fabric", "poster", "tiles"])))
    b.cylinder(at, at + [0, 0, height], radius, side, metres=0.16, gloss=0.5, capped=False)
    for z in (0.005, height * 0.85):
        lid = at + [-radius, -radius, z]
        b.quad(lid, (2 * radius, 0, 0), (0, 2 * radius, 0), side, metres=0.2, kind=1, tint=(0.35, 0.25, 0.2))


def plant(b: SceneBuilder, at, height=1.0, count=220) -> None:
    at = np.asarray(at, float)
    pot, bark, leaf = b.texture("stones" if b.rng.random() < 0.3 else "paint"), b.texture("bark"), b.texture("leaves")
    r = 0.16 * height
    b.cylinder(at, at + [0, 0, 0.3 * height], r, pot, metres=0.4, cap=b.texture("bark"))
    for _ in range(4):
        tip = at + [*b.rng.uniform(-0.15, 0.15, 2) * height, height * b.rng.uniform(0.6, 0.9)]
        b.cylinder(at + [0, 0, 0.25 * height], tip, 0.008 * height, bark, metres=0.2)
    b.foliage(at + [0, 0, 0.72 * height], np.array([0.33, 0.33, 0.3]) * height, count, leaf, leaf=0.16 * height)


def tree(b: SceneBuilder, at, height=4.0, count=500) -> None:
    at = np.asarray(at, float)
    bark, leaf = b.texture("bark"), b.texture("leaves")
    crown = at + [0, 0, 0.72 * height]
    b.cylinder(at, crown, 0.035 * height, bark, metres=0.7)
    for _ in range(7):
        way = b.rng.normal(size=3)
        way[2] = abs(way[2]) * 0.8
        start = at + [0, 0, height * b.rng.uniform(0.35, 0.65)]
        b.cylinder(start, start + way / np.linalg.norm(way) * 0.26 * height, 0.01 * height, bark, metres=0.5)
    b.foliage(crown, np.array([0.3, 0.3, 0.25]) * height, count, leaf, leaf=0.06 * height)


def fence(b: SceneBuilder, start, end, height=1.0, spacing=0.14) -> None:
    """Thin bars between two rails."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    length = np.linalg.norm(end - start)
    iron = b.texture(str(b.rng.choice(["metal", "paint", "wood"])))
    for i in range(int(length / spacing) + 1):
        foot = start + (end - start) * min(1.0, i * spacing / length)
        b.cylinder(foot, foot + [0, 0, height], 0.014, iron, metres=0.4)
    for z in (0.15, height - 0.08):
        b.cylinder(start + [0, 0, z], end + [0, 0, z], 0.018, iron, metres=0.4)


def bench(b: SceneBuilder, at, yaw=0.0, length=1.6) -> None:
    wood, metal = b.texture("wood"), b.texture("metal")
    at, turn = np.asarray(at, float), _turn(yaw)
    for y in (-0.16, 0, 0.16):
        b.box(at + turn @ [0, y, 0.45], (length, 0.13, 0.03), wood, yaw=yaw, metres=0.8)
    for z in (0.65, 0.82):
        b.box(at + turn @ [0, 0.26, z], (length, 0.03, 0.12), wood, yaw=yaw, metres=0.8)
    for x in (-length / 2 + 0.15, length / 2 - 0.15):
        for y, top in ((-0.16, 0.44), (0.25, 0.88)):
            foot = at + turn @ [x, y, 0]
            b.cylinder(foot, foot + [0, 0, top], 0.025, metal, metres=0.3)


def sofa(b: SceneBuilder, at, yaw=0.0, length=1.9, cloth: int | None = None) -> None:
    cloth = b.texture("fabric") if cloth is None else cloth
    at, turn = np.asarray(at, float), _turn(yaw)
    b.box(at + [0, 0, 0.22], (length, 0.8, 0.36), cloth, yaw=yaw, metres=0.7)
    b.box(at + turn @ [0, 0.34, 0.6], (length, 0.2, 0.5), cloth, yaw=yaw, metres=0.7)
    for x in (-1, 1):
        b.box(at + turn @ [x * (length / 2 - 0.09), 0, 0.45], (0.18, 0.8, 0.3), cloth, yaw=yaw, metres=0.7)
        pillow = b.texture(str(b.rng.choice(["fabric", "tiles", "painting"])))
        b.box(at + turn @ [x * length * 0.28, 0.16, 0.56], (0.4, 0.12, 0.36), pillow, yaw=yaw + 0.2 * x, metres=0.45)


def floor_lamp(b: SceneBuilder, at, height=1.6) -> None:
    at = np.asarray(at, float)
    metal, shade = b.texture("metal"), b.texture("fabric")
    b.cylinder(at, at + [0, 0, 0.03], 0.15, metal, metres=0.4)
    b.cylinder(at, at + [0, 0, height], 0.012, metal, metres=0.4)
    b.cylinder(at + [0, 0, height - 0.25], at + [0, 0, height + 0.05], 0.17, shade, metres=0.4, tint=(1, 0.95, 0.85))


def wall_picture(b: SceneBuilder, centre, size, outward, texture: int) -> None:
    """A framed picture on a wall that faces ``outward`` (a horizontal unit vector)."""
    outward = np.asarray(outward, float)
    yaw = float(np.arctan2(outward[1], outward[0]) + np.pi / 2)
    w, h = size
    b.box(np.asarray(centre), (w + 0.08, 0.03, h + 0.08), b.texture("wood"), yaw=yaw, metres=0.7)
    turn = _turn(yaw)
    corner = np.asarray(centre) + turn @ [-w / 2, -0.019, h / 2]
    b.quad(corner, turn @ [w, 0, 0], (0, 0, -h), texture, gloss=0.1)


def window(b: SceneBuilder, centre, size, outward, depth=0.14) -> None:
    """A window set into a facade: a frame that sticks out, panes with a reflection, a sill."""
    outward = np.asarray(outward, float)
    yaw = float(np.arctan2(outward[1], outward[0]) + np.pi / 2)
    turn, centre = _turn(yaw), np.asarray(centre, float)
    w, h = size
    frame = b.texture(str(b.rng.choice(["paint", "wood"])))
    tint = (0.95, 0.95, 0.95)
    pane = b.texture("painting")
    b.quad(
        centre + turn @ [-w / 2, -0.01, h / 2], turn @ [w, 0, 0], (0, 0, -h), pane, tint=(0.3, 0.33, 0.36), gloss=0.9
    )
    for x, thick in ((-w / 2, 0.08), (0, 0.04), (w / 2, 0.08)):
        b.box(centre + turn @ [x, -depth / 2, 0], (thick, depth, h), frame, yaw=yaw, metres=0.8, tint=tint)
    for z, thick in ((h / 2, 0.08), (h * 0.15, 0.04), (-h / 2, 0.06)):
        b.box(centre + turn @ [0, -depth / 2, z], (w + 0.08, depth, thick), frame, yaw=yaw, metres=0.8, tint=tint)
    sill = b.texture("concrete")
    b.box(centre + turn @ [0, -depth * 0.8, -h / 2 - 0.07], (w + 0.3, depth * 1.8, 0.08), sill, yaw=yaw, metres=1.0)


def clutter(b: SceneBuilder, centre, extent, count: int, scale=0.12) -> None:
    """Small things standing on a horizontal surface, without overlap."""
    centre = np.asarray(centre, float)
    placed: list[tuple[float, float, float]] = []
    for _ in range(count * 8):
        if len(placed) == count:
            return
        x, y = b.rng.uniform(-0.5, 0.5, 2) * np.asarray(extent)
        r = scale * b.rng.uniform(0.5, 1.2)
        if any(np.hypot(x - px, y - py) < r + pr for px, py, pr in placed):
            continue
        placed.append((x, y, r))
        at = centre + [x, y, 0]
        kind = int(b.rng.integers(6))
        if kind == 0:
            mug(b, at, r * 0.6, r * 1.3)
        elif kind == 1:
            vase(b, at, r * 2.6)
        elif kind == 2:
            b.sphere(at + [0, 0, r * 0.8], r * 0.8, b.texture(_any(b)), metres=r * 3, gloss=b.rng.uniform(0, 0.6))
        elif kind == 3:
            yaw = b.rng.uniform(0, np.pi)
            h = 0.0
            for _ in range(int(b.rng.integers(1, 5))):
                thick = r * b.rng.uniform(0.2, 0.4)
                b.box(at + [0, 0, h + thick / 2], (r * 1.5, r * 1.1, thick), b.texture("poster"),
                      yaw=yaw + b.rng.normal(0, 0.15), metres=r * 1.5, tint=b.rng.uniform(0.4, 1, 3))  # fmt: skip
                h += thick
        elif kind == 4:
            size = r * b.rng.uniform(0.8, 1.4, 3)
            front = b.texture("picture") if b.rng.random() < 0.5 else None
            b.box(
                at + [0, 0, size[2] / 2],
                size,
                b.texture(_any(b)),
                yaw=b.rng.uniform(0, np.pi),
                metres=r * 2,
                front=front,
            )
        else:
            plant(b, at, r * 3.0, 60)


def _any(b: SceneBuilder) -> str:
    kinds = ["wood", "tiles", "fabric", "stones", "marble", "paint", "poster", "painting", "bricks", "metal", "picture"]
    return str(b.rng.choice(kinds))
