"""YAML files of ``configs/``, by name or by path."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

import difix3d_ns
from difix3d_ns.errors import UserError


def find(kind: str, name: str | Path) -> Path:
    """The file of a recipe.

    Args:
        kind: folder of ``configs``, which ships with the package.
        name: of a file there, or the path of any.

    Raises:
        UserError: there is none.
    """
    package = Path(difix3d_ns.__file__).parent
    folders = [package / "configs" / kind, package.parent / "configs" / kind]
    for path in (Path(name), *(folder / f"{name}.yaml" for folder in folders)):
        if path.is_file():
            return path
    shipped = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    raise UserError(f"no recipe {name}: give a YAML file or one of {', '.join(shipped)}")


def read(path: Path, known: Collection[str], example: str) -> dict[str, Any]:
    """What a recipe says.

    Args:
        path: of the file.
        known: entries it may have.
        example: a recipe to look at, for messages.

    Raises:
        UserError: it is no YAML, no mapping, or has unknown entries.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe is a mapping, see {example}")
    if unknown := sorted(str(entry) for entry in set(content) - set(known)):
        raise UserError(f"{path}: unknown entry {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return content
