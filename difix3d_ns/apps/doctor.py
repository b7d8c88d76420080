"""System libraries that pip cannot install, and what to type to get them."""

from __future__ import annotations

import ctypes.util
import shutil

from rich.console import Console


def missing() -> list[tuple[str, str]]:
    """(what is missing and what needs it, the command that installs it) for every missing part."""
    found = []
    if shutil.which("ffmpeg") is None:
        found.append(("ffmpeg is missing: ns-render camera-path and interpolate need it", "apt-get install -y ffmpeg"))
    if ctypes.util.find_library("usb-1.0") is None:
        found.append(
            (
                "libusb is missing: ns-export and ns-process-data import open3d, which needs it",
                "apt-get install -y libusb-1.0-0 libgl1 libgomp1",
            )
        )
    if shutil.which("colmap") is None:
        found.append(("colmap is missing: ns-process-data needs it to pose photos", "apt-get install -y colmap"))
    return found


def main() -> None:
    """Print what is missing; training needs none of it."""
    console = Console()
    for what, remedy in missing():
        console.print(f"[yellow]optional:[/yellow] {what}; on Debian or Ubuntu: [bold]{remedy}[/bold]")


if __name__ == "__main__":
    main()
