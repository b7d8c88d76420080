"""The viewer's port where its own is in use: the next free one, and said; nerfstudio takes any, without a word."""

from __future__ import annotations

from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer_legacy.server import viewer_utils

_MAX_TRIED = 50
_get_free_port = viewer_utils.get_free_port


def next_free_port(default_port: int | None = None) -> int:
    """Return the first free port from a number on; any free one if none of the next is.

    Args:
        default_port: the number; None: any.
    """
    for port in range(default_port, min(default_port + _MAX_TRIED, 1 << 16)) if default_port is not None else ():
        if viewer_utils.is_port_open(port):
            if port != default_port:
                CONSOLE.print(f"Port {default_port} is in use: the viewer takes {port} (--viewer.websocket-port).")
            return port
    return _get_free_port()


def apply() -> None:
    """Let every viewer that is opened from now on look there."""
    viewer_utils.get_free_port = next_free_port
