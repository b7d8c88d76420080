"""One small training that most integration tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Command, with_compiled_kernels

SMALL = (
    *("--vis", "tensorboard", "--max-num-iterations", 150, "--steps-per-save", 30),
    *("--pipeline.guidance.rounds", 2, "--pipeline.guidance.targets.count", 4),
    *("--pipeline.guidance.fixer.name", "blend"),
    *("--pipeline.model.max-gs-num", 3000, "--machine.device-type", "cpu"),
)
"""Flags of a training that takes seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in Path(item.fspath).parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def trained(run: Command, tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.yml of a finished small training with pseudo-views."""

    def train() -> Path:
        output = tmp_path_factory.mktemp("trained")
        run(
            "ns-train",
            *("difix3d-splatfacto", "--data", tiny_scene, "--output-dir", output, "--experiment-name", "scene"),
            *("--timestamp", "run", *SMALL),
        )
        return output / "scene" / "difix3d-splatfacto" / "run" / "config.yml"

    return with_compiled_kernels(train)
