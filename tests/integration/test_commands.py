"""The ns-commands on a finished training."""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from plyfile import PlyData

from tests.conftest import Command, command_line
from tests.integration.conftest import SMALL


def _evaluate(run: Command, config: Path, output: Path, **env: str) -> dict[str, float]:
    run("ns-eval", "--load-config", config, "--output-path", output, env=env)
    return json.loads(output.read_text())["results"]


def test_training_leaves_a_checkpoint_a_pool_and_a_complete_config(trained: Path) -> None:
    folder = trained.parent
    assert sorted(p.name for p in (folder / "nerfstudio_models").iterdir()) == [
        "step-000000120.ckpt",
        "step-000000149.ckpt",
    ]
    assert len(list((folder / "pseudo_views").glob("view_*.safetensors"))) >= 8
    config = yaml.load(trained.read_text(), Loader=yaml.Loader)
    assert config.pipeline.datamanager.camera_res_scale_factor == 1.0
    assert config.pipeline.model.stop_split_at == 75
    assert config.max_num_iterations == 150
    assert config.optimizers["means"]["scheduler"].max_steps == 150


def test_eval_reports_render_and_enhanced(run: Command, trained: Path, tmp_path: Path) -> None:
    results = _evaluate(run, trained, tmp_path / "key.json")
    assert results["psnr"] > 12
    assert {"ssim", "flip", "enhanced_psnr", "enhanced_ssim", "enhanced_flip"} <= set(results)
    assert results["enhanced_psnr"] != results["psnr"]


def test_environment_overrides_a_trained_config(run: Command, trained: Path, tmp_path: Path) -> None:
    key = _evaluate(run, trained, tmp_path / "key.json")
    off = _evaluate(run, trained, tmp_path / "off.json", DIFIX3D_ENHANCE="off")
    rgb = _evaluate(run, trained, tmp_path / "rgb.json", DIFIX3D_ENHANCE="rgb")
    none = _evaluate(run, trained, tmp_path / "none.json", DIFIX3D_STRENGTH="0")
    assert not any(name.startswith("enhanced") for name in off)
    assert off["psnr"] == pytest.approx(key["psnr"], abs=1e-4)
    assert rgb["psnr"] == pytest.approx(key["enhanced_psnr"], abs=1e-3)
    assert none["enhanced_psnr"] == pytest.approx(key["psnr"], abs=1e-3)


@pytest.mark.parametrize(
    ("command", "variable", "value"),
    [
        ("ns-eval", "DIFIX3D_ENHANCE", "foo"),
        ("ns-eval", "DIFIX3D_WEIGHTS", "/nowhere.safetensors"),
        ("ns-render", "DIFIX3D_STRENGTH", "2"),
        ("ns-viewer", "DIFIX3D_ENHANCE", "foo"),
        ("ns-export", "DIFIX3D_STRENGTH", "much"),
    ],
)
def test_unusable_variables_end_with_one_line(
    run: Command, command: str, variable: str, value: str, trained: Path, tmp_path: Path
) -> None:
    arguments: dict[str, list[object]] = {
        "ns-eval": ["--output-path", tmp_path / "scores.json"],
        "ns-render": ["dataset", "--output-path", tmp_path],
        "ns-viewer": [],
        "ns-export": ["gaussian-splat", "--output-dir", tmp_path],
    }
    config = tmp_path / "config.yml"
    config.write_text(trained.read_text().replace("name: blend", "name: embedded"))  # that has weights
    env = {variable: value}
    if command == "ns-export":
        (tmp_path / "open3d.py").write_text("")  # the exporter imports it and does not use it for splats
        env["PYTHONPATH"] = str(tmp_path)
    output = run(command, *arguments[command], "--load-config", config, env=env, status=1).stdout
    message = output[output.index("Error: ") :]
    assert variable in message and value in message
    assert len(message.strip().splitlines()) == 1
    assert "Traceback" not in output


def test_renders_are_repaired_by_the_training_they_come_from(run: Command, trained: Path, tmp_path: Path) -> None:
    run(
        *("ns-render", "dataset", "--load-config", trained, "--output-path", tmp_path, "--split", "test"),
        *("--rendered-output-names", "rgb", "gt-rgb", "--image-format", "png"),
    )
    renders, output = tmp_path / "test" / "rgb", tmp_path / "fixed"
    run("difix3d", "fix", renders, "--output", output, "--config", trained, "--weights", "blend")
    names = sorted(path.name for path in renders.iterdir())
    assert sorted(path.name for path in output.glob("*.png")) == names
    before, after = (
        sum(
            float(np.abs(_pixels(folder / name) - _pixels(tmp_path / "test" / "gt-rgb" / name)).mean())
            for name in names
        )
        for folder in (renders, output)
    )
    assert after < before


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.float32)


def test_export_writes_the_gaussians(trained: Path, tmp_path: Path) -> None:
    env = dict(os.environ)
    if ctypes.util.find_library("usb-1.0") is None:
        # open3d cannot be imported on this machine; the exporter imports it but does not use it for splats
        (tmp_path / "stub").mkdir()
        (tmp_path / "stub" / "open3d.py").write_text("")
        env["PYTHONPATH"] = str(tmp_path / "stub")
    result = subprocess.run(
        command_line("ns-export", "gaussian-splat", "--load-config", trained, "--output-dir", tmp_path / "splat"),
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    vertices = PlyData.read(str(tmp_path / "splat" / "splat.ply"))["vertex"]
    assert vertices.count > 500
    assert {"x", "opacity", "scale_0", "rot_0", "f_dc_0"} <= set(vertices.data.dtype.names)


def test_cpu_training_never_touches_the_cuda_backend(tiny_scene: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from nerfstudio.scripts.train import entrypoint; entrypoint(); "
        "assert 'difix3d_ns.rasterization' in sys.modules; "
        "assert 'gsplat.cuda._backend' not in sys.modules; print('backend untouched')"
    )
    arguments = ["difix3d-splatfacto", "--data", tiny_scene, "--output-dir", tmp_path, *SMALL]
    arguments[arguments.index("--max-num-iterations") + 1] = 40
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "backend untouched" in result.stdout
