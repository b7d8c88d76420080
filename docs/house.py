"""Draws docs/images/house.svg: the folders of difix3d_ns in their layers, and who imports whom.

python docs/house.py [--check]
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PACKAGE = DOCS.parent / "difix3d_ns"
PICTURE = DOCS / "images" / "house.svg"

LAYERS = (
    ("cli",),
    ("apps",),
    ("evaluation",),
    ("methods",),
    ("ns",),
    ("guidance", "enhance", "training", "meshing"),
    ("views", "initialization", "data"),
    ("splats", "priors"),
    ("rasterization",),
    ("geometry", "metrics", "io"),
)
"""Rooms from the top of the house to its ground; imports point down. ``errors.py``, which most import, is left out."""

WIDTHS = ((1, 2.0), (3, 3.5), (6, 5.5), (12, 8.0))
"""(files that import from a room, at least; width of the arrow in px); few, so that small changes draw the same"""
COLOURS = ("#0b6e99", "#b8500a", "#3d7f26", "#8a3ea8", "#a3112f", "#4a5a9a", "#7a6000", "#00796b")
UP = "#e00000"  # an import that points up the layers

TEXT = 24  # px in a picture of WIDTH: a phone shows it at 13
WIDTH = 660
LEFT, BOX, HEIGHT, GAP, PAD = 46, 206, 46, 8, 9  # px: margin, sides of a box, between boxes, around a layer's boxes


def imports() -> dict[tuple[str, str], int]:
    """{(room, room it imports from): files that do}, type-only imports included."""
    files = {_module(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    found: Counter[tuple[str, str]] = Counter()
    for name, path in files.items():
        targets = {_room(target) for target in _imported(path, files)} - {_room(name), "", "errors"}
        found.update((_room(name), target) for target in targets if _room(name) not in ("", "errors"))
    return dict(sorted(found.items()))


def rooms() -> tuple[tuple[str, ...], ...]:
    """The layers with the rooms that are there.

    Raises:
        SystemExit: a room belongs to no layer.
    """
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    if foreign := there - {room for layer in LAYERS for room in layer}:
        raise SystemExit(f"docs/house.py has no layer for {', '.join(sorted(foreign))}")
    return tuple(kept for layer in LAYERS if (kept := tuple(room for room in layer if room in there)))


def draw(arrows: dict[tuple[str, str], int]) -> str:
    """The picture as SVG."""
    layers = rooms()
    rank = {room: number for number, layer in enumerate(layers) for room in layer}
    order = [room for layer in layers for room in layer]
    colour = {room: COLOURS[number % len(COLOURS)] for number, room in enumerate(order)}
    top: dict[str, float] = {}
    y, bands = 14.0, []
    for layer in layers:
        bands.append((y, len(layer) * (HEIGHT + GAP) - GAP + 2 * PAD))
        for place, room in enumerate(layer):
            top[room] = y + PAD + place * (HEIGHT + GAP)
        y += bands[-1][1] + 12
    height = y + 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="{TEXT}">',
        "<title>Folders of difix3d_ns in their layers; arrows lead to what is imported</title>",
        f'<rect width="{WIDTH}" height="{height:g}" fill="#ffffff"/>',
        *(_band(at, tall) for at, tall in bands),
    ]
    longest_first = sorted(arrows.items(), key=lambda arrow: -abs(top[arrow[0][1]] - top[arrow[0][0]]))
    for (source, target), files in longest_first:
        up = rank[target] < rank[source]
        width = max(px for least, px in WIDTHS if files >= least)
        start, end = top[source] + HEIGHT * 0.7, top[target] + HEIGHT * 0.3
        parts.append(_arrow(start, end, width, UP if up else colour[source], left=up))
    parts += [_box(room, top[room], colour[room]) for room in order]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _band(y: float, height: float) -> str:
    return f'<rect x="{LEFT - PAD}" y="{y:g}" width="{BOX + 2 * PAD}" height="{height:g}" rx="10" fill="#e8e8ee"/>'


def _box(room: str, y: float, colour: str) -> str:
    middle = y + HEIGHT / 2 + TEXT * 0.35
    return (
        f'<rect x="{LEFT}" y="{y:g}" width="{BOX}" height="{HEIGHT}" rx="6" fill="#ffffff" stroke="{colour}" '
        f'stroke-width="3"/><text x="{LEFT + BOX / 2:g}" y="{middle:g}" text-anchor="middle" fill="#1a1a1a">'
        f"{room}</text>"
    )


def _arrow(start: float, end: float, width: float, colour: str, left: bool) -> str:
    """A bow beside the boxes, on their right, or on their left where it points up the layers."""
    side = -1 if left else 1
    edge = LEFT if left else LEFT + BOX
    head = 7 + width
    room = LEFT - 16 if left else WIDTH - LEFT - BOX - 12
    out = min(room, 26 + 0.36 * abs(end - start)) / 0.75  # of a Bezier's control points, three quarters is reached
    tip, neck = edge + side * PAD * 0.4, edge + side * (PAD * 0.4 + head)
    path = f"M{edge:g} {start:g}C{edge + side * out:g} {start:g} {neck + side * out:g} {end:g} {neck:g} {end:g}"
    half = head * 0.5
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" stroke-opacity="0.7"/>'
        f'<path d="M{tip:g} {end:g}L{neck:g} {end - half:g}V{end + half:g}Z" fill="{colour}"/>'
    )


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def _room(module: str) -> str:
    return [*module.split("."), ""][1]


def _imported(path: Path, files: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in files else node.module for name in names}
    return found & set(files)


def main() -> None:
    """Write the picture, or with --check say whether it is out of date."""
    text = draw(imports())
    if "--check" in sys.argv[1:]:
        same = PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == text
        sys.exit(0 if same else f"{PICTURE} is out of date: run `make docs`")
    PICTURE.write_text(text, encoding="utf-8")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
