"""Surface textures: noise, patterns, glyphs and pictures, all tileable but the pictures, 512 x 512 sRGB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from difix3d_ns.data.procedural.sample_pictures import Split, load_picture, picture_names

SIZE = 512
Colour = np.ndarray  # [3], sRGB in [0, 1]
Generator = np.random.Generator

_y, _x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE


def fbm(rng: Generator, slope: float = 1.7, stretch: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Periodic fractal noise with an ``f ** -slope`` amplitude spectrum.

    Args:
        rng: where the phases come from.
        slope: 0 is white noise, 2 is smooth clouds.
        stretch: how much longer features are along x and y.

    Returns:
        [512, 512], zero mean, unit variance, clipped to +-3.
    """
    fy = np.fft.fftfreq(SIZE)[:, None] * stretch[1]
    fx = np.fft.rfftfreq(SIZE)[None] * stretch[0]
    radius = np.hypot(fx, fy)
    radius[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) * radius**-slope, s=(SIZE, SIZE))
    noise -= noise.mean()
    return np.clip(noise / noise.std(), -3, 3).astype(np.float32)


def colour(rng: Generator, saturation: tuple[float, float] = (0.1, 0.6), value: tuple[float, float] = (0.3, 0.85)):
    """A random colour, hue uniform, as sRGB [3]."""
    hue, s, v = rng.random(), rng.uniform(*saturation), rng.uniform(*value)
    rgb = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (v * (1 - s + s * rgb)).astype(np.float32)


