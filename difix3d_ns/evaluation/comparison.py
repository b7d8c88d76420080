"""Pictures side by side, for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from difix3d_ns.evaluation.report.page_pictures import pixels

_GAP = 4  # pixels
_NEARBY = 7  # pixels, side of a window
_CAPTION = 0.05  # height of the caption's letters relative to a picture's width
CAPTIONS = ("plain", "difix3d", "enhanced", "truth")


def close_ups(rows: Sequence[Sequence[Tensor]], count: int = 2, share: float = 0.28) -> list[list[Tensor]]:
    """Cut from pictures the places where the last but one shows most of the truth that the first does not.

    Args:
        rows: pictures [H, W, 3] of a view each, the truth last.
        count: rows returned, at most one of each view.
        share: of the pictures' sides that is cut.

    Returns:
        The rows with the largest difference, largest first.
    """
    found = []
    for row in rows:
        first, ours, truth = row[0], row[-2], row[-1]
        gain = _missed(first, truth) - _missed(ours, truth)
        height, width = (max(1, round(share * side)) for side in gain.shape)
        means = F.avg_pool2d(gain[None], (height, width), stride=max(1, height // 8))[0]
        best = int(means.argmax())
        top, left = (max(1, height // 8) * place for place in divmod(best, means.shape[1]))
        cut = [picture[top : top + height, left : left + width] for picture in row]
        found.append((float(means.flatten()[best]), cut))
    found.sort(key=lambda pair: -pair[0])
    return [cut for _, cut in found[:count]]


def _missed(picture: Tensor, truth: Tensor) -> Tensor:
    """Distance [H, W] of the truth to the colours that a picture [H, W, 3] has nearby: displaced is not missed."""
    planes = picture.permute(2, 0, 1)[None]
    largest, smallest = (sign * F.max_pool2d(sign * planes, _NEARBY, 1, _NEARBY // 2)[0] for sign in (1, -1))
    outside = (truth.permute(2, 0, 1) - largest).clamp_min(0) + (smallest - truth.permute(2, 0, 1)).clamp_min(0)
    return outside.mean(0)


def write_comparison(
    path: Path,
    rows: Sequence[Sequence[Tensor]],
    captions: Sequence[str] = CAPTIONS,
    width: int | None = None,
) -> None:
    """Write a PNG with a row per view and a captioned column per method.

    Args:
        path: of the PNG; its folder is made.
        rows: pictures [H, W, 3] in [0, 1], one per column. Rows may differ in size; narrower ones (portraits among
            landscapes) are centred.
        captions: one per column.
        width: of the widest picture in the file, pixels; None keeps the pictures as they are.

    Raises:
        ValueError: no rows, a row with another number of pictures than captions, or pictures of one row that differ in
            size.
    """
    if not rows:
        raise ValueError("a comparison needs at least one row of pictures")
    for i, row in enumerate(rows):
        if len(row) != len(captions):
            raise ValueError(f"row {i} has {len(row)} pictures for {len(captions)} captions")
        if len({tuple(picture.shape) for picture in row}) != 1 or row[0].ndim != 3 or row[0].shape[-1] != 3:
            raise ValueError(f"the pictures of row {i} differ in shape: {[list(p.shape) for p in row]}")
    widest = max(row[0].shape[1] for row in rows)
    scale = 1.0 if width is None else width / widest
    lanczos = Image.Resampling.LANCZOS
    pictures = [[ImageOps.scale(Image.fromarray(pixels(tensor)), scale, lanczos) for tensor in row] for row in rows]
    column = max(row[0].width for row in pictures)
    size = max(11, round(_CAPTION * column))
    header = round(1.7 * size)
    total_width = len(captions) * (column + _GAP) - _GAP
    total_height = header + sum(row[0].height + _GAP for row in pictures) - _GAP
    sheet = Image.new("RGB", (total_width, total_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    for c, caption in enumerate(captions):
        middle = c * (column + _GAP) + column / 2
        draw.text((middle, header / 2), caption, fill="black", font=font, anchor="mm")
    top = header
    for line in pictures:
        for c, picture in enumerate(line):
            sheet.paste(picture, (c * (column + _GAP) + (column - picture.width) // 2, top))
        top += line[0].height + _GAP
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG")
