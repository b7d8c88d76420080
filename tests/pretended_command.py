"""A console script on a pretended CUDA device: python -m tests.pretended_command ns-train ..."""

from __future__ import annotations

import ctypes.util
import runpy
import sys
from types import ModuleType

from tests.commands import script
from tests.pretended_cuda import pretended_cuda

if __name__ == "__main__":
    if ctypes.util.find_library("usb-1.0") is None:
        sys.modules["open3d"] = ModuleType("open3d")  # ns-export imports it, and uses none of it for splats
    sys.argv = [str(script(sys.argv[1])), *sys.argv[2:]]
    with pretended_cuda():
        runpy.run_path(sys.argv[0], run_name="__main__")
