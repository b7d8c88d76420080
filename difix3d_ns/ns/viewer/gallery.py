"""The latest made views as pictures in the control panel."""

from __future__ import annotations

import base64
import io
import threading
from collections import deque
from pathlib import Path

import numpy as np
import viser
from PIL import Image

from difix3d_ns.ns.viewer.markdown import plain
from difix3d_ns.views.records import LATEST, ViewRecord

_WIDTH = 300  # pixels of the panel
_QUALITY = 80


class Gallery:
    """A folder with the latest records: their panels, and what they are in numbers.

    Args:
        server: in whose current container the folder is made.
        plural: how labels call the views.
    """

    def __init__(self, server: viser.ViserServer, plural: str = "made views") -> None:
        self._texts: deque[str] = deque(maxlen=LATEST)
        self._lock = threading.Lock()  # viser calls back in threads of its own
        with server.gui.add_folder("Gallery", expand_by_default=False):
            self._legend = server.gui.add_markdown("Nothing yet.")
            self._count = server.gui.add_slider("Shown", 1, LATEST, 1, 4, hint=f"How many of the latest {plural}")
            self._items = [server.gui.add_markdown("", image_root=Path(), visible=False) for _ in range(LATEST)]
        self._count.on_update(lambda _: self._draw())

    def add(self, *records: ViewRecord) -> None:
        """Show these first, the last one on top."""
        texts = [describe(record) for record in records[-LATEST:]]
        with self._lock:
            self._texts.extendleft(texts)
            if records:
                self._legend.content = plain(", ".join(records[-1].panels)) + ": row by row."
        self._draw()

    def _draw(self) -> None:
        with self._lock:
            texts = list(self._texts)
            for index, item in enumerate(self._items):
                item.visible = index < min(len(texts), int(self._count.value))
                if item.visible and item.content != texts[index]:
                    item.content = texts[index]


def describe(record: ViewRecord) -> str:
    """Describe one record in Markdown, its pictures inside."""
    parts = [record.describe(), f"{record.seconds:.2f} s"]
    if record.references:
        parts.append(f"from {', '.join(record.references)}")
    text = plain(", ".join(filter(None, parts)))
    return (
        f"**{plain(record.group)}: {plain(record.title)}** at step {record.step}: {text}\n\n"
        f"![made view]({_data_url(record)})"
    )


def _data_url(record: ViewRecord) -> str:
    panels = list(record.panels.values())
    if len(panels) % 2 and len(panels) > 1:
        panels.append(np.zeros_like(panels[0]))
    rows = [panels[start : start + 2] for start in range(0, len(panels), 2)]
    sheet = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    sheet.thumbnail((_WIDTH, 4 * _WIDTH))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
