"""The page's templates, beside this file."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).with_name("templates")


def render(name: str, **values: Any) -> Markup:
    """Fill in a template; everything but Markup is escaped."""
    return Markup(_environment().get_template(name).render(**values))


def text(name: str) -> Markup:
    """A file of the folder as it is: style and script."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
