"""gsplat's CUDA kernels: what compiles them on this machine, and loading them before anything else is done.

The package of gsplat on PyPI has their sources alone; whoever first rasterizes would wait for minutes, or meet an
AttributeError where they cannot be compiled. gsplat publishes compiled packages of 1.4.0 for Python 3.10 only, and ours
needs a later Python, so they are no remedy.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.errors import UserError

_BACKEND = "gsplat.cuda._backend"
_EXTENSION = "gsplat_cuda"
_TOOLKITS = "https://developer.nvidia.com/cuda-toolkit-archive"
_MAX_LINES = 3
"""lines of a failed build that are shown"""


class Obstacle(NamedTuple):
    """Reason why gsplat has no kernels."""

    cause: str
    remedy: str
    """what to do, an imperative; empty if nothing helps but another device"""


class MissingKernels(UserError):
    """gsplat's kernels are not there and cannot be compiled.

    Args:
        obstacle: why.
        cpu: how the command is run without CUDA.
    """

    def __init__(self, obstacle: Obstacle, cpu: str) -> None:
        remedy = f"{obstacle.remedy}; or use the CPU: {cpu}" if obstacle.remedy else f"use the CPU: {cpu}"
        super().__init__(f"gsplat, which rasterizes with CUDA, has no kernels: {obstacle.cause}; {remedy}")
        self.obstacle = obstacle


@dataclass(frozen=True)
class Toolchain:
    """Tools that compile CUDA kernels, as they were found."""

    torch: str
    """torch's version"""
    cuda: str | None
    """version of CUDA that torch was built for; None for a torch without CUDA"""
    hip: str | None
    """version of ROCm that torch was built for; None for all but AMD's GPUs"""
    nvcc: str | None
    """path of NVIDIA's compiler; None if there is none"""
    nvcc_version: str
    """what ``nvcc --version`` prints"""
    compiler: str
    """C++ compiler that torch starts"""
    has_compiler: bool
    has_ninja: bool
    has_headers: bool
    """whether Python.h is there"""
    has_kernels: bool
    """whether an earlier run compiled gsplat's"""


def find_toolchain() -> Toolchain:
    """Find what torch compiles extensions with, where torch and gsplat search it."""
    nvcc = _find_nvcc()
    compiler = os.environ.get("CXX", "cl" if sys.platform == "win32" else "c++")
    return Toolchain(
        torch=torch.__version__,
        cuda=torch.version.cuda,
        hip=torch.version.hip,
        nvcc=nvcc,
        nvcc_version=_output(nvcc, "--version") if nvcc else "",
        compiler=compiler,
        has_compiler=shutil.which(compiler) is not None,
        has_ninja=_find_ninja() is not None,
        has_headers=(Path(sysconfig.get_path("include")) / "Python.h").is_file(),
        has_kernels=_has_built_extension(),
    )


def find_obstacle(found: Toolchain) -> Obstacle | None:
    """Return what keeps gsplat's kernels from being compiled and loaded with what was found; None if nothing does."""
    if found.hip is not None:
        return Obstacle(
            f"torch {found.torch} is built for AMD's GPUs (ROCm), for which gsplat 1.4.0 has no kernels", ""
        )
    if found.cuda is None:
        return Obstacle(
            f"torch {found.torch} is built without CUDA",
            "install a torch with CUDA: https://pytorch.org/get-started/locally",
        )
    major = _major(found.cuda)
    toolkit = f"install the CUDA {major} toolkit ({_TOOLKITS}) and set CUDA_HOME to its folder"
    if found.nvcc is None:
        return Obstacle(
            f"there is no nvcc, the compiler of NVIDIA's CUDA toolkit, on the PATH or in CUDA_HOME, and a GPU's driver "
            f"does not bring it; torch {found.torch} needs that of CUDA {major}",
            toolkit,
        )
    release = re.search(r"release (\d+\.\d+)", found.nvcc_version)
    if release is None:
        return Obstacle(f"{found.nvcc} --version does not name its release", toolkit)
    if _major(release[1]) != major:
        return Obstacle(
            f"{found.nvcc} is of CUDA {release[1]}, and torch {found.torch} is built for CUDA {found.cuda}: "
            "the first number must be the same",
            f"{toolkit}, or install a torch for CUDA {_major(release[1])}: https://pytorch.org/get-started/locally",
        )
    if not found.has_ninja:
        return Obstacle("there is no ninja, which starts the compilers", "install it: pip install ninja")
    if found.has_kernels:  # ninja finds nothing to compile
        return None
    if not found.has_compiler:
        return Obstacle(
            f"there is no C++ compiler ({found.compiler})",
            "install one (on Debian or Ubuntu: apt-get install -y g++) or set CXX to the path of yours",
        )
    if not found.has_headers:
        return Obstacle(
            "Python's headers (Python.h) are not there",
            f"install them (on Debian or Ubuntu: apt-get install -y python{sysconfig.get_python_version()}-dev)",
        )
    return None


