"""Commands about the machine."""

from __future__ import annotations

import sys
from pathlib import Path


def doctor(data: Path | None = None, output: Path = Path("outputs"), weights: str = "embedded") -> None:
    """Try what training and the commands around it need; exit with 1 if training would fail.

    Args:
        data: a scene, to estimate the GPU memory that its pictures need.
        output: folder that trainings will be written to, for the free space of its disk.
        weights: fixer to try: embedded, a file or folder of weights.
    """
    from difix3d_ns.apps.doctor import doctor as examine

    if not examine(data, output, weights):
        sys.exit(1)
