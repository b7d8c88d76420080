"""A benchmark's results as a page to look at, without network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from difix3d_ns.evaluation.bench.kept_pictures import TRUTH
from difix3d_ns.evaluation.bench.results import Compared, Scores
from difix3d_ns.evaluation.bench.tables import Part
from difix3d_ns.evaluation.report import Cell, Figure, Section, gallery, long_side_for, page, picture, slider, table

_BUDGET = 8e6
"""bytes of all pictures"""
_HEADLINES = 3


def report(
    parts: Sequence[Part], scores: Scores, compared: Sequence[Compared], folder: Path, columns: Mapping[str, str]
) -> str:
    """The page.

    Args:
        parts: what there is to tell.
        scores: of all finished jobs.
        compared: paired differences; the first are the headlines.
        folder: of the kept pictures, one folder per scene.
        columns: name -> method whose pictures are shown.
    """
    views = {scene: _views(folder / scene, columns) for scene in scores.scenes}
    count = sum(len(found) for found in views.values())
    sections: list[Section] = []
    for part in parts[1:]:
        content = [*_paragraphs(part.before)]
        if part.table is not None:
            content.append(
                table(part.table.headings, [[Cell(text, best) for text, best in row] for row in part.table.rows])
            )
        content += _paragraphs(part.after)
        if views.get(part.scene):
            content.append(_gallery(folder / part.scene, views[part.scene], columns, count))
        short = part.scene or ("Differences" if part.title == "Paired differences" else "")
        if part.level > 2 and sections:
            last = sections.pop()
            sections.append(Section(last.title, [*last.parts, f"{part.title}:", *content], last.short))
        else:
            sections.append(Section(part.title, content, short))
    head = parts[0]
    choices = [re.sub(r"^- ", "", line).replace("`", "") for line in head.after.splitlines()]
    warnings = [line for line in choices if "chosen without" in line]
    if sections:
        told = [line for line in choices if line not in warnings]
        sections[0] = Section(sections[0].title, [*sections[0].parts, *told], sections[0].short)
    subtitle, _, rest = head.before.partition("\n\n")
    return page(head.title, sections, subtitle.strip("`"), _figures(compared, scores), warnings, rest)


def _figures(compared: Sequence[Compared], scores: Scores) -> list[Figure]:
    figures = []
    for entry in compared[:_HEADLINES]:
        gain = entry.whole["psnr"]
        error = "" if gain.error is None else f" ± {gain.error:.2f}"
        count = len([scene for scene in scores.counted if scene in entry.scenes])
        name = f"{entry.comparison.method} over {entry.comparison.against}"
        figures.append(Figure(f"{gain.mean:+.2f} dB", name, f"PSNR{error}, {count} scene{'s' if count > 1 else ''}"))
    return figures


def _paragraphs(text: str) -> list[str]:
    return [block for block in text.split("\n\n") if block]


def _views(folder: Path, columns: Mapping[str, str]) -> list[str]:
    """File names of the views of which there is a picture of every method."""
    names = [*columns.values(), TRUTH]
    found = [file.name for file in sorted((folder / TRUTH).glob("*.jpg"))]
    return [view for view in found if all((folder / name / view).is_file() for name in names)]


def _gallery(folder: Path, views: Sequence[str], columns: Mapping[str, str], count: int) -> str:
    first = _first_pair(list(columns))
    names = [*first, *(name for name in columns if name not in first)]
    sources = {**{name: columns[name] for name in names}, TRUTH.capitalize(): TRUTH}
    sliders = []
    for view in views:
        pixels = {name: _read(folder / source / view) for name, source in sources.items()}
        height, width = next(iter(pixels.values())).shape[:2]
        side = long_side_for(count * len(sources), width, height, _BUDGET)
        shown = {name: picture(values, side) for name, values in pixels.items()}
        sliders.append(slider(shown, f"Held-out view {int(Path(view).stem) + 1}"))
    truth = TRUTH.capitalize()
    ours = [name for name in names[1:] if not name.startswith("plain")]
    return gallery(sliders, [*((names[0], name) for name in ours), *((name, truth) for name in names)])


def _first_pair(names: Sequence[str]) -> list[str]:
    """What is shown first: the best plain method and the plainest of the others."""
    plain = [name for name in names if name.startswith("plain")] or list(names[:1])
    ours = [name for name in names if name not in plain]
    return [plain[-1], *(["difix3d"] if "difix3d" in ours else ours[:1])]


def _read(path: Path) -> np.ndarray:  # [H, W, 3] uint8
    with Image.open(path) as source:
        return np.asarray(source.convert("RGB"))
