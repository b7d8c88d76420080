"""nerfstudio's loader of held-out photos, which ns-render dataset uses: without any it ends in a sentence."""

from __future__ import annotations

from typing import Any

from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader

from difix3d_ns.ns.held_out_photos import none_held_out
from difix3d_ns.ns.photo_dataset import PhotoDataset

_init = FixedIndicesEvalDataloader.__init__


def apply() -> None:
    """Replace the loader's initializer."""
    FixedIndicesEvalDataloader.__init__ = _checked_init  # type: ignore[method-assign]


def _checked_init(self: FixedIndicesEvalDataloader, input_dataset: Any, *args: Any, **kwargs: Any) -> None:
    if isinstance(input_dataset, PhotoDataset) and len(input_dataset) == 0:
        raise none_held_out("so there is none to render: add --split train for those trained on")
    _init(self, input_dataset, *args, **kwargs)