def _near(rng: Generator, base: Colour, spread: float, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Colours around ``base``: mostly lighter and darker, a little warmer and colder."""
    light = rng.normal(0, spread, (*shape, 1))
    return base * (1 + light) + rng.normal(0, spread * 0.12, (*shape, 3))


def _mix(weight: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first + (second - first) * np.clip(weight, 0, 1)[..., None]


def _shade(rgb: np.ndarray, noise: np.ndarray, amount: float) -> np.ndarray:
    return rgb * (1 + amount * noise[..., None])


def plaster(rng: Generator) -> np.ndarray:
    base = colour(rng, (0.05, 0.35), (0.6, 0.92))
    wall = _shade(np.broadcast_to(base, (SIZE, SIZE, 3)), fbm(rng, 1.6), 0.05)
    wall = _shade(wall, fbm(rng, 0.6), 0.035)
    stain = np.clip(fbm(rng, 1.9, (1.0, 0.35)) - rng.uniform(0.6, 1.4), 0, 1)
    return _mix(0.5 * stain, wall, base * 0.55)


def concrete(rng: Generator) -> np.ndarray:
    base = colour(rng, (0.02, 0.12), (0.4, 0.7))
    grey = _shade(np.broadcast_to(base, (SIZE, SIZE, 3)), fbm(rng, 1.3), 0.12)
    pores = gaussian_filter(rng.standard_normal((SIZE, SIZE)), 1.2, mode="wrap")
    seams = np.minimum(np.abs((_x * 2) % 1 - 0.5), np.abs((_y * 2) % 1 - 0.5)) < 0.006
    grey = _mix(np.clip(pores * 6 - 1.2, 0, 1) * 0.5, grey, base * 0.4)
    return _mix(seams * 0.6, grey, base * 0.5)


def wood(rng: Generator, planks: int | None = None) -> np.ndarray:
    base = np.array([rng.uniform(0.4, 0.75), 0, 0], np.float32)
    base[1] = base[0] * rng.uniform(0.62, 0.8)
    base[2] = base[1] * rng.uniform(0.5, 0.8)
    planks = planks or int(rng.integers(1, 8))
    row = np.minimum((_y * planks).astype(int), planks - 1)
    along = (_x + rng.random(planks)[row]) % 1
    warp = fbm(rng, 1.8, (6.0, 1.0))
    rings = np.sin(2 * np.pi * (rng.uniform(4, 9) * _y * 3 + 0.8 * warp + rng.random(planks)[row] * 7))
    grain = fbm(rng, 0.9, (14.0, 1.0))
    tone = _near(rng, base, 0.12 if planks > 1 else 0.0, (planks,))[row]
    boards = _shade(_shade(tone, rings, 0.09), grain, 0.10)
    joint = np.abs((_y * planks) % 1 - 0.5) > 0.5 - 0.004 * planks
    joint |= along * SIZE < 2.5
    return _mix(joint * 0.75 * (planks > 1), boards, base * 0.25)


def bricks(rng: Generator) -> np.ndarray:
    rows, columns = int(rng.integers(6, 14)) * 2, int(rng.integers(4, 8))
    base = np.array([rng.uniform(0.45, 0.7), rng.uniform(0.25, 0.42), rng.uniform(0.18, 0.34)], np.float32)
    if rng.random() < 0.3:
        base = colour(rng, (0.05, 0.3), (0.5, 0.85))
    bend = 0.0025 * fbm(rng, 1.5)
    y = (_y + bend) * rows
    row = y.astype(int) % rows
    x = (_x + bend.T) * columns + 0.5 * (row % 2)
    column = x.astype(int) % columns
    tone = _near(rng, base, 0.16, (rows, columns))[row, column]
    gap = np.maximum(np.abs(x % 1 - 0.5) - 0.5 + 0.055 * columns / rows * 2, np.abs(y % 1 - 0.5) - 0.5 + 0.075)
    wall = _shade(_shade(tone, fbm(rng, 0.9), 0.10), fbm(rng, 1.8), 0.06)
    mortar = _shade(np.broadcast_to(np.array([0.68, 0.65, 0.6], np.float32), wall.shape), fbm(rng, 0.8), 0.08)
    return _mix(gap / 0.02, wall, mortar * rng.uniform(0.6, 1.1))


def tiles(rng: Generator) -> np.ndarray:
    count = int(rng.integers(3, 9))
    x, y = _x * count, _y * count
    column, row = x.astype(int) % count, y.astype(int) % count
    first, second = colour(rng, (0.1, 0.5), (0.55, 0.9)), colour(rng, (0.2, 0.7), (0.2, 0.6))
    checker = ((column + row) % 2 == 0) if rng.random() < 0.5 else rng.random((count, count))[row, column] < 0.7
    tone = np.where(checker[..., None], _near(rng, first, 0.05, (count, count))[row, column], second)
    u, v = np.abs(x % 1 - 0.5), np.abs(y % 1 - 0.5)
    motif = [np.hypot(u, v) < 0.28, (u + v) < 0.3, np.maximum(u, v) < 0.25, np.abs(u - v) < 0.05][int(rng.integers(4))]
    if rng.random() < 0.7:
        tone = np.where(motif[..., None], colour(rng, (0.2, 0.8), (0.2, 0.9)), tone)
    tone = _shade(tone, fbm(rng, 1.2), 0.05)
    return _mix((np.maximum(u, v) - 0.485 + 0.003 * count / 4) / 0.008, tone, np.array([0.42, 0.4, 0.38], np.float32))


def fabric(rng: Generator) -> np.ndarray:
    weave = 0.06 * (np.sin(2 * np.pi * 128 * _x) + np.sin(2 * np.pi * 128 * _y))
    stripes = np.zeros((SIZE, SIZE, 3), np.float32) + colour(rng, (0.1, 0.6), (0.3, 0.9))
    both = rng.random() < 0.6
    for _ in range(int(rng.integers(2, 6))):
        tone, width, phase = colour(rng, (0.2, 0.8), (0.15, 0.9)), rng.uniform(0.02, 0.25), rng.random()
        repeat = int(rng.integers(1, 5))
        stripes = _mix(0.6 * (((_x * repeat + phase) % 1) < width), stripes, tone)
        if both:
            stripes = _mix(0.6 * (((_y * repeat + phase) % 1) < width), stripes, tone)
    return _shade(_shade(stripes, weave, 1.0), fbm(rng, 0.7), 0.06)


def stones(rng: Generator, count: int | None = None) -> np.ndarray:
    count = count or int(rng.integers(40, 260))
    seeds = rng.random((count, 2))
    for _ in range(2):  # two Lloyd steps: even sizes, as masons choose them
        shifted = (seeds[None] + np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)])[:, None]).reshape(-1, 2)
        probe = rng.random((6000, 2))
        owner = cKDTree(shifted).query(probe)[1]
        offset = probe - shifted[owner]
        for axis in (0, 1):
            total = np.bincount(owner % count, weights=offset[:, axis], minlength=count)
            seeds[:, axis] += total / np.maximum(np.bincount(owner % count, minlength=count), 1)
        seeds %= 1
    shifted = (seeds[None] + np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)])[:, None]).reshape(-1, 2)
    bend = 0.006 * fbm(rng, 1.5)
    points = np.stack([_x + bend, _y + bend.T], -1).reshape(-1, 2)
    distance, owner = cKDTree(shifted).query(points, k=2)
    edge = ((distance[:, 1] - distance[:, 0]) * np.sqrt(count)).reshape(SIZE, SIZE)
    base = colour(rng, (0.03, 0.3), (0.4, 0.75))
    tone = _near(rng, base, 0.2, (count,))[(owner[:, 0] % count).reshape(SIZE, SIZE)]
    tone = _shade(_shade(tone, fbm(rng, 1.0), 0.12), np.clip(edge, 0, 0.5) - 0.3, 0.5)
    return _mix(1 - (edge - 0.06) / 0.06, tone, base * rng.uniform(0.25, 0.6))


def marble(rng: Generator) -> np.ndarray:
    warp = fbm(rng, 1.7)
    vein = np.exp(-np.abs(np.sin(2 * np.pi * (2 * _x + _y) + 1.6 * warp)) * rng.uniform(6, 14))
    first = colour(rng, (0.02, 0.3), (0.6, 0.95))
    rock = _shade(np.broadcast_to(first, (SIZE, SIZE, 3)), fbm(rng, 1.5), 0.06)
    return _mix(0.75 * vein + 0.12 * fbm(rng, 0.8), rock, colour(rng, (0.05, 0.4), (0.15, 0.5)))


def paint(rng: Generator) -> np.ndarray:
    """Almost textureless: what real walls, cups and doors are made of."""
    base = colour(rng, (0.1, 0.8), (0.35, 0.9))
    return _shade(np.broadcast_to(base, (SIZE, SIZE, 3)), fbm(rng, 1.5), rng.uniform(0.005, 0.03))


def metal(rng: Generator) -> np.ndarray:
    base = colour(rng, (0.0, 0.15), (0.25, 0.7))
    brushed = _shade(np.broadcast_to(base, (SIZE, SIZE, 3)), fbm(rng, 0.6, (30.0, 1.0)), 0.08)
    rust = np.clip(fbm(rng, 1.6) - rng.uniform(0.5, 2.5), 0, 1)
    return _mix(rust, brushed, np.array([0.42, 0.22, 0.12], np.float32) * rng.uniform(0.7, 1.2))


def leaves(rng: Generator) -> np.ndarray:
    """One leaf: a midrib along x, veins, blotches."""
    base = np.array([rng.uniform(0.12, 0.4), rng.uniform(0.32, 0.58), rng.uniform(0.06, 0.2)], np.float32)
    if rng.random() < 0.2:
        base = np.array([rng.uniform(0.5, 0.75), rng.uniform(0.2, 0.5), 0.1], np.float32)
    away = np.abs(_y - 0.5)
    vein = np.exp(-away * 90) + 0.6 * np.exp(-np.abs(((_x - away * 0.7) * 9) % 1 - 0.5) * 25)
    leaf = _shade(np.broadcast_to(base, (SIZE, SIZE, 3)), fbm(rng, 1.4), 0.15)
    return _mix(0.45 * vein, leaf, base * 1.5 + 0.08)


def bark(rng: Generator) -> np.ndarray:
    base = np.array([0.38, 0.3, 0.22], np.float32) * rng.uniform(0.7, 1.4)
    ridge = np.abs(fbm(rng, 1.3, (1.0, 6.0)))
    rough = _shade(np.broadcast_to(base, (SIZE, SIZE, 3)), fbm(rng, 0.8, (1.0, 3.0)), 0.15)
    return _mix(1 - ridge * 2.2, rough, base * 0.3)


def lawn(rng: Generator) -> np.ndarray:
    base = np.array([rng.uniform(0.3, 0.45), rng.uniform(0.4, 0.5), rng.uniform(0.15, 0.25)], np.float32)
    blades = np.maximum(fbm(rng, 0.7, (1.0, 4.0)), fbm(rng, 0.7, (4.0, 1.0)))
    green = _shade(_shade(np.broadcast_to(base, (SIZE, SIZE, 3)), blades - 0.5, 0.28), fbm(rng, 1.8), 0.12)
    return _mix(np.clip(fbm(rng, 1.7) - 1, 0, 1) * 0.7, green, np.array([0.45, 0.37, 0.26], np.float32))


def poster(rng: Generator) -> np.ndarray:
    """Print: a headline, lines of text-like glyphs, a block of colour."""
    ground, ink = colour(rng, (0.0, 0.5), (0.75, 0.98)), colour(rng, (0.1, 0.9), (0.05, 0.4))
    if rng.random() < 0.35:
        ground, ink = ink, ground
    image = Image.new("RGB", (SIZE, SIZE), tuple(int(255 * c) for c in ground))
    draw = ImageDraw.Draw(image)
    letters = "ABCDEFGHIJKLMNOPRSTUVWXYZabcdefghijklmnoprstuvwxyz0123456789&%?!#"

    def words(length: int) -> str:
        return "".join(letters[int(i)] if rng.random() > 0.17 else " " for i in rng.integers(len(letters), size=length))

    def shade(tone: Colour) -> tuple[int, ...]:
        return tuple(int(255 * c) for c in tone)

    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.integers(0, SIZE - 120, 2)
        w, h = rng.integers(40, 260, 2)
        box = [int(x), int(y), int(x + w), int(y + h)]
        (draw.ellipse if rng.random() < 0.4 else draw.rectangle)(box, fill=shade(colour(rng, (0.2, 0.9), (0.2, 0.95))))
    y = int(rng.integers(8, 40))
    size = int(rng.integers(60, 120))
    while y < SIZE - 20:
        text = words(int(1.7 * SIZE / size))
        draw.text((int(rng.integers(8, 40)), y), text, fill=shade(ink), font=ImageFont.load_default(size=size))
        y += int(size * rng.uniform(1.1, 1.6))
        size = int(np.clip(size * rng.choice([0.5, 1.0, 1.0]), 16, 120))
    return _shade(np.asarray(image, np.float32) / 255, fbm(rng, 1.4), 0.03)


def painting(rng: Generator) -> np.ndarray:
    """Warped bands of colour with blobs on top, like a picture on a wall."""
    warp = fbm(rng, 1.9)
    tones = np.stack([colour(rng, (0.1, 0.8), (0.15, 0.95)) for _ in range(6)])
    level = np.clip((_y + 0.12 * warp) * 6, 0, 5.999)
    canvas = tones[level.astype(int)]
    canvas = np.stack([gaussian_filter(canvas[..., i], rng.uniform(1, 6), mode="nearest") for i in range(3)], -1)
    for _ in range(int(rng.integers(4, 14))):
        cx, cy, r = rng.random(), rng.random(), rng.uniform(0.03, 0.16)
        blob = np.hypot(_x - cx, (_y - cy) * rng.uniform(0.6, 2)) + 0.03 * warp < r
        canvas = _mix(0.85 * blob, canvas, colour(rng, (0.2, 0.9), (0.15, 0.95)))
    return _shade(canvas, fbm(rng, 0.8), 0.05)


def picture(rng: Generator, split: Split) -> np.ndarray:
    """A crop of a sample picture of the split; grey ones get a colour ramp."""
    names = picture_names(split)
    if not names:
        return painting(rng)
    return framed(load_picture(names[int(rng.integers(len(names)))], split), rng)


def framed(image: np.ndarray, rng: Generator | None = None) -> np.ndarray:
    """A sample picture as a texture: cropped a little (given ``rng``), grey ones tinted, resized to 512 x 512."""
    rgb = np.asarray(image, np.float32) / 255
    if rng is not None:
        h, w = rgb.shape[:2]
        side = rng.uniform(0.6, 1.0)
        y, x = int(rng.uniform(0, 1 - side) * h), int(rng.uniform(0, 1 - side) * w)
        rgb = rgb[y : y + int(side * h), x : x + int(side * w)]
        if np.ptp(rgb, axis=-1).max() < 0.02:
            rgb = _mix(rgb[..., 0], colour(rng, (0.2, 0.7), (0.05, 0.3)), colour(rng, (0.05, 0.4), (0.7, 1.0)))
    small = Image.fromarray((np.clip(rgb, 0, 1) * 255).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(small, np.float32) / 255


def herringbone(rng: Generator) -> np.ndarray:
    """Parquet laid in a zigzag. Reserved for the demo."""
    n, length = 16, 4
    board = wood(rng, planks=1)
    x, y = _x * n, _y * n
    column, row = x.astype(int), y.astype(int)
    phase = (column - row) % (2 * length)
    flat = phase < length  # a horizontal board, else a vertical one
    along = np.where(flat, phase + x % 1, (row - column - 1) % (2 * length) + y % 1 - 0)
    across = np.where(flat, y % 1, x % 1)
    first = np.where(flat, (column - phase) * 131 + row, column * 17 + (row - (row - column - 1) % (2 * length)) * 71)
    tone = rng.normal(1, 0.13, 997)[first % 997]
    u = (along / length * 0.3 + (first % 7) / 7) % 1 * SIZE
    v = (across * 0.09 + (first % 11) / 11) % 1 * SIZE
    grain = np.stack([map_coordinates(board[..., c], [v, u], order=1, mode="wrap") for c in range(3)], -1)
    joint = (np.abs(across - 0.5) > 0.46) | (along % length < 0.05)
    return _mix(joint * 0.7, grain * tone[..., None], grain * 0.3)


def medallion(rng: Generator) -> np.ndarray:
    """A carpet with fourfold symmetric ornaments. Reserved for the demo."""
    u, v = np.abs(_x - 0.5), np.abs(_y - 0.5)
    u, v = np.maximum(u, v), np.minimum(u, v)
    noise = fbm(rng, 1.5)
    mirrored = map_coordinates(noise, [v * SIZE, u * SIZE], order=1, mode="wrap")
    radius = np.hypot(u, v)
    field = np.sin(radius * 55 + 1.5 * mirrored) + 0.7 * mirrored
    tones = np.array(
        [[0.45, 0.1, 0.1], [0.75, 0.62, 0.42], [0.12, 0.18, 0.35], [0.6, 0.25, 0.14], [0.88, 0.82, 0.7]], np.float32
    )
    carpet = tones[np.clip(((field + 2) / 4 * 5).astype(int), 0, 4)]
    border = np.maximum(u, v)
    carpet = np.where(((border > 0.42) & (border < 0.435))[..., None], tones[4], carpet)
    carpet = np.where(((border > 0.435) & ((np.floor((u + v) * 60) % 2) == 0))[..., None], tones[2], carpet)
    weave = 0.08 * (np.sin(2 * np.pi * 100 * _x) * np.sin(2 * np.pi * 100 * _y))
    return _shade(_shade(carpet, weave, 1.0), fbm(rng, 0.6), 0.05)


SHARED: dict[str, Callable[[Generator], np.ndarray]] = {
    f.__name__: f
    for f in (
        plaster,
        concrete,
        wood,
        bricks,
        tiles,
        fabric,
        stones,
        marble,
        paint,
        metal,
        leaves,
        bark,
        lawn,
        poster,
        painting,
    )
}
DEMO_ONLY: dict[str, Callable[[Generator], np.ndarray]] = {"herringbone": herringbone, "medallion": medallion}


def make_texture(kind: str, rng: Generator, split: Split) -> np.ndarray:  # [512, 512, 3] uint8 sRGB
    """Make a texture by name (``SHARED``, ``DEMO_ONLY``, ``picture`` or ``picture:NAME``).

    Raises:
        ValueError: the kind does not exist, or is reserved for the other split.
    """
    if kind == "picture":
        rgb = picture(rng, split)
    elif kind.startswith("picture:"):
        rgb = framed(load_picture(kind.partition(":")[2], split))
    elif kind in DEMO_ONLY:
        if split != "demo":
            raise ValueError(f"the texture {kind!r} is reserved for the demo scene")
        rgb = DEMO_ONLY[kind](rng)
    elif kind in SHARED:
        rgb = SHARED[kind](rng)
    else:
        raise ValueError(f"no texture {kind!r}; there are {', '.join([*SHARED, *DEMO_ONLY, 'picture'])}")
    return (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)


def make_sky(rng: Generator, size: tuple[int, int] = (256, 512)) -> np.ndarray:
    """A far background by direction: gradient, clouds, haze and hills at the horizon.

    Returns:
        [256, 512, 3] linear colour; rows go from the zenith to the nadir, columns once around.
    """
    height, width = size
    up = np.cos(np.linspace(0, np.pi, height))[:, None]
    zenith = np.array([rng.uniform(0.12, 0.3), rng.uniform(0.3, 0.45), rng.uniform(0.6, 0.9)], np.float32)
    horizon = np.array([0.8, 0.85, 0.9], np.float32) * rng.uniform(0.7, 1.0)
    sky = horizon + (zenith - horizon) * np.clip(up, 0, 1)[..., None] ** 0.5
    sky = np.broadcast_to(sky, (height, width, 3)).copy()
    noise = fbm(rng, 1.9, (1.0, 2.0))[:height, ::1][:, :width]
    sky = _mix((noise - rng.uniform(-0.5, 1.0)) * 0.8 * (up > -0.1), sky, np.array([1.0, 0.98, 0.95], np.float32))
    for distance in (0.0, 0.5):
        ridge = (fbm(rng, 1.8)[0] * 0.03 + rng.uniform(0.02, 0.08) - 0.05 * distance)[None, :width]
        tone = np.array([0.16, 0.22, 0.12], np.float32) * (1 - distance * 0.6) + np.array(
            [0.3, 0.35, 0.4], np.float32
        ) * (0.6 - distance)
        hills = _shade(np.broadcast_to(tone, (height, width, 3)), fbm(rng, 0.9)[:height, :width], 0.25)
        sky = np.where((up < ridge)[..., None], hills, sky)
    return np.ascontiguousarray(np.clip(sky, 0.01, 1.2), dtype=np.float32)
