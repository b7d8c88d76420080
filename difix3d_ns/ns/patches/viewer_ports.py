"""The viewer's port where its own is in use: the next free one, and said.

Where no port is given, nerfstudio takes any, without a word. One that is given it hands to viser, which takes the next
free one, and then it prints the address of the one that is in use: another's viewer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer_legacy.server import viewer_utils

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

_MAX_TRIED = 50
_PORT = re.compile(r"(?<=:)\d+")  # of the first address in a line
_get_free_port = viewer_utils.get_free_port


def next_free_port(default_port: int | None = None) -> int:
    """Return the first free port from a number on; any free one if none of the next is.

    Args:
        default_port: the number; None: any.
    """
    for port in range(default_port, min(default_port + _MAX_TRIED, 1 << 16)) if default_port is not None else ():
        if viewer_utils.is_port_open(port):
            if port != default_port:
                _say(default_port, port)
            return port
    return _get_free_port()


def correct_address(viewer: Viewer) -> None:
    """Let a viewer state the port that its server has; where it is another than it was to have, that is said.

    Args:
        viewer: that is being set up; what it states is printed later.
    """
    port = viewer.viser_server.get_port()
    for number, line in enumerate(viewer.viewer_info):
        stated = _PORT.search(line)
        if stated is not None and int(stated[0]) != port:
            _say(int(stated[0]), port)
            viewer.viewer_info[number] = line[: stated.start()] + str(port) + line[stated.end() :]


def _say(wanted: int | None, port: int) -> None:
    CONSOLE.print(f"Port {wanted} is in use: the viewer takes {port} (--viewer.websocket-port).")


def apply() -> None:
    """Let every viewer that is opened from now on look there."""
    viewer_utils.get_free_port = next_free_port
