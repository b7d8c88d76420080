"""Real trainings by the real commands, and what they score on views they never saw."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from difix3d_ns.errors import UserError


@dataclass(frozen=True)
class Run:
    """A finished training."""

    config: Path  # its config.yml
    seconds: float  # wall clock of the whole command


@dataclass(frozen=True)
class HeldOutView:
    """One evaluation view of a finished training."""

    truth: Tensor  # [H, W, 3] in [0, 1]
    render: Tensor  # [H, W, 3] in [0, 1]
    enhanced: Tensor | None  # [H, W, 3] in [0, 1]


def train(data: Path, output: Path, name: str, flags: Sequence[str] = (), log: Path | None = None) -> Run:
    """Run ``ns-train difix3d-splatfacto`` on a scene, in a process of its own.

    Args:
        data: the scene.
        output: folder of nerfstudio's outputs; the training goes to ``output/NAME/difix3d-splatfacto/run``.
        name: experiment name.
        flags: further flags.
        log: where its output is appended; None shows it.

    Raises:
        UserError: it failed; the message names the log.
    """
    # the script of this environment, whether or not the environment is active
    command = [
        sys.executable,
        "-c",
        "from nerfstudio.scripts.train import entrypoint; entrypoint()",
        "difix3d-splatfacto",
        *("--data", str(data), "--output-dir", str(output), "--experiment-name", name, "--timestamp", "run"),
        *("--vis", "tensorboard", *flags),
    ]
    # torch and numba bring a thread pool each: waiting threads must not steal the other's cores
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    started = time.perf_counter()
    if log is None:
        code = subprocess.run(command, check=False, env=environment).returncode
    else:
        with log.open("a") as file:
            code = subprocess.run(
                command, check=False, stdout=file, stderr=subprocess.STDOUT, env=environment
            ).returncode
    if code != 0:
        raise UserError(f"training {name} on {data} failed" + (f"; see {log}" if log else ""))
    return Run(output / name / "difix3d-splatfacto" / "run" / "config.yml", time.perf_counter() - started)


@torch.no_grad()
def held_out_views(config: Path, enhance: bool) -> list[HeldOutView]:
    """Render all evaluation views of a finished training.

    Args:
        config: its config.yml.
        enhance: whether to run the enhancer as well.
    """
    from nerfstudio.utils.eval_utils import eval_setup

    with mock.patch.dict(os.environ, {"DIFIX3D_ENHANCE": "key"}):
        _, pipeline, _, _ = eval_setup(config, test_mode="test")
        views = []
        datamanager: Any = pipeline.datamanager
        for camera, batch in datamanager.fixed_indices_eval_dataloader:
            outputs = pipeline.model.get_outputs_for_camera(camera)
            truth = pipeline.model.composite_with_background(
                pipeline.model.get_gt_img(batch["image"]), outputs["background"]
            )
            enhanced = outputs["enhanced"].cpu() if enhance else None
            views.append(HeldOutView(truth.cpu(), outputs["rgb"].cpu(), enhanced))
    return views
