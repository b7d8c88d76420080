"""Records of fixes, small pictures with numbers beside the training: for the gallery, the report and people."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difix3d_ns.geometry.resize import resized
from difix3d_ns.io.atomic import write_bytes

LONG_SIDE = 640
"""pixels of a recorded picture, at most: enough to judge a fix; 64 views take some 15 MB"""

LATEST = 12
"""records that the viewer shows, at most"""

_QUALITY = 88
_THUMBNAIL = 100  # pixels on the long side


@dataclass(frozen=True)
class FixRecord:
    """One repaired pseudo-view. All pictures have one size and are uint8."""

    round: int
    target: int  # position in the list of targets
    step: int  # of training, at which it was repaired
    references: tuple[str, ...]  # file names of the photographs shown to the fixer, most useful first
    change: float  # mean absolute difference of after and before, in [0, 1]
    mean_confidence: float  # in [0, 1]
    seconds: float  # of rendering and repairing it
    before: np.ndarray  # [H, W, 3] the render
    after: np.ndarray  # [H, W, 3] the fixer's picture
    reference: np.ndarray  # [H, W, 3] the most useful photograph, fitted in; black without one
    confidence: np.ndarray  # [H, W, 3] grey

    @property
    def key(self) -> str:
        """Return the key of the view in the pool."""
        return view_key(self.round, self.target)

    @property
    def panels(self) -> np.ndarray:
        """Return all pictures side by side [H, 4 W, 3]: before | after | reference | confidence."""
        return np.concatenate([self.before, self.after, self.reference, self.confidence], axis=1)


def record_fix(
    round: int,
    target: int,
    step: int,
    references: tuple[str, ...],
    seconds: float,
    before: Tensor,  # [H, W, 3] in [0, 1]
    after: Tensor,  # [H, W, 3] in [0, 1]
    confidence: Tensor,  # [H, W, 1] in [0, 1]
    reference: Tensor | None = None,  # [H_k, W_k, 3] in [0, 1]
) -> FixRecord:
    """Measure a fix and keep small pictures of it; see ``FixRecord``."""
    height, width = before.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    height, width = max(1, int(height * scale)), max(1, int(width * scale))
    shown = torch.zeros(height, width, 3) if reference is None else _letterboxed(reference, height, width)
    return FixRecord(
        round=round,
        target=target,
        step=step,
        references=references,
        change=float((after - before).abs().mean()),
        mean_confidence=float(confidence.mean()),
        seconds=seconds,
        before=_to_uint8(resized(before, height, width)),
        after=_to_uint8(resized(after, height, width)),
        reference=_to_uint8(shown),
        confidence=_to_uint8(resized(confidence, height, width).expand(-1, -1, 3)),
    )


def view_key(number: int, target: int) -> str:
    """Return the key of the view that is made at a target in round ``number``."""
    return f"target/{target:03d}@{number}"


def thumbnail(image: Tensor) -> np.ndarray:
    """Reduce a picture [H, W, 3] in [0, 1] to the size at which a frustum shows it, uint8."""
    step = -(-max(image.shape[:2]) // _THUMBNAIL)
    return (image[::step, ::step] * 255).byte().numpy()


class FixRecords:
    """Folder of the records of a training: one JPEG ``round-R_target-T.jpg`` each, the numbers as JSON in its comment.

    A view that is repaired again replaces its record. What cannot be written is left out: records are for people,
    nothing depends on them.

    Args:
        folder: made at the first record.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def write(self, record: FixRecord) -> None:
        """Add or replace a record, whole or not at all."""
        numbers = {name: getattr(record, name) for name in _NUMBERS}
        content = io.BytesIO()
        Image.fromarray(record.panels).save(content, "JPEG", quality=_QUALITY, comment=json.dumps(numbers).encode())
        path = self.folder / f"round-{record.round:02d}_target-{record.target:03d}.jpg"
        with contextlib.suppress(OSError):
            write_bytes(path, content.getvalue())

    def read(self) -> list[FixRecord]:
        """Read all readable records, by round and target."""
        found = [_read(path) for path, _ in self._numbers()]
        return sorted((r for r in found if r is not None), key=lambda record: (record.round, record.target))

    def latest(self, count: int) -> list[FixRecord]:
        """Read the records that were made last, in that order; no other picture is decoded."""
        newest = sorted(self._numbers(), key=lambda found: found[1]["step"])[-count:]
        return [record for path, _ in newest if (record := _read(path)) is not None]

    def references(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the photographs that were shown, by key of the view."""
        return {view_key(n["round"], n["target"]): tuple(n["references"]) for _, n in self._numbers()}

    def adopt(self, other: Path, step: int) -> None:
        """Take over the records of the training this one goes on from, up to its step.

        Args:
            other: its folder, perhaps this one.
            step: at which it goes on; what was made from there on belongs to another future.
        """
        with contextlib.suppress(OSError):
            for path, numbers in FixRecords(other)._numbers():
                own = other.resolve() == self.folder.resolve()
                if numbers["step"] >= step and own:
                    path.unlink()
                elif numbers["step"] < step and not own:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, self.folder / path.name)

    def _numbers(self) -> list[tuple[Path, dict[str, Any]]]:
        """Read path and numbers of every readable record, from the heads of the files alone."""
        found = []
        for path in sorted(self.folder.glob("round-*_target-*.jpg")):
            with contextlib.suppress(OSError, ValueError, KeyError), Image.open(path) as picture:
                numbers = json.loads(picture.info["comment"])
                if set(_NUMBERS) <= set(numbers):
                    found.append((path, numbers))
        return found


def _read(path: Path) -> FixRecord | None:
    try:
        with Image.open(path) as picture:
            panels, numbers = np.array(picture.convert("RGB")), json.loads(picture.info["comment"])
        before, after, reference, confidence = np.split(panels, 4, axis=1)
        numbers["references"] = tuple(numbers["references"])
        return FixRecord(**numbers, before=before, after=after, reference=reference, confidence=confidence)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError):  # half a file, or none of ours
        return None


_NUMBERS = ("round", "target", "step", "references", "change", "mean_confidence", "seconds")


def _to_uint8(values: Tensor) -> np.ndarray:
    return (values.detach().float().cpu().nan_to_num(0.0, 1.0, 0.0).clamp(0, 1) * 255).round().byte().numpy()


def _letterboxed(picture: Tensor, height: int, width: int) -> Tensor:
    """Fit a whole picture into the middle of [height, width, 3], black beside it."""
    picture = picture.detach().float().cpu()
    scale = min(height / picture.shape[0], width / picture.shape[1])
    small = resized(picture, max(1, int(picture.shape[0] * scale)), max(1, int(picture.shape[1] * scale)))
    sheet = torch.zeros(height, width, 3)
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet
