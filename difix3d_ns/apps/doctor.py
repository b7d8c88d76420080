"""Trials of what training and the commands around it need, with the command that installs what is missing."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

MIN_DISK_GIB = 2.0
"""checkpoints, pseudo-views and videos of a training of a few dozen photos"""

_GIB = 2**30
_GAUSSIANS = 2_000_000  # of a large splat
_SIDES = (64, 48)  # px, of the pictures that are tried
_FRAMES = 5
_COLOUR_TOLERANCE = 10.0  # of 255


@dataclass(frozen=True)
class Finding:
    """Result of a trial."""

    what: str
    result: str
    remedy: str = ""
    """what to do; empty if all is well"""
    optional: bool = False
    """whether training does without it"""


class _Failure(Exception):
    """A trial that failed, with the remedy."""

    def __init__(self, result: str, remedy: str) -> None:
        super().__init__(result)
        self.remedy = remedy


@dataclass(frozen=True)
class _Extra:
    """Program or library that training does without."""

    needed_by: str
    install: str  # on Debian and Ubuntu
    find: Callable[[], str | None]

    def fails(self, how: str) -> _Failure:
        return _Failure(f"{how}: needed by {self.needed_by}", self.install)


_EXTRAS = {
    "ffmpeg": _Extra(
        "ns-render camera-path and interpolate", "apt-get install -y ffmpeg", lambda: shutil.which("ffmpeg")
    ),
    "libusb": _Extra(
        "ns-export and ns-process-data, through open3d",
        "apt-get install -y libusb-1.0-0 libgl1 libgomp1",
        lambda: ctypes.util.find_library("usb-1.0"),
    ),
    "colmap": _Extra("ns-process-data", "apt-get install -y colmap", lambda: shutil.which("colmap")),
}


def missing() -> list[Finding]:
    """Programs and libraries that are not installed; nothing is tried."""
    absent = {what: extra.fails("missing") for what, extra in _EXTRAS.items() if extra.find() is None}
    return [Finding(what, str(failure), failure.remedy, optional=True) for what, failure in absent.items()]


def try_everything(data: Path | None, output: Path, weights: str) -> Iterator[Finding]:
    """Yield what each trial showed, one after the other.

    Args:
        data: a scene to estimate the GPU's memory for; None for none.
        output: folder that trainings will be written to.
        weights: of the fixer, as ``difix3d fix`` takes them.
    """
    trials: list[tuple[str, Callable[[], str], bool]] = [
        ("packages", _packages, False),
        ("device", _device, False),
        ("CUDA kernels", _kernels, False),
        ("rasterization", _rasterization, False),
        ("fixer", lambda: _fixer(weights), False),
        ("disk", lambda: _disk(output), False),
        ("ffmpeg", _ffmpeg, True),
        ("libusb", _open3d, True),
        ("colmap", _colmap, True),
    ]
    if data is not None:
        trials.append(("scene", lambda: _scene(data), False))
    for what, trial, optional in trials:
        try:
            yield Finding(what, trial())
        except _Failure as failure:
            yield Finding(what, str(failure), failure.remedy, optional)
        except ImportError as error:
            yield Finding(what, f"not tried: {error}", "first what the packages need, then run this again", optional)


def doctor(data: Path | None, output: Path, weights: str) -> bool:
    """Print a table of what was tried; return whether training has all that it needs.

    Args:
        data: a scene to estimate the GPU's memory for; None for none.
        output: folder that trainings will be written to.
        weights: of the fixer, as ``difix3d fix`` takes them.
    """
    console = Console()
    findings = []
    with console.status("trying what training needs"):
        for finding in try_everything(data, output, weights):
            findings.append(finding)
    console.print(_table(findings))
    failed = [finding.what for finding in findings if finding.remedy and not finding.optional]
    if failed:
        console.print(f"Training will fail: {', '.join(failed)}. The last column has the remedies.")
    return not failed


def _table(findings: list[Finding]) -> Table:
    table = Table("tried", "result", "remedy")
    for finding in findings:
        colour = "green" if not finding.remedy else "yellow" if finding.optional else "red"
        prefix = "optional: " if finding.remedy and finding.optional else ""
        table.add_row(f"[{colour}]{finding.what}[/{colour}]", escape(finding.result), escape(prefix + finding.remedy))
    return table


# ------------------------------------------------------------------ what training needs


def _packages() -> str:
    """Import every package that this one requires."""
    try:
        names = _requirements()
    except importlib.metadata.PackageNotFoundError as error:
        raise _Failure("difix3d-ns is not installed", "make setup, or pip install path/to/this/folder") from error
    pip = f"{sys.executable} -m pip install"
    absent = [name for name in names if _version(name) is None]
    if absent:
        raise _Failure(f"missing: {', '.join(absent)}", f"{pip} {' '.join(absent)}")
    if broken := _import_errors(names):
        raise _Failure(
            "; ".join(f"{name} {_version(name)} cannot be imported: {broken[name]}" for name in broken),
            f"{pip} --force-reinstall {' '.join(f'{name}=={_version(name)}' for name in broken)}",
        )
    shown = ", ".join(f"{name} {_version(name)}" for name in ("torch", "nerfstudio", "gsplat"))
    return f"{len(names)} import; {shown}"


def _import_errors(names: list[str]) -> dict[str, str]:
    """Return what packages raise that cannot be imported, by name, without those that fail by another of them."""
    tops: dict[str, list[str]] = {}
    for top, owners in importlib.metadata.packages_distributions().items():
        for owner in owners:
            tops.setdefault(_normal(owner), []).append(top)
    broken: dict[str, tuple[str, Exception]] = {}
    for name in names:
        own = name.replace("-", "_")  # of torch, which brings functorch as well
        for top in sorted(filter(str.isidentifier, tops.get(name, ())), key=lambda one: one != own)[:1]:
            try:
                importlib.import_module(top)
            except Exception as error:  # of whatever a broken package raises
                broken[name] = (top, error)
    failing = {top for top, _ in broken.values()}
    first = {name: str(error) for name, (top, error) in broken.items() if not _passed(error) & failing - {top}}
    return first or {name: str(error) for name, (_, error) in broken.items()}


def _passed(error: BaseException | None) -> set[str]:
    """Return the packages, as they are imported, whose code an exception came through."""
    found: set[str] = set()
    while error is not None:
        frames = traceback.walk_tb(error.__traceback__)
        found |= {frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in frames}
        error = error.__cause__ or error.__context__
    return found


def _requirements() -> list[str]:
    """Return the packages that this one requires without its extras."""
    lines = importlib.metadata.requires("difix3d-ns") or []
    return [_normal(re.split(r"[^\w.-]", line)[0]) for line in lines if "extra ==" not in line]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / _GIB
        return f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB"
    threads = f"CPU, {torch.get_num_threads()} threads"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return f"{threads}: CUDA_VISIBLE_DEVICES hides any GPU"
    if shutil.which("nvidia-smi") is not None and _runs("nvidia-smi"):
        raise _Failure(
            f"an NVIDIA GPU is there, and torch {torch.__version__} cannot use it",
            "install a torch for your driver: https://pytorch.org/get-started/locally",
        )
    return threads


def _kernels() -> str:
    import torch

    if not torch.cuda.is_available():
        return "not needed on a CPU"
    from difix3d_ns.ns.cuda_kernels import MissingKernels, load_kernels

    cpu = "ns-train --machine.device-type cpu"
    try:
        load_kernels(cpu)
    except MissingKernels as error:
        cause, remedy = error.obstacle
        raise _Failure(f"gsplat has none: {cause}", f"{remedy}; or use the CPU: {cpu}" if remedy else cpu) from error
    return f"loaded, for CUDA {torch.version.cuda}"


def _rasterization() -> str:
    """Draw one Gaussian on the CPU and, if there is one with gsplat's kernels, on the GPU."""
    import torch

    from difix3d_ns.ns.cuda_kernels import has_loaded_kernels
    from difix3d_ns.rasterization import rasterization

    width, height = _SIDES
    means, quats = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    intrinsics = torch.tensor([[[50.0, 0.0, width / 2], [0.0, 50.0, height / 2], [0.0, 0.0, 1.0]]])
    gaussian = (means, quats, torch.full((1, 3), 0.2), torch.tensor([0.9]), torch.ones(1, 3))
    drawers: dict[str, Callable[..., Any]] = {"cpu": rasterization}
    if torch.cuda.is_available() and has_loaded_kernels():  # without them gsplat would begin a failed build again
        from gsplat import rasterization as on_cuda

        drawers["cuda"] = on_cuda
    for device, draw in drawers.items():
        inputs = (tensor.to(device) for tensor in (*gaussian, torch.eye(4)[None], intrinsics))
        try:
            image, _, _ = draw(*inputs, width, height, packed=False)
        except Exception as error:
            raise _Failure(f"{device}: {error}", "pip install --force-reinstall numba gsplat==1.4.0") from error
        seen = float(image[0, height // 2, width // 2, 0])
        if not 0.5 < seen < 1.0:
            raise _Failure(f"{device}: a Gaussian of opacity 0.9 comes out at {seen:.2f}", "please report it")
    return f"one Gaussian on {' and '.join(drawers)}"


def _fixer(weights: str) -> str:
    """Repair one picture, shown one photo."""
    import torch

    from difix3d_ns.geometry.pinhole import Pinhole
    from difix3d_ns.geometry.posed_image import PosedImage
    from difix3d_ns.priors.base import FixRequest
    from difix3d_ns.priors.registry import fixer_of, load_fixer

    width, height = _SIDES
    intrinsics = torch.tensor([[50.0, 0.0, width / 2], [0.0, 50.0, height / 2], [0.0, 0.0, 1.0]])
    camera = Pinhole(torch.eye(4), intrinsics, width, height)
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))
    depth, alpha = torch.full((height, width, 1), 2.0), torch.ones(height, width, 1)
    photo = PosedImage(image, camera, depth, alpha)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        name, path = fixer_of(weights)
        fixer = load_fixer(name, path, device)
        (result,) = fixer.fix([FixRequest(image, [photo], camera, depth, alpha)])
    except Exception as error:  # of a fixer of anyone's
        raise _Failure(
            f"{weights}: {error}", "give --weights another file, or reinstall this package: its own weights are inside"
        ) from error
    if result.image.shape != image.shape or not bool(result.image.isfinite().all()):
        raise _Failure(f"{weights}: its picture is not finite or of another size", "give --weights another file")
    return f"{weights} repairs a picture on {device}"


