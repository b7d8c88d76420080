"""Text in viser's markdown."""

from __future__ import annotations

_SPECIAL = set("\\`*_{}[]()<>#&|~!")


def plain(text: object) -> str:
    """Escape a text: viser reads its markdown as MDX, where a brace or an angle bracket out of place shows nothing."""
    return "".join(f"&#{ord(letter)};" if letter in _SPECIAL else letter for letter in str(text))
