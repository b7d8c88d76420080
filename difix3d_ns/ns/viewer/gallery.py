"""The latest made views as pictures in the control panel."""

from __future__ import annotations

import base64
import io
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import viser
from PIL import Image

from difix3d_ns.ns.viewer.markdown import plain
from difix3d_ns.views.records import LATEST, ViewRecord

_WIDTH = 300  # pixels of the panel
_QUALITY = 80


@dataclass(frozen=True)
class _Shown:
    """A record at the size of the panel."""

    text: str  # Markdown
    pair: tuple[np.ndarray, np.ndarray] | None  # [h, w, 3] each, compared by the slider
    rest: np.ndarray | None  # [H, W, 3] the other panels, two in a row

    def markdown(self, share: float) -> str:
        """Return it with its pictures inside, a share of the first picture of the pair at the left."""
        parts = [] if self.pair is None else [_divided(*self.pair, share)]
        parts += [] if self.rest is None else [self.rest]
        width = max(part.shape[1] for part in parts)
        parts = [np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0))) for part in parts]
        return f"{self.text}\n\n![made view]({_data_url(np.concatenate(parts))})"


class Gallery:
    """A folder with the latest records: pictures that a slider compares, others below, and what they are in numbers.

    Args:
        server: in whose current container the folder is made.
        plural: how labels call the views.
    """

    def __init__(self, server: viser.ViserServer, plural: str = "made views") -> None:
        self._shown: deque[_Shown] = deque(maxlen=LATEST)
        self._lock = threading.Lock()  # viser calls back in threads of its own
        with server.gui.add_folder("Gallery", expand_by_default=False):
            self._legend = server.gui.add_markdown("Nothing yet.")
            self._count = server.gui.add_slider("Shown", 1, LATEST, 1, 4, hint=f"How many of the latest {plural}")
            self._edge = server.gui.add_slider(
                "Compare, %", 0, 100, 5, 50, hint="Where the first picture ends and the second begins", visible=False
            )
            self._items = [server.gui.add_markdown("", image_root=Path(), visible=False) for _ in range(LATEST)]
        self._count.on_update(lambda _: self._draw())
        self._edge.on_update(lambda _: self._draw())

    def add(self, *records: ViewRecord) -> None:
        """Show these first, the last one on top."""
        shown = [_reduced(record) for record in records[-LATEST:]]
        with self._lock:
            self._shown.extendleft(shown)
            if records:
                self._legend.content = _legend(records[-1])
                self._edge.visible = any(each.pair is not None for each in self._shown)
        self._draw()

    def _draw(self) -> None:
        with self._lock:
            for index, item in enumerate(self._items):
                item.visible = index < min(len(self._shown), int(self._count.value))
                if item.visible:
                    content = self._shown[index].markdown(self._edge.value / 100)
                    if item.content != content:
                        item.content = content


def describe(record: ViewRecord, share: float = 0.5) -> str:
    """Describe one record in Markdown, its pictures inside, a share of the first of those that are compared."""
    return _reduced(record).markdown(share)


def _compared(record: ViewRecord) -> tuple[str, str] | None:
    """Names of the panels that the slider compares."""
    return next((pair for pair in record.pairs if set(pair) <= set(record.panels)), None)


def _legend(record: ViewRecord) -> str:
    pair, names = _compared(record), list(record.panels)
    others = plain(", ".join(name for name in names if pair is None or name not in pair))
    if pair is None:
        return f"{others}: row by row."
    return f"{plain(pair[0])} at the left, {plain(pair[1])} at the right" + (f"; below {others}." if others else ".")


def _reduced(record: ViewRecord) -> _Shown:
    parts = [record.describe(), f"{record.seconds:.2f} s"]
    if record.references:
        parts.append(f"from {', '.join(record.references)}")
    text = plain(", ".join(filter(None, parts)))
    text = f"**{plain(record.group)}: {plain(record.title)}** at step {record.step:,}: {text}"
    pair = _compared(record)
    panels = [panel for name, panel in record.panels.items() if pair is None or name not in pair]
    if len(panels) % 2 and (len(panels) > 1 or pair is not None):
        panels.append(np.zeros_like(panels[0]))
    rows = [np.concatenate(panels[start : start + 2], axis=1) for start in range(0, len(panels), 2)]
    rest = _within(np.concatenate(rows)) if rows else None
    if pair is None:
        return _Shown(text, None, rest)
    return _Shown(text, (_within(record.panels[pair[0]]), _within(record.panels[pair[1]])), rest)


def _within(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    image.thumbnail((_WIDTH, 4 * _WIDTH))
    return np.asarray(image)


def _divided(left: np.ndarray, right: np.ndarray, share: float) -> np.ndarray:
    edge = round(share * left.shape[1])
    picture = np.concatenate([left[:, :edge], right[:, edge:]], axis=1)
    if 0 < edge < left.shape[1]:
        picture[:, edge - 1 : edge + 1] = 255
    return picture


def _data_url(picture: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