def _disk(output: Path) -> str:
    there = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise _Failure(
            f"nothing can be written where {output} goes: {error.strerror}",
            "give ns-train --output-dir a folder of yours",
        ) from error
    free = shutil.disk_usage(there).free / _GIB
    if free < MIN_DISK_GIB:
        raise _Failure(
            f"{free:.1f} GiB free where {output} goes", "give ns-train --output-dir a folder on a larger disk"
        )
    return f"{free:.0f} GiB free where {output} goes"


def _scene(data: Path) -> str:
    """Read a scene as training does and compare its pictures with the GPU's memory."""
    import torch
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from difix3d_ns.ns.dataparsers.scene_parser import take_over
    from difix3d_ns.ns.training_memory import memory_needed

    parser = NerfstudioDataParserConfig(data=data, load_3D_points=True)
    try:
        take_over(parser)
        cameras = parser.setup().get_dataparser_outputs("train").cameras
    except Exception as error:  # of whatever is in the folder
        raise _Failure(f"{data}: {error}", "give --data a folder that ns-train takes: docs/captures.md") from error
    width, height = int(cameras.width.max()), int(cameras.height.max())
    need = memory_needed(width, height, len(cameras), _GAUSSIANS)
    text = f"{len(cameras)} photos to train on, up to {width} x {height}: about {need / _GIB:.1f} GiB of a GPU"
    if torch.cuda.is_available() and need > torch.cuda.get_device_properties(0).total_memory:
        raise _Failure(f"{text}, more than it has", "ns-train --pipeline.datamanager.camera-res-scale-factor 0.5")
    return text


