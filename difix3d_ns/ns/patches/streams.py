"""Output of nerfstudio's commands on consoles that lack some characters."""

from __future__ import annotations

from difix3d_ns.io.consoles import replace_unprintable


def apply() -> None:
    """Let boxes, bars and arrows be replaced where they cannot be shown; see ``io.consoles``."""
    replace_unprintable()
