"""Records of made views, small pictures with numbers beside the training: for the gallery, the report and people."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difix3d_ns.geometry.resize import resized
from difix3d_ns.io.atomic import write_bytes, write_json

LONG_SIDE = 640
"""pixels of a recorded picture, at most: enough to judge a repair; 64 views take some 15 MB"""

LATEST = 12
"""records that the viewer shows, at most"""

PERCENT = frozenset({"added", "change", "confidence", "no photo shows"})
"""numbers that are shares of the range of colours, or of the picture: printed in percent"""

_ABOUT = "about.json"
_QUALITY = 88
_THUMBNAIL = 100  # pixels on the long side
_NAME = 40  # letters of a group or key in a file's name, at most


@dataclass(frozen=True)
class About:
    """Words for the report on the views of a guidance, and how many of them it shows."""

    title: str  # of their section
    text: str  # what they are and how pictures and numbers are to be read
    short: str  # their name in the plural, "Pseudo-views"
    most: int = 96  # shown, at most; fewer are shown larger, where detail matters


UNKNOWN = About("Views made in training", "", "Made views")
"""words where a training left none"""


@dataclass(frozen=True, kw_only=True)
class RecordHead:
    """A record without its pictures."""

    key: str  # of the view, "target/003@2"
    group: str  # a heading, "Round 2"; the same view has a record in each group
    order: int  # by which groups are sorted
    title: str  # of the view in its group: "View 3", or a photograph's name
    step: int  # of training, at which it was made
    seconds: float  # it took
    pairs: tuple[tuple[str, str], ...] = ()  # names of panels that are worth comparing, best first
    numbers: Mapping[str, float | str] = field(default_factory=dict)  # to be printed, "change" and the like
    references: tuple[str, ...] = ()  # file names of the photographs it leans on, most useful first

    def describe(self) -> str:
        """Return the numbers in a line: "change 5.1 %, confidence 75 %"."""
        return describe_numbers(self.numbers)


@dataclass(frozen=True, kw_only=True)
class ViewRecord(RecordHead):
    """One made view with its pictures."""

    panels: Mapping[str, np.ndarray]  # name -> [H, W, 3] uint8, in order, at least one, all of one size

    @property
    def sheet(self) -> np.ndarray:
        """Return all panels side by side [H, N W, 3]."""
        return np.concatenate(list(self.panels.values()), axis=1)

    @property
    def head(self) -> RecordHead:
        """Return it without its pictures."""
        return RecordHead(**{name: getattr(self, name) for name in _HEAD})


def panels_of(pictures: Mapping[str, Tensor], long_side: int = LONG_SIDE) -> dict[str, np.ndarray]:
    """Make panels of one size, that of the first picture.

    Args:
        pictures: name -> [H, W, 3] or grey [H, W, 1], in [0, 1]; one of another size is fitted in, black beside it.
        long_side: pixels, at most.
    """
    first = next(iter(pictures.values()))
    scale = min(1.0, long_side / max(first.shape[:2]))
    height, width = max(1, int(first.shape[0] * scale)), max(1, int(first.shape[1] * scale))
    return {
        name: _to_uint8(
            resized(picture, height, width)
            if picture.shape[:2] == first.shape[:2]
            else _letterboxed(picture, height, width)
        )
        for name, picture in pictures.items()
    }


def describe_numbers(numbers: Mapping[str, float | str]) -> str:
    """Format numbers for people: "change 5.1 %, confidence 75 %"."""
    return ", ".join(f"{name} {_formatted(name, value)}" for name, value in numbers.items())


def _formatted(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if name not in PERCENT:
        return f"{value:.3g}"
    return f"{100 * value:.{1 if value < 0.0995 else 0}f} %"


def mean_numbers(heads: Sequence[RecordHead]) -> dict[str, float]:
    """Mean of each number over the records that have it; texts are left out."""
    values: dict[str, list[float]] = {}
    for head in heads:
        for name, value in head.numbers.items():
            if not isinstance(value, str):
                values.setdefault(name, []).append(value)
    return {name: sum(each) / len(each) for name, each in values.items()}


def newest(heads: Sequence[RecordHead]) -> dict[str, RecordHead]:
    """Return of each view the record that was made last, by key."""
    return {head.key: head for head in sorted(heads, key=lambda head: (head.step, head.order))}


def thumbnail(image: Tensor) -> np.ndarray:
    """Reduce a picture [H, W, 3] in [0, 1] to the size at which a frustum shows it, uint8."""
    step = -(-max(image.shape[:2]) // _THUMBNAIL)
    return (image[::step, ::step] * 255).byte().numpy()


class ViewRecords:
    """Folder of the records of a training: one JPEG each, all panels side by side, the rest as JSON in its comment.

    A view made again in the same group replaces its record. What cannot be written is left out: records are for
    people, nothing depends on them. Files that are none, such as those of earlier versions, are ignored.

    Args:
        folder: made at the first record.
        about: written beside the records.
    """

    def __init__(self, folder: Path, about: About | None = None) -> None:
        self.folder = Path(folder)
        self._about = about

    @property
    def about(self) -> About:
        """Return the words on them, read from the folder if none were given."""
        if self._about is not None:
            return self._about
        try:
            return About(**json.loads((self.folder / _ABOUT).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return UNKNOWN

    def write(self, record: ViewRecord) -> None:
        """Add or replace a record, whole or not at all."""
        content, comment = io.BytesIO(), asdict(record.head) | {"panels": list(record.panels)}
        picture = Image.fromarray(record.sheet)
        with contextlib.suppress(OSError):
            picture.save(content, "JPEG", quality=_QUALITY, comment=json.dumps(comment).encode())
            write_bytes(self._path(record), content.getvalue())
            if self._about is not None and ViewRecords(self.folder).about != self._about:
                write_json(self.folder / _ABOUT, asdict(self._about))

    def heads(self) -> list[RecordHead]:
        """Read all readable records without their pictures, by group and key."""
        found = (_head(path) for path in self.folder.glob("*.jpg"))
        return sorted((h for h in found if h is not None), key=lambda head: (head.order, head.group, head.key))

    def open(self, head: RecordHead) -> ViewRecord | None:
        """Read a record with its pictures; None if it cannot be read any more."""
        return _read(self._path(head))

    def latest(self, count: int) -> list[ViewRecord]:
        """Read the records that were made last, in that order; no other picture is decoded."""
        last = sorted(self.heads(), key=lambda head: head.step)[-count:]
        return [record for head in last if (record := self.open(head)) is not None]

    def adopt(self, other: Path, step: int) -> None:
        """Take over the records of the training this one goes on from, up to its step.

        Args:
            other: its folder, perhaps this one.
            step: at which it goes on; what was made from there on belongs to another future.
        """
        theirs, own = ViewRecords(other), other.resolve() == self.folder.resolve()
        for head in theirs.heads():
            path = theirs._path(head)
            with contextlib.suppress(OSError):  # one that cannot be read or written; the others are worth having
                if head.step >= step and own:
                    path.unlink()
                elif head.step < step and not own:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, self.folder / path.name)
                    if not (self.folder / _ABOUT).is_file():
                        write_json(self.folder / _ABOUT, asdict(self._about or theirs.about))

    def _path(self, head: RecordHead) -> Path:
        unique = hashlib.sha256(json.dumps([head.group, head.key]).encode()).hexdigest()[:10]
        names = (re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:_NAME] for text in (head.group, head.key))
        return self.folder / f"{'_'.join(names)}_{unique}.jpg"


def _head(path: Path) -> RecordHead | None:
    """Read a record from the head of its file alone; None: half a file, or none of ours."""
    with contextlib.suppress(*_UNREADABLE), Image.open(path) as picture:
        return RecordHead(**_comment(picture)[0])
    return None


def _read(path: Path) -> ViewRecord | None:
    with contextlib.suppress(*_UNREADABLE), Image.open(path) as picture:
        values, names = _comment(picture)
        panels = np.split(np.array(picture.convert("RGB")), len(names), axis=1)
        return ViewRecord(**values, panels=dict(zip(names, panels, strict=True)))
    return None


def _comment(picture: Image.Image) -> tuple[dict[str, Any], list[str]]:
    """Read what a record says of itself, and the names of its panels."""
    values = json.loads(picture.info["comment"])
    names = values.pop("panels")
    values["pairs"] = tuple((str(left), str(right)) for left, right in values["pairs"])
    values["references"] = tuple(values["references"])
    return values, names


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError)
_HEAD = tuple(entry.name for entry in fields(RecordHead))


def _to_uint8(values: Tensor) -> np.ndarray:
    values = values.detach().float().cpu().nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)
    return (values.expand(-1, -1, 3) * 255).round().byte().numpy()


def _letterboxed(picture: Tensor, height: int, width: int) -> Tensor:
    """Fit a whole picture into the middle of [height, width, 3], black beside it."""
    picture = picture.detach().float().cpu()
    scale = min(height / picture.shape[0], width / picture.shape[1])
    small = resized(picture, max(1, int(picture.shape[0] * scale)), max(1, int(picture.shape[1] * scale)))
    sheet = torch.zeros(height, width, 3)
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet
