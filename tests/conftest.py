"""Scenes and commands the tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
import torch

from tests import commands

Made = TypeVar("Made")
CUDA_BACKEND = "gsplat.cuda._backend"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def no_cuda_backend_remains() -> Iterator[None]:
    """A test that pretends to have CUDA kernels must not leave them to those after it."""
    yield
    assert torch.cuda.is_available() or CUDA_BACKEND not in sys.modules


@pytest.fixture(scope="session")
def tiny_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A procedural scene of 128 x 96 pixels: 6 training and 3 held-out views."""
    from difix3d_ns.data.procedural import demo_scene

    return demo_scene(
        tmp_path_factory.mktemp("scenes") / "tiny", seed=3, width=128, height=96, train_views=6, test_views=3
    )


Command = Callable[..., subprocess.CompletedProcess[str]]


def command_line(name: str, *arguments: object) -> list[str]:
    """A console script of this environment with its arguments."""
    return [str(commands.script(name)), *map(str, arguments)]


def execute(
    command: Sequence[str], env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever its status, with all it says in ``stdout``."""
    return subprocess.run(
        command,
        env={**os.environ, "COLUMNS": commands.WIDTH, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=commands.TIMEOUT,
        check=False,
        **options,
    )


@pytest.fixture(scope="session")
def run() -> Command:
    """Run a console script of this environment; fails with its output unless the exit status is as expected."""

    def succeed(
        name: str, *arguments: object, status: int = 0, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = command_line(name, *arguments)
        if commands.can_fork(env or {}):
            code, output = commands.run_forked(command, env or {}, cwd)
            result = subprocess.CompletedProcess(command, code, output)
        else:
            result = execute(command, env, cwd=cwd)
        shown = f"{name} {arguments} ended with {result.returncode}:\n{result.stdout[-6000:]}"
        assert result.returncode == status, shown
        return result

    return succeed


@pytest.fixture(scope="session")
def _random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ``TORCH_HOME`` with random AlexNet, VGG16 (both without their classifiers) and Inception."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    from torchvision.models import AlexNet_Weights, VGG16_Weights, alexnet, vgg16

    home = tmp_path_factory.mktemp("torch")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for build, weights in ((alexnet, AlexNet_Weights), (vgg16, VGG16_Weights)):
            state = {f"features.{key}": value for key, value in build().features.state_dict().items()}
            torch.save(state, folder / weights.IMAGENET1K_V1.url.rpartition("/")[2])
        file = folder / URL_INCEPTION_V3.rpartition("/")[2]
        torch.save({}, file)
        with mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
            inception = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=str(file))
        torch.save(inception.state_dict(), file)
    return home


@pytest.fixture
def perceptual_weights(_random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights for LPIPS and FID where torch looks for them; the folder they are in."""
    monkeypatch.setenv("TORCH_HOME", str(_random_weights))
    return _random_weights / "hub" / "checkpoints"


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where torch looks for weights."""
    home = tmp_path / "torch-home"
    home.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(home))
    return home


def with_compiled_kernels(train: Callable[[], Made]) -> Made:
    """Train, and once more if kernels were compiled in it.

    They round differently in the process that compiled them from when they are read from numba's cache, and some tests
    ask for equal bits.
    """
    package = Path(__file__).parents[1] / "difix3d_ns"

    def kernels() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in package.rglob("*.nb?")}

    before = kernels()
    made = train()
    return made if kernels() == before else train()


@pytest.fixture(scope="module")
def one_thread():
    """Networks as small as those of tests lose more to waiting for threads than they gain."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start_cluster(ray) -> None:
    """Of one worker. Ray gives itself 30 seconds, which is not enough on a busy machine."""
    for attempt in range(4):
        try:
            ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
            return
        except Exception:  # a plain one
            ray.shutdown()
            if attempt == 3:
                raise
