"""Names of files as people tell them apart."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of files, with folders as far as they differ: cam0/0001.png and cam1/0001.png."""
    files = [os.path.abspath(path) for path in paths]
    folders = {os.path.dirname(file) for file in files}
    try:
        shared = os.path.commonpath(folders) if folders else ""
    except ValueError:  # of different drives
        return [Path(file).as_posix() for file in files]
    return [Path(file).relative_to(shared).as_posix() for file in files]


def natural(text: str) -> list[int | str]:
    """Order of "Round 9" before "Round 10"."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def png_names(names: Sequence[str]) -> list[Path]:
    """Names of PNG files for photographs: theirs, with their endings where they differ in nothing else."""
    plain = [PurePath(name).with_suffix(".png") for name in names]
    distinct = len(set(plain)) == len(plain)
    return [Path(short if distinct else PurePath(f"{name}.png")) for name, short in zip(names, plain, strict=True)]
