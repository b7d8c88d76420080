"""The latest pseudo-views as pictures in the control panel."""

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
from difix3d_ns.views.records import LATEST, FixRecord

_WIDTH = 300  # pixels of the panel
_QUALITY = 80


class Gallery:
    """A folder with the latest records: before, after, reference, confidence, and the change in numbers.

    Args:
        server: in whose current container the folder is made.
    """

    def __init__(self, server: viser.ViserServer) -> None:
        self._texts: deque[str] = deque(maxlen=LATEST)
        self._lock = threading.Lock()  # viser calls back in threads of its own
        with server.gui.add_folder("Gallery", expand_by_default=False):
            server.gui.add_markdown("Before, after; the photo that helped most, confidence.")
            self._count = server.gui.add_slider("Shown", 1, LATEST, 1, 4, hint="How many of the latest pseudo-views")
            self._items = [server.gui.add_markdown("", image_root=Path(), visible=False) for _ in range(LATEST)]
        self._count.on_update(lambda _: self._draw())

    def add(self, *records: FixRecord) -> None:
        """Show these first, the last one on top."""
        texts = [describe(record) for record in records[-LATEST:]]
        with self._lock:
            self._texts.extendleft(texts)
        self._draw()

    def _draw(self) -> None:
        with self._lock:
            texts = list(self._texts)
            for index, item in enumerate(self._items):
                item.visible = index < min(len(texts), int(self._count.value))
                if item.visible and item.content != texts[index]:
                    item.content = texts[index]


def describe(record: FixRecord) -> str:
    """Describe one record in Markdown, its pictures inside."""
    shown = plain(", ".join(record.references)) or "no photo"
    return (
        f"**Round {record.round}, view {record.target}** at step {record.step}: change {record.change:.4f}, "
        f"confidence {record.mean_confidence:.2f}, {record.seconds:.2f} s, from {shown}\n\n"
        f"![pseudo-view]({_data_url(record)})"
    )


def _data_url(record: FixRecord) -> str:
    rows = [record.before, record.after], [record.reference, record.confidence]
    sheet = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    sheet.thumbnail((_WIDTH, 4 * _WIDTH))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
