"""The viewer's icons, read in one go: viser goes through its archive of thousands for each of them."""

from __future__ import annotations

import tarfile
from functools import cache

from viser import _gui_api, _gui_handles, _icons


@cache
def _icons_by_file() -> dict[str, bytes]:
    found = {}
    with tarfile.open(_icons.ICONS_DIR / "tabler-icons.tar") as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                found[member.name] = file.read()
    return found


def _svg_from_icon(icon_name: str) -> str:
    return _icons_by_file()[f"{icon_name}.svg"].decode("utf-8")


def apply() -> None:
    """Swap viser's reader where it is used."""
    _gui_api.svg_from_icon = _gui_handles.svg_from_icon = _svg_from_icon  # type: ignore[assignment]