def load_kernels(cpu: str) -> None:
    """Load gsplat's CUDA kernels, compiled first if they are not yet; a line before that says how long it takes.

    Call it in the main thread, before a viewer is open: an exception in the middle, which a viewer's thread raises when
    its camera moves, would leave half a build.

    Args:
        cpu: how this command is run without CUDA, for the message.

    Raises:
        MissingKernels: there are none and they cannot be compiled; the message names the cause and the remedy.
    """
    if has_loaded_kernels():
        return
    tools: tuple[str | None, ...] = ()
    if not _has_compiled_package():
        found = find_toolchain()
        if obstacle := find_obstacle(found):
            raise MissingKernels(obstacle, cpu)
        tools = (found.nvcc, _find_ninja())
        if not found.has_kernels:
            CONSOLE.print("gsplat compiles its CUDA kernels, once on this machine: this takes some minutes.")
    try:
        with _on_path(*tools):
            importlib.import_module(_BACKEND)
    except Exception as error:  # torch raises RuntimeError, subprocess's, the linker's ImportError
        obstacle = Obstacle(
            f"compiling or loading them failed: {error_lines(str(error))}",
            "correct what it says (if memory ran out: MAX_JOBS=2 before the command; if a library does not fit: "
            f"remove {_EXTENSION} in TORCH_EXTENSIONS_DIR or ~/.cache/torch_extensions)",
        )
        raise MissingKernels(obstacle, cpu) from error


def has_loaded_kernels() -> bool:
    """Return whether this process has gsplat's kernels."""
    return getattr(sys.modules.get(_BACKEND), "_C", None) is not None


def error_lines(output: str) -> str:
    """Return what a failed build died of: the first lines of its output that name an error, else the last ones."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines[1:] if re.search(r"\berror\b|\bkilled\b", line, flags=re.I)]
    return " | ".join(errors[:_MAX_LINES] or lines[-_MAX_LINES:])


def _find_nvcc() -> str | None:
    """Return the nvcc that torch starts."""
    from torch.utils.cpp_extension import CUDA_HOME  # or on the PATH, or in /usr/local/cuda

    return None if CUDA_HOME is None else shutil.which("nvcc", path=str(Path(CUDA_HOME) / "bin"))


def _find_ninja() -> str | None:
    """Return ninja's path; that of a virtual environment is found although the environment is not active."""
    return shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))


@contextmanager
def _on_path(*tools: str | None) -> Iterator[None]:
    """Have the folders of tools at the end of the PATH meanwhile: gsplat searches nvcc there alone, and torch ninja."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([before, *(str(Path(tool).parent) for tool in tools if tool is not None)])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _has_compiled_package() -> bool:
    """Return whether gsplat was installed with its kernels, as from its repository, and they load with this torch."""
    try:
        importlib.import_module("gsplat.csrc")
    except ImportError:
        return False
    return True


def _has_built_extension() -> bool:
    """Return whether an earlier run compiled the kernels, in the folder that gsplat asks torch for."""
    from torch.utils.cpp_extension import _get_build_directory

    folder = Path(_get_build_directory(_EXTENSION, verbose=False))
    return any((folder / f"{_EXTENSION}{ending}").exists() for ending in (".so", ".lib"))


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _major(version: str) -> str:
    return version.partition(".")[0]
