"""A training in a process of its own that takes as many steps as it is asked for, for benchmarks of whole steps.

The process starts as `ns-train` does and runs nerfstudio's own loop with everything in it; the Gaussians are given and
stay as many. Any checkout of this project can be trained so, older ones too.
"""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GAUSSIANS = "gaussians.pt"
COVERAGE = 30.0  # Gaussians with alpha >= 1/255 at a mean pixel
PHOTOS = 4
NEVER = 10**6  # steps
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
_VARIABLES = (*ONE_THREAD, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Case:
    """Gaussians in a training and the size of its photographs."""

    gaussians: int
    width: int
    height: int

    @property
    def name(self) -> str:
        return f"{self.gaussians // 1000}k_{self.width}x{self.height}"


def write_scene(case: Case, folder: Path) -> Path:
    """Write random Gaussians that fill a 60 degree frustum, and photographs of them with somewhat other colours."""
    import torch
    from PIL import Image

    from difix3d_ns.rasterization import rasterization

    g = torch.Generator().manual_seed(0)
    n, width, height = case.gaussians, case.width, case.height
    focal = 0.5 * width / math.tan(math.radians(30.0))
    z = 2.0 + 4.0 * torch.rand(n, generator=g)
    x = (torch.rand(n, generator=g) - 0.5) * width / focal * z
    y = (torch.rand(n, generator=g) - 0.5) * height / focal * z
    # the area of a Gaussian in pixels is about 2 pi ln(255 opacity) (scale focal / z)^2 on average over rotations
    opacities = 0.05 + 0.9 * torch.rand(n, generator=g)
    log_scales = 0.5 * torch.randn(n, 3, generator=g)
    spread = torch.exp(log_scales).square().mean(-1) * torch.log(255 * opacities) * (focal / z).square()
    log_scales += 0.5 * math.log(COVERAGE * width * height / (2 * math.pi * spread.sum().item()))
    params = {
        "means": torch.stack([x, y, z], -1),
        "scales": log_scales,
        "quats": torch.randn(n, 4, generator=g),
        "features_dc": torch.randn(n, 3, generator=g),
        "features_rest": 0.1 * torch.randn(n, 15, 3, generator=g),
        "opacities": torch.logit(opacities)[:, None],
    }
    colors = torch.cat([params["features_dc"][:, None], params["features_rest"]], dim=1)
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    (folder / "images").mkdir(parents=True)
    frames = []
    for index in range(PHOTOS + 1):
        view = torch.eye(4)
        view[0, 3] = 0.05 * (index - PHOTOS / 2)
        changed = colors + 0.1 * torch.randn(colors.shape, generator=g)
        image, _, _ = rasterization(
            params["means"],
            params["quats"],
            log_scales.exp(),
            opacities,
            changed,
            view[None],
            K[None],
            width,
            height,
            sh_degree=3,
        )
        name = f"images/{index}.png"
        Image.fromarray((255 * image[0].clamp(0, 1)).to(torch.uint8).numpy()).save(folder / name)
        pose = torch.linalg.inv(view) @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    camera = {"fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2, "w": width, "h": height}
    names = [frame["file_path"] for frame in frames]
    split = {"train_filenames": names[:-1], "val_filenames": names[-1:], "test_filenames": names[-1:]}
    transforms = {"camera_model": "OPENCV", **camera, **split, "frames": frames, "ply_file_path": "points.ply"}
    (folder / "transforms.json").write_text(json.dumps(transforms))
    points = ["ply", "format ascii 1.0", "element vertex 64", *(f"property float {axis}" for axis in "xyz")]
    points += [*(f"property uchar {name}" for name in ("red", "green", "blue")), "end_header"]
    points += [f"{x:.6f} {y:.6f} {z:.6f} 128 128 128" for x, y, z in params["means"][:64].tolist()]
    (folder / "points.ply").write_text("\n".join(points) + "\n")
    torch.save(params, folder / GAUSSIANS)
    return folder


class Training:
    """A process that trains on a scene of ``write_scene``, a few steps at a time."""

    def __init__(self, scene: Path, output: Path, checkout: Path, variables: Mapping[str, str] | None = None) -> None:
        """Start it.

        Args:
            scene: what is trained on.
            output: folder for what the training writes.
            checkout: folder of the project's files that are used.
            variables: environment variables that decide about threads; others of that kind are left out.
        """
        env = {key: value for key, value in os.environ.items() if key not in _VARIABLES}
        output.mkdir(parents=True)
        path = os.pathsep.join([str(checkout), str(_entry_points(checkout, output / "installed"))])
        env |= {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", **(variables or {})}
        self._log = (output / "log.txt").open("w")
        command = [sys.executable, str(Path(__file__).absolute()), str(scene), str(output)]
        self._process = subprocess.Popen(
            command, env=env, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )

    def steps(self, count: int) -> tuple[float, float]:
        """Take ``count`` steps; return their wall seconds and CPU seconds per step."""
        assert self._process.stdin and self._process.stdout
        try:
            print(count, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            sys.exit(f"a training has ended: see {self._log.name}")
        wall, cpu = json.loads(line)
        return wall / count, cpu / count

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _entry_points(checkout: Path, folder: Path) -> Path:
    """Write what an installation of the checkout would let nerfstudio find; another one may be installed."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    methods = project["entry-points"]["nerfstudio.method_configs"]
    metadata = folder / "difix3d_ns-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n")
    lines = [f"{name} = {target}" for name, target in methods.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[nerfstudio.method_configs]", *lines]) + "\n")
    return folder


def _plain() -> Any:
    """Settings of plain splatfacto in the checkout that is imported."""
    try:
        from difix3d_ns.methods.sparse import sparse_splatfacto

        config = copy.deepcopy(sparse_splatfacto.config)
        config.pipeline.sparse_helps = False
    except ImportError:  # earlier versions had one method
        from difix3d_ns.methods import difix3d_splatfacto

        config = copy.deepcopy(difix3d_splatfacto.config)
        config.pipeline.rounds = 0
    return config


def _serve(scene: Path, output: Path) -> None:
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    import torch
    from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
    from nerfstudio.scripts import train  # before the method, as in ns-train: torch has loaded its OpenMP by then

    train._set_random_seed(42)
    config = _plain()
    config.data, config.output_dir, config.timestamp = scene, output, "run"
    config.vis, config.max_num_iterations = "tensorboard", NEVER
    config.steps_per_save = config.steps_per_eval_image = config.steps_per_eval_all_images = NEVER + 1
    config.pipeline.datamanager.camera_res_scale_factor = 1.0
    parser = config.pipeline.datamanager.dataparser
    parser.orientation_method, parser.center_method, parser.auto_scale_poses = "none", "none", False
    model = config.pipeline.model
    model.num_downscales, model.sh_degree_interval = 0, 1
    model.warmup_length = model.refine_every = model.stop_split_at = model.reset_alpha_every = NEVER
    for group in config.optimizers.values():
        if group["scheduler"] is not None:
            group["scheduler"].warmup_steps = 0
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    parameters = torch.load(scene / GAUSSIANS)
    for name, parameter in trainer.pipeline.model.gauss_params.items():
        parameter.data = parameters[name]  # the optimizers have no state yet

    left, started = 0, (0.0, 0.0)

    def clocks() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def wait_for_a_turn(step: int) -> None:
        nonlocal left, started
        if left > 0:
            left -= 1
        if left == 0:
            if step > 0:
                now = clocks()
                print(json.dumps([now[0] - started[0], now[1] - started[1]]), file=answers, flush=True)
            left = int(sys.stdin.readline() or sys.exit())
            started = clocks()

    trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], wait_for_a_turn))
    trainer.train()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
