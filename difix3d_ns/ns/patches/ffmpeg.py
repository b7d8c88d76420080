"""nerfstudio's check for ffmpeg, with a message on how to get it."""

from __future__ import annotations

import shutil

from nerfstudio.utils import install_checks

from difix3d_ns.errors import UserError


def apply() -> None:
    """Let nerfstudio's commands that look for ffmpeg say how to get it, instead of naming a page to read."""
    install_checks.check_ffmpeg_installed = _check_ffmpeg


def _check_ffmpeg() -> None:
    if shutil.which("ffmpeg") is None:
        raise UserError(
            "ffmpeg is missing, which nerfstudio wants for camera paths, even for single pictures: install it with "
            "`apt-get install ffmpeg` (Debian, Ubuntu), `conda install -c conda-forge ffmpeg` (without root), "
            "`brew install ffmpeg` (macOS) or `winget install ffmpeg` (Windows), and run the command again. "
            "`ns-render dataset` works without"
        )
