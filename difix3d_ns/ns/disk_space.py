"""Disk that a training writes, estimated before anything is done."""

from __future__ import annotations

import shutil
from pathlib import Path

from difix3d_ns.errors import UserError

GAUSSIAN_BYTES = 3 * 4 * 59
"""of a checkpoint: 59 numbers of 4 bytes for each Gaussian (see ``training_memory``), each with its two moments"""
KEPT = 3
"""checkpoints at once: two are kept while a third is written"""
UNCAPPED = 3_000_000
"""Gaussians that a training without a cap, with CUDA, may well end with"""
MIN_UNCAPPED = 500_000
"""that it ends with at the least"""
MIN_FREE = 32 * 2**20
"""bytes without which nothing is begun, unless one checkpoint takes less"""


def check_space(folder: Path, gaussians: int | None) -> str | None:
    """Estimate whether the disk has room for a training's checkpoints.

    Args:
        folder: where they go; it need not be there yet.
        gaussians: at most; None or 0: no cap.

    Returns:
        A sentence for people if it may not suffice; few scenes reach their cap.

    Raises:
        UserError: there is next to none.
    """
    needed = KEPT * GAUSSIAN_BYTES * (gaussians or UNCAPPED)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free >= needed:
        return None
    sentence = (
        f"--output-dir {folder}: {free / 2**20:.0f} MiB are free on its disk, and the checkpoints may take up to "
        f"{needed / 2**20:.0f} MiB: make room, or give another disk"
    )
    if free < min(MIN_FREE, GAUSSIAN_BYTES * (gaussians or MIN_UNCAPPED)):
        raise UserError(sentence)
    return sentence
