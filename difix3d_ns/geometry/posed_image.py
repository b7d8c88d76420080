"""A photograph of the scene, with what the splat knows about its pose."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole


@dataclass(frozen=True)
class Reference:
    """A photograph and, where known, the splat seen from its pose.

    ``camera``, ``depth`` and ``alpha`` come together or not at all: without them the photograph can be shown to a
    network but not warped.
    """

    image: Tensor  # [H_k, W_k, 3] in [0, 1]
    camera: Pinhole | None = None
    depth: Tensor | None = None  # [H_k, W_k, 1] median depth of the splat along z, 0 where there is nothing
    alpha: Tensor | None = None  # [H_k, W_k, 1] accumulated opacity in [0, 1]
    mask: Tensor | None = None  # [H_k, W_k, 1] in [0, 1]; 0 = these pixels of the photograph are not to be used
