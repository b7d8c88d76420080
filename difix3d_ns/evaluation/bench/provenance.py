"""Code, data and hardware that a measured number depends on."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import torch

import difix3d_ns

_PACKAGE = Path(difix3d_ns.__file__).parent
_IRRELEVANT = (
    "data/",
    "training/",
    "apps/",
    "cli/",
    "evaluation/bench/",
    "evaluation/report/",
    "evaluation/protocols/",
    "configs/",
)
"""Beginnings of the package's files that no number depends on; a recipe is compared by its contents."""


def code_digest(*names: str) -> str:
    """Digest of the files that a result depends on as they are now, committed or not.

    Args:
        names: of modules that count as well.
    """
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        name = path.relative_to(_PACKAGE).as_posix()
        counts = path.suffix in (".py", ".safetensors", ".json") and not name.startswith(_IRRELEVANT)
        if counts:
            digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for name in dict.fromkeys(names):
        if (origin := _origin(name)) is not None:
            digest.update(name.encode() + b"\0" + hashlib.sha256(origin.read_bytes()).digest())
    return digest.hexdigest()[:16]


def method_modules(ns_method: str) -> list[str]:
    """Modules of a method of ns-train that is no part of the package."""
    found = entry_points(group="nerfstudio.method_configs", name=ns_method)
    return [point.module for point in found if not point.module.startswith(difix3d_ns.__name__ + ".")]


def _origin(module: str) -> Path | None:
    """File of a module as trainings find it: the checkout and the working folder come first."""
    roots: list[str] = [str(_PACKAGE.parent), os.getcwd(), *sys.path]
    places = (Path(root, *module.split(".")).with_suffix(".py") for root in roots)
    return next((place for place in places if place.is_file()), None)


def commit() -> str:
    """The commit of the package's checkout, with "+" if files of the package differ from it; else its version."""
    described = _git("rev-parse", "--short=10", "HEAD")
    if not described or _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return f"version {difix3d_ns.__version__}"
    return described + ("+" if _git("status", "--porcelain", "--", ".") else "")


def data_digest(scene: Path) -> str:
    """Digest of a scene: names and contents of all its files."""
    digest = hashlib.sha256()
    folder = scene if scene.is_dir() else scene.parent
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        known = path.stat()
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(_file_digest(path, known.st_size, known.st_mtime_ns))
    return digest.hexdigest()[:16]


@functools.lru_cache(4096)
def _file_digest(path: Path, size: int, modified: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def hardware() -> str:
    """Hardware as tables name it: "2 CPU cores", with the threads of a training if it has others, or the GPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    name = f"{cores} CPU core{'s' if cores > 1 else ''}"
    return name if threads == cores else f"{name}, {threads} thread{'s' if threads > 1 else ''} each"


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
"""Digest of the code this process runs; every training loads what is there when it begins."""