# ------------------------------------------------------------------ what training does without


def _ffmpeg() -> str:
    """Encode a video and read it back, as ns-render does."""
    import numpy as np

    ffmpeg = _EXTRAS["ffmpeg"]
    if ffmpeg.find() is None:
        raise ffmpeg.fails("missing")
    width, height = _SIDES
    greys = np.linspace(0, 255, _FRAMES).astype(np.uint8)
    frames = np.broadcast_to(greys[:, None, None, None], (_FRAMES, height, width, 3))
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    with tempfile.TemporaryDirectory() as folder:
        video = str(Path(folder, "video.mp4"))
        size = ["-s", f"{width}x{height}", "-r", "5"]
        _call_ffmpeg([*raw, *size, "-i", "-", "-vcodec", "h264", "-pix_fmt", "yuv420p", video], frames.tobytes())
        back = np.frombuffer(_call_ffmpeg(["-i", video, *raw, "-"]), np.uint8)
    if back.size != frames.size or np.abs(back.astype(float) - frames.ravel()).mean() > _COLOUR_TOLERANCE:
        raise ffmpeg.fails("a video comes back with other frames")
    return f"{_FRAMES} frames encoded and read back"


def _call_ffmpeg(arguments: list[str], pictures: bytes = b"") -> bytes:
    command = ["ffmpeg", "-loglevel", "error", *arguments]
    try:
        return subprocess.run(command, input=pictures, capture_output=True, check=True, timeout=60).stdout
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines() or [f"status {error.returncode}"]
        raise _EXTRAS["ffmpeg"].fails(f"cannot encode H.264 ({reason[0]})") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _EXTRAS["ffmpeg"].fails(f"cannot be started ({error})") from error


def _open3d() -> str:
    found = subprocess.run([sys.executable, "-c", "import open3d"], capture_output=True, text=True, check=False)
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["it ends without a word"])[-1]
        raise _EXTRAS["libusb"].fails(f"open3d cannot be imported ({reason})")
    return f"open3d {_version('open3d')} imports"


def _colmap() -> str:
    colmap = _EXTRAS["colmap"]
    if colmap.find() is None:
        raise colmap.fails("missing")
    if not _runs("colmap", "help"):
        raise colmap.fails("colmap help fails")
    return "runs"


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> None:
    """Print which programs are not installed; training needs none of them."""
    console = Console()
    for finding in missing():
        console.print(
            f"[yellow]optional:[/yellow] {finding.what} is {finding.result}; on Debian or Ubuntu: "
            f"[bold]{finding.remedy}[/bold]"
        )


if __name__ == "__main__":
    main()
