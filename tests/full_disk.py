"""A process whose disk is full: it limits its files, or has a small file system of its own."""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import shutil
import subprocess
from pathlib import Path


def limit_files(size: int) -> None:
    """Let no file of this process grow past ``size`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def can_mount(folder: Path) -> bool:
    """True if a process may mount a file system of its own on ``folder``."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", folder]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


def mount(disk: Path, size: int, saved: Path) -> None:
    """Give this process a file system of ``size`` bytes at ``disk``, gone with it; copy its files at the end."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x00020000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWNS
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
    atexit.register(shutil.copytree, disk, saved)
