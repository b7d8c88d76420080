"""What a measured number depends on: code, data, hardware."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import difix3d_ns

_PACKAGE = Path(difix3d_ns.__file__).parent
_NO_PART = ("curation", "training", "evaluation/bench", "evaluation/report", "configs")
"""Of the package, which no training and no metric depends on; a recipe is compared by what it says."""


def code_digest() -> str:
    """Of the files of the package that a result depends on as they are now, committed or not."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        name = path.relative_to(_PACKAGE).as_posix()
        counts = path.suffix in (".py", ".safetensors", ".json") and not name.startswith(_NO_PART)
        if counts and name not in ("cli.py", "demo.py"):
            digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def commit() -> str:
    """The commit of the package's checkout, with "+" if files of the package differ from it; else its version."""
    described = _git("rev-parse", "--short=10", "HEAD")
    if not described or _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return f"version {version('difix3d-ns')}"
    return described + ("+" if _git("status", "--porcelain", "--", ".") else "")


def data_digest(scene: Path) -> str:
    """Of a scene: its transforms.json, and names and sizes of all its other files."""
    digest = hashlib.sha256()
    folder = scene if scene.is_dir() else scene.parent
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def hardware() -> str:
    """As a table names it: "2 CPU cores", or the GPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{cores} CPU core{'s' if cores > 1 else ''}"


def software() -> dict[str, Any]:
    """Versions that results depend on."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("torch", "nerfstudio", "gsplat", "numba")
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE), *arguments], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


LOADED = code_digest()
"""Of the code this process runs; every training loads what is there when it begins."""
