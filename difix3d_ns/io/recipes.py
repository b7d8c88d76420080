"""YAML files of ``configs/``, by name or by path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

import difix3d_ns
from difix3d_ns.errors import UserError

Content = TypeVar("Content")


def find(kind: str, name: str | Path) -> Path:
    """Find the file of a recipe.

    Args:
        kind: folder of ``configs``, which ships with the package.
        name: of a file there, or the path of any.

    Raises:
        UserError: there is none.
    """
    for path in (Path(name), *(folder / f"{name}.yaml" for folder in _folders(kind))):
        if path.is_file():
            return path
    noun = "protocol" if kind == "protocol" else "recipe"
    raise UserError(f"no {noun} {name}: give a YAML file or one of {', '.join(shipped(kind))}")


def shipped(kind: str) -> list[str]:
    """Names of the recipes that ship with the package, sorted.

    Args:
        kind: folder of ``configs``.
    """
    return sorted({file.stem for folder in _folders(kind) for file in folder.glob("*.yaml")})


def _folders(kind: str) -> list[Path]:
    package = Path(difix3d_ns.__file__).parent
    return [package / "configs" / kind, package.parent / "configs" / kind]


def load(path: Path, kind: type[Content], example: str) -> Content:
    """Read a recipe as a dataclass, whose annotations and ``__post_init__`` (ValueError) say what it may hold.

    Args:
        path: of the file.
        kind: the dataclass; its ``name`` is the file's where the recipe gives none.
        example: a recipe to read, for messages.

    Raises:
        UserError: it is no YAML, no mapping, or has entries that are unknown, missing or no good.
    """
    content = _read(path, example)
    for message in _mistakes(content, inspect.type_info(kind)):
        raise UserError(f"{path}: {message}")
    try:
        return msgspec.convert({"name": path.stem, **content}, kind, strict=False)  # YAML reads 1e-3 as text
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}; see {example}") from error


def _read(path: Path, example: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe is a mapping, see {example}")
    return content


def _mistakes(content: Any, kind: inspect.Type, place: str = "") -> Iterator[str]:
    """Messages about unknown entries and choices, the outermost first: msgspec does not name those there are."""
    if isinstance(kind, inspect.UnionType):
        for one in kind.types:
            if not isinstance(one, inspect.LiteralType):  # it may be another one
                yield from _mistakes(content, one, place)
    elif isinstance(kind, inspect.LiteralType) and content not in kind.values:
        yield f"{place.removesuffix('.')} is one of {', '.join(map(str, kind.values))}, not {content!r}"
    elif isinstance(kind, inspect.DataclassType) and isinstance(content, dict):
        known = {field.name: field.type for field in kind.fields}
        if unknown := sorted(f"{place}{key}" for key in content if key not in known):
            yield f"unknown entry {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            return
        for key in content:
            yield from _mistakes(content[key], known[key], f"{place}{key}.")
    elif isinstance(kind, inspect.DictType) and isinstance(content, dict):
        for key, value in content.items():
            yield from _mistakes(value, kind.value_type, f"{place}{key}.")
    elif isinstance(kind, inspect.VarTupleType) and isinstance(content, list):
        for number, value in enumerate(content):
            yield from _mistakes(value, kind.item_type, f"{place.removesuffix('.')}[{number}].")
