"""A real ``ns-train`` that records what it used: ``python -m tests.integration.probe FILE ARGUMENTS``.

FILE gets JSON: poses of targets and pool, indices of the references of every view, losses (numbers in hexadecimal,
so that every bit counts), and the files of the folder ``images`` opened while training and while evaluating.
"""

from __future__ import annotations

import json
import sys
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from nerfstudio.scripts.train import entrypoint

from difix3d_ns.guidance import difix
from difix3d_ns.ns.pipeline import GuidedPipeline
from difix3d_ns.ns.reference_views import ReferenceViews
from difix3d_ns.ns.trainer import GuidedTrainer
from difix3d_ns.views.pool import Pool


def bits(pose: torch.Tensor) -> list[str]:
    return [float(value).hex() for value in pose.flatten()]


def main() -> None:
    path = Path(sys.argv.pop(1))
    record: dict[str, Any] = {"targets": [], "pool": [], "references": [], "losses": []}
    opened: dict[str, set[str]] = {"training": set(), "evaluation": set()}
    record["opened"] = opened
    evaluating = False

    def on_event(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str) and Path(arguments[0]).parent.name == "images":
            opened["evaluation" if evaluating else "training"].add(Path(arguments[0]).name)

    def after(function: Any, watch: Any) -> Any:
        @wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            watch(result, *arguments)
            return result

        return watched

    def evaluate(trainer: GuidedTrainer, step: int) -> None:
        nonlocal evaluating
        evaluating = True
        try:
            plain_evaluation(trainer, step)
        finally:
            evaluating = False

    plain_evaluation = GuidedTrainer.eval_iteration
    patches = [
        (difix, "auto_targets", lambda found, *_: record["targets"].extend(bits(t.camera_to_world) for t in found)),
        (Pool, "put", lambda _, pool, view: record["pool"].append(bits(view.camera.camera_to_world))),
        (ReferenceViews, "select", lambda chosen, *_: record["references"].append(list(chosen))),
        (
            GuidedPipeline,
            "get_train_loss_dict",
            lambda result, *_: record["losses"].append(float(sum(result[1].values())).hex()),
        ),
    ]
    for owner, name, look in patches:
        mock.patch.object(owner, name, after(getattr(owner, name), look)).start()
    mock.patch.object(GuidedTrainer, "eval_iteration", evaluate).start()
    sys.addaudithook(on_event)
    entrypoint()
    path.write_text(json.dumps({**record, "opened": {when: sorted(names) for when, names in opened.items()}}))


if __name__ == "__main__":
    main()
