"""gsplat's CUDA kernels: what keeps them from being compiled is named before any work."""

from __future__ import annotations

import importlib.abc
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils import cpp_extension

from difix3d_ns.apps.doctor import try_everything
from difix3d_ns.errors import UserError
from difix3d_ns.ns.cuda_kernels import Toolchain, error_lines, find_obstacle, find_toolchain, load_kernels
from difix3d_ns.ns.pipeline import GuidedPipeline
from difix3d_ns.ns.trainer import GuidedTrainer
from tests.pretended_cuda import pretended_cuda
from tests.unit.short_training import short_config

BACKEND = "gsplat.cuda._backend"
NVCC_13 = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\n"
NVCC_12 = NVCC_13.replace("13.0", "12.4")
GOOD = Toolchain(
    torch="2.9.0",
    cuda="13.2",
    hip=None,
    nvcc="/cuda/bin/nvcc",
    nvcc_version=NVCC_13,
    compiler="c++",
    has_compiler=True,
    has_ninja=True,
    has_headers=True,
    has_kernels=False,
)
BARE = replace(GOOD, has_compiler=False, has_headers=False)
OBSTACLES: dict[str, tuple[Toolchain, str, str]] = {
    "no nvcc": (replace(GOOD, nvcc=None, nvcc_version=""), "there is no nvcc", "install the CUDA 13 toolkit"),
    "no nvcc any more": (replace(GOOD, nvcc=None, has_kernels=True), "there is no nvcc", "install the CUDA 13 toolkit"),
    "an older nvcc": (replace(GOOD, nvcc_version=NVCC_12), "/cuda/bin/nvcc is of CUDA 12.4", "the CUDA 13 toolkit"),
    "an older torch": (replace(GOOD, cuda="12.4"), "is of CUDA 13.0", "CUDA 12 toolkit"),
    "an nvcc that does not run": (replace(GOOD, nvcc_version=""), "does not name its release", "CUDA_HOME"),
    "no compiler": (replace(GOOD, has_compiler=False), "no C++ compiler (c++)", "apt-get install -y g++"),
    "no ninja": (replace(GOOD, has_ninja=False), "no ninja", "pip install ninja"),
    "no headers": (replace(GOOD, has_headers=False), "Python.h", "-dev"),
    "AMD": (replace(GOOD, cuda=None, hip="6.2"), "AMD's GPUs (ROCm)", ""),
    "torch for the CPU": (replace(GOOD, cuda=None), "built without CUDA", "pytorch.org"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_obstacles_are_named_with_their_remedy(name: str) -> None:
    found, cause, remedy = OBSTACLES[name]
    obstacle = find_obstacle(found)
    assert obstacle is not None
    assert cause in obstacle.cause
    assert remedy in obstacle.remedy and bool(remedy) == bool(obstacle.remedy)


@pytest.mark.parametrize(
    "found",
    [GOOD, replace(GOOD, cuda="12.1", nvcc_version=NVCC_12), replace(BARE, has_kernels=True)],
    ids=["same version", "another minor version", "compiled before"],
)
def test_nothing_stands_in_the_way(found: Toolchain) -> None:
    assert find_obstacle(found) is None


def _program(path: Path, prints: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this process one on a machine with a GPU, torch for CUDA 13, a compiler, and no toolkit; its folder."""
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)
    _program(tmp_path / "bin" / "c++")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path / "cuda"))  # as torch finds it when it is imported
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delitem(sys.modules, BACKEND, raising=False)
    return tmp_path


def test_the_toolchain_of_a_machine(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_toolchain()
    assert (found.nvcc, found.nvcc_version, found.has_compiler, found.has_kernels) == (None, "", True, False)

    in_home = _program(machine / "cuda" / "bin" / "nvcc", NVCC_12)
    found = find_toolchain()
    assert found.nvcc == str(in_home) and "release 12.4" in found.nvcc_version

    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(machine))
    on_path = _program(machine / "bin" / "nvcc", NVCC_13)
    built = machine / "extensions" / "gsplat_cuda" / "gsplat_cuda.so"
    built.touch()  # in the folder that torch makes when it is asked for
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = find_toolchain()
    assert found.nvcc == str(on_path) and "release 13.0" in found.nvcc_version
    assert (found.compiler, found.has_compiler, found.has_kernels) == ("no-such-compiler", False, True)


def test_a_training_without_toolkit_ends_before_its_scene_is_read(machine: Path) -> None:
    config = short_config(Path("/nowhere"), steps=300, rounds=1)
    config.machine.device_type = "cuda"
    with pytest.raises(UserError, match=r"no nvcc.*CUDA 13 toolkit.*--machine\.device-type cpu"):
        GuidedTrainer(config)
    assert BACKEND not in sys.modules


def test_a_finished_training_is_opened_on_the_cpu_instead(machine: Path) -> None:
    config = short_config(Path("/nowhere"), steps=300, rounds=1).pipeline
    with pytest.raises(UserError, match=r"no nvcc.*CUDA_VISIBLE_DEVICES= before the command"):
        GuidedPipeline(config, "cuda:0", test_mode="test")


class _Backend(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """gsplat's module of kernels in the place of the real one: it has them, or raises what its build printed."""

    def __init__(self) -> None:
        self.failure = ""
        self.paths: list[str] = []

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == BACKEND else None

    def exec_module(self, module: ModuleType) -> None:
        self.paths.append(os.environ["PATH"])
        if self.failure:
            raise RuntimeError(self.failure)
        module._C = object()  # type: ignore[attr-defined]


@pytest.fixture
def backend(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Backend]:
    backend = _Backend()
    _program(machine / "cuda" / "bin" / "nvcc", NVCC_13)
    monkeypatch.setattr(sys, "meta_path", [backend, *sys.meta_path])
    yield backend
    sys.modules.pop(BACKEND, None)
    vars(sys.modules["gsplat.cuda"]).pop("_backend", None)


def test_kernels_are_compiled_once_and_announced(
    backend: _Backend, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_kernels("cpu")
    load_kernels("cpu")
    assert capsys.readouterr().out.count("this takes some minutes") == 1
    [path] = backend.paths
    assert str(machine / "cuda" / "bin") in path.split(os.pathsep), "gsplat searches nvcc on the PATH alone"
    assert str(Path(sys.executable).parent) in path.split(os.pathsep), "where pip puts ninja"
    assert os.environ["PATH"] == str(machine / "bin"), "as it was"


def test_kernels_of_an_earlier_run_are_not_announced(
    backend: _Backend, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = machine / "extensions" / "gsplat_cuda" / "gsplat_cuda.so"
    built.parent.mkdir(parents=True)
    built.touch()
    load_kernels("cpu")
    assert len(backend.paths) == 1 and capsys.readouterr().out == ""


BUILD = """Error building extension 'gsplat_cuda': [1/2] nvcc -c isect_tiles.cu
FAILED: isect_tiles.cuda.o
nvcc -c isect_tiles.cu -o isect_tiles.cuda.o
isect_tiles.cu(12): error: identifier "cub" is undefined
ninja: build stopped: subcommand failed.
"""


def test_doctor_does_not_begin_a_failed_build_again(backend: _Backend) -> None:
    backend.failure = BUILD
    with pretended_cuda():
        del sys.modules[BACKEND]  # pretended_cuda puts modules back itself
        tried = {finding.what: finding for finding in islice(try_everything(None, Path(), "embedded"), 4)}
    assert 'identifier "cub" is undefined' in tried["CUDA kernels"].result
    assert "correct what it says" in tried["CUDA kernels"].remedy
    assert tried["rasterization"].result == "one Gaussian on cpu" and not tried["rasterization"].remedy
    assert len(backend.paths) == 1


def test_doctor_says_how_to_get_a_toolkit(machine: Path) -> None:
    with pretended_cuda():
        del sys.modules[BACKEND]
        tried = {finding.what: finding for finding in islice(try_everything(None, Path(), "embedded"), 3)}
    assert "no nvcc" in tried["CUDA kernels"].result
    remedy = tried["CUDA kernels"].remedy
    assert remedy.startswith("install the CUDA 13 toolkit") and remedy.endswith("ns-train --machine.device-type cpu")


def test_doctor_rasterizes_with_kernels_that_are_there() -> None:
    with pretended_cuda():
        tried = {finding.what: finding for finding in islice(try_everything(None, Path(), "embedded"), 4)}
    assert tried["CUDA kernels"].result.startswith("loaded") and not tried["CUDA kernels"].remedy
    assert tried["rasterization"].result == "one Gaussian on cpu and cuda"


def test_a_failed_build_shows_its_error(backend: _Backend) -> None:
    backend.failure = BUILD
    with pytest.raises(UserError, match=r'isect_tiles.cu\(12\): error: identifier "cub" is undefined; correct') as told:
        load_kernels("--machine.device-type cpu")
    assert "build stopped" not in str(told.value) and "--machine.device-type cpu" in str(told.value)


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (BUILD, 'isect_tiles.cu(12): error: identifier "cub" is undefined'),
        ("Error building\nc++: fatal error: Killed signal terminated program cc1plus", "c++: fatal error: Killed"),
        ("gsplat_cuda.so: undefined symbol: _ZN3c10", "gsplat_cuda.so: undefined symbol: _ZN3c10"),
        ("first\nsecond\n\nthird\nfourth\n", "second | third | fourth"),
    ],
)
def test_what_is_shown_of_a_failed_build(output: str, shown: str) -> None:
    assert error_lines(output).startswith(shown)


def test_kernels_that_are_loaded_are_left_alone(machine: Path) -> None:
    with pretended_cuda():
        before = sys.modules[BACKEND]
        load_kernels("cpu")  # there is no nvcc
        assert sys.modules[BACKEND] is before
