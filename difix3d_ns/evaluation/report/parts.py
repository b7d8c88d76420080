"""Parts of a page: numbers, tables, sliders, folds. Each gives HTML that is safe to put into another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from difix3d_ns.evaluation.report.page_pictures import Picture
from difix3d_ns.evaluation.report.templates import render, text
from difix3d_ns.evaluation.table import Cell, Results, Table, metric_table

_numbers = itertools.count(1)

Text = str | Markup


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading."""

    title: str
    parts: Sequence[Text | Table | Section]
    """one below the other; plain strings become paragraphs"""
    short: str = ""
    """its name in the line of links on top"""


@dataclass(frozen=True)
class Figure:
    """A number at the top of a page."""

    value: str
    name: str
    note: str = ""


def page(
    title: str,
    sections: Sequence[Section],
    subtitle: str = "",
    figures: Sequence[Figure] = (),
    notices: Sequence[str] = (),
    foot: str = "",
) -> str:
    """A whole HTML page that needs no other file and no network.

    Args:
        title: plain text, as all strings here; only Markup is taken as HTML.
        sections: in order; those without parts are left out.
        subtitle: a line below the title.
        figures: the few numbers that matter.
        notices: what a reader should know before anything else.
        foot: how the page was made.
    """
    kept = [Section(each.title, list(_contents(each.parts)), each.short) for each in sections if any(each.parts)]
    return str(
        render(
            "page.html",
            title=title,
            subtitle=subtitle,
            figures=figures,
            notices=notices,
            sections=kept,
            foot=foot,
            style=text("style.css"),
            script=text("script.js"),
        )
    )


def slider(pictures: Mapping[str, Picture], caption: Text = "", numbers: Text = "", detail: Text = "") -> Markup:
    """Pictures of one view that can be compared by a bar that is dragged or moved by the arrow keys.

    The first two are shown; ``gallery`` lets people choose others. A double click, or + and -, magnifies.

    Args:
        pictures: name -> picture, at least two, all of one shape; one with fewer pixels than the widest shows them.
        caption: below, on the left.
        numbers: below, on the right.
        detail: a smaller line below both.

    Raises:
        ValueError: fewer than two pictures.
    """
    if len(pictures) < 2:
        raise ValueError(f"a slider compares at least two pictures, got {len(pictures)}")
    first = max(pictures.values(), key=lambda picture: picture.width)
    left, right = list(pictures)[:2]
    return render(
        "slider.html",
        pictures=pictures,
        left=left,
        right=right,
        width=first.width,
        height=first.height,
        caption=caption,
        numbers=numbers,
        detail=detail,
    )


def picture_row(pictures: Sequence[Picture], caption: str) -> Markup:
    """Pictures side by side in one row, which scrolls where the screen is narrow.

    Args:
        pictures: of one shape.
        caption: below.
    """
    return render("picture_row.html", pictures=pictures, caption=caption)


def gallery(
    sliders: Sequence[Markup],
    pairs: Sequence[tuple[str, str]] = (),
    columns: int = 2,
    legends: Mapping[tuple[str, str], Text] | None = None,
) -> Markup:
    """Sliders in columns, with one choice for all of them of what is compared.

    Args:
        sliders: made by ``slider``.
        pairs: names of pictures (left, right) to choose from, the first one being shown; a slider that lacks one of
            a pair goes on showing what it did.
        columns: on a wide screen; a telephone has one.
        legends: of a pair, shown while it is chosen.
    """
    chosen = [(pair, (legends or {}).get(pair, "")) for pair in pairs]
    return render("gallery.html", sliders=sliders, pairs=chosen, columns=columns, number=next(_numbers))


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str | Cell]],
    groups: Sequence[tuple[str, int]] = (),
    foot: Sequence[Sequence[str | Cell]] = (),
) -> Markup:
    """A table whose first column is text and whose others are numbers; a wide one scrolls by itself.

    Args:
        headings: one per column.
        rows: as many cells as headings each.
        groups: (name, number of columns) of a row above the headings.
        foot: rows below a line, such as means.
    """
    return render("table.html", headings=headings, rows=_cells(rows), groups=groups, foot=_cells(foot))


def results_table(results: Results) -> Markup:
    """A row per method, a column per metric, the best of each column marked.

    Args:
        results: method -> metric -> value.
    """
    made = metric_table(results)
    return table(made.headings, made.rows)


def facts(rows: Sequence[tuple[str, Text]]) -> Markup:
    """Names and values, a line each."""
    return render("facts.html", rows=rows) if rows else Markup("")


def fold(title: Text, parts: Sequence[Text], opened: bool = False) -> Markup:
    """Something to open."""
    return render("fold.html", title=title, parts=parts, opened=opened)


def grid(parts: Sequence[Text]) -> Markup:
    """Small parts side by side, as many as fit."""
    kept = [part for part in parts if part]
    return render("grid.html", parts=kept) if kept else Markup("")


def _contents(parts: Sequence[Text | Table | Section]) -> Iterator[Text]:
    for part in parts:
        if isinstance(part, Section):
            yield f"{part.title}:"
            yield from _contents(part.parts)
        else:
            yield table(part.headings, part.rows) if isinstance(part, Table) else part


def _cells(rows: Sequence[Sequence[str | Cell]]) -> list[list[Cell]]:
    return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
