"""Maps at another size over the same field of view."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resized(maps: Tensor, height: int, width: int, mode: str = "area") -> Tensor:
    """Resize a picture or another map; see ``Pinhole.resized`` for its camera.

    Args:
        maps: [H, W, C].
        height, width: pixels.
        mode: of ``torch.nn.functional.interpolate``: area to shrink pictures, nearest-exact for depth: nearest takes
            the top left of the pixels that one stands for.

    Returns:
        [height, width, C]; ``maps`` itself if it has that size.
    """
    if maps.shape[:2] == (height, width):
        return maps
    return F.interpolate(maps.permute(2, 0, 1)[None], (height, width), mode=mode)[0].permute(1, 2, 0)


def pad_to_multiple(picture: Tensor, multiple: int) -> Tensor:
    """Enlarge [B, C, H, W] at the right and the bottom to multiples, repeating the edge."""
    height, width = picture.shape[2:]
    return F.pad(picture, (0, -width % multiple, 0, -height % multiple), mode="replicate")
