"""Force applied to nerfstudio, torch and Python."""

from __future__ import annotations


def apply() -> None:
    """Apply all patches; twice is harmless."""
    from difix3d_ns.apps.doctor import explain_missing_ffmpeg
    from difix3d_ns.errors import tell_user_errors_plainly
    from difix3d_ns.io.checkpoints import allow_numpy_scalars

    allow_numpy_scalars()
    tell_user_errors_plainly()
    explain_missing_ffmpeg()
