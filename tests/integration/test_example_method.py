"""The worked example as somebody else's package: a method that only its entry point makes known."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest
import torch

from difix3d_ns.evaluation.bench.bench_recipe import load_recipe
from difix3d_ns.ns.trainer import STATE_KEY
from tests.conftest import Command

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "enlarge"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which the example is installed as pip would do it, from what its pyproject.toml says."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]:
        shutil.copy(EXAMPLE / name, site)
    name, version = project["project"]["name"], project["project"]["version"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in project["project"]["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(site), str(ROOT), os.environ.get("PYTHONPATH", ""))))}


def _flags(scene: Path, output: Path, name: str) -> list[object]:
    return [
        *("enlarge-splatfacto", "--data", scene, "--output-dir", output, "--experiment-name", "scene"),
        *("--timestamp", name, "--vis", "tensorboard", "--machine.device-type", "cpu"),
        *("--max-num-iterations", 40, "--steps-per-save", 12, "--save-only-latest-checkpoint", "False"),
        *("--pipeline.model.max-gs-num", 1000, "--pipeline.initial-points.stereo", 0),
        *("--pipeline.guidance.low-weight", 0.5),
    ]


def _views(models: Path, step: int) -> list[str]:
    """Keys of the views that a checkpoint's guidance has made."""
    import difix3d_ns.methods.base  # noqa: F401  (registers what torch.load may read)

    state = torch.load(models / f"step-{step:09d}.ckpt", weights_only=True)
    assert state[STATE_KEY]["method"] == "enlarge-splatfacto"
    return [key for key, _ in state[STATE_KEY]["parts"]["guidance"]["pool"]]


def test_trained_evaluated_and_resumed(
    run: Command, installed: dict[str, str], tiny_scene: Path, tmp_path: Path
) -> None:
    run("ns-train", *_flags(tiny_scene, tmp_path, "run"), env=installed)
    folder = tmp_path / "scene" / "enlarge-splatfacto"
    models = folder / "run" / "nerfstudio_models"
    photographs = [f"photo/{index:04d}" for index in range(6)]
    assert _views(models, 12) == photographs[:3]  # in the middle of its work
    assert _views(models, 39) == photographs
    assert len(list((folder / "run" / "enlarged_photographs").glob("view_*"))) == 6

    numbers = tmp_path / "eval.json"
    run("ns-eval", "--load-config", folder / "run" / "config.yml", "--output-path", numbers, env=installed)
    results = json.loads(numbers.read_text())
    assert results["method_name"] == "enlarge-splatfacto" and results["results"]["psnr"] > 10

    middle = models / "step-000000012.ckpt"
    told = run("ns-train", *_flags(tiny_scene, tmp_path, "again"), "--load-checkpoint", middle, env=installed).stdout
    assert "going on at step 13" in " ".join(told.split())
    assert _views(folder / "again" / "nerfstudio_models", 39) == photographs


def test_mistakes_name_the_flag(run: Command, installed: dict[str, str], tiny_scene: Path, tmp_path: Path) -> None:
    flags = [*_flags(tiny_scene, tmp_path, "run"), "--pipeline.guidance.start", 2]
    told = run("ns-train", *flags, env=installed, status=1).stdout
    assert "--pipeline.guidance.start 2.0: a number in [0, 1] is needed" in " ".join(told.split())


def test_recipe_compares_it_with_a_method_without_a_prior() -> None:
    recipe = load_recipe(EXAMPLE / "recipe.yaml")
    assert {method.ns_method for method in recipe.methods.values()} == {"enlarge-splatfacto", "sparse-splatfacto"}
    from difix3d_ns.guidance.base import GuidanceConfig
    from tests.unit.method_cases import example

    guidance = example().config.pipeline.guidance
    assert isinstance(guidance, GuidanceConfig)
    for method in recipe.methods.values():
        for flag in method.flags or ():
            assert hasattr(guidance, flag.removeprefix("pipeline.guidance.").replace("-", "_")), flag
