"""Curves of a training."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from difix3d_ns.evaluation.curves import EVENT_FILES, Curve
from difix3d_ns.evaluation.report.chart import chart
from difix3d_ns.evaluation.report.parts import Section, grid
from difix3d_ns.evaluation.report.training import Training, loss_by_kind

_POOL = "/pool"  # how the name of a curve of made views ends
_ONE, _ALL = "Eval Images Metrics", "Eval Images Metrics Dict (all images)"
_HELD_OUT = {"psnr": "Held-out PSNR, dB", "ssim": "Held-out SSIM", "flip": "Held-out FLIP"}


def curves_section(training: Training) -> Section:
    """Loss, PSNR of training, held-out metrics and sizes over steps, or how to have them next time."""
    if not training.curves:
        begun = any(training.folder.glob(EVENT_FILES))
        none = "There are no curves: this folder has no TensorBoard files. Trainings write them with "
        none += "--vis viewer+tensorboard, the default, and with --vis tensorboard."
        return Section("While it trained", ["No curve has been written yet." if begun else none], "Curves")
    curves = training.curves
    pools = {name: tag for tag in curves if (name := tag.removesuffix(_POOL)) != tag}
    beside = [  # whatever else is measured of made views
        (f"{name[:1].upper()}{name[1:]} of {kind.lower()}", name.removeprefix("mean "), f"{kind}/{name}")
        for kind in pools
        for name in sorted(tag.removeprefix(f"{kind}/") for tag in curves if tag.startswith(f"{kind}/"))
        if f"/{name}" != _POOL
    ]
    marks = sorted({int(step) for tag in pools.values() for step in curves[tag].steps})
    steps = [step for curve in curves.values() for step in curve.steps[[0, -1]]]
    draw = functools.partial(chart, marks=marks, span=(int(min(steps)), int(max(steps))))
    training_psnr = {"photos": "Train Metrics Dict/psnr", "pseudo-views": "Train Metrics Dict/pseudo_psnr"}
    charts = [
        draw("Loss", loss_by_kind(curves) or _named(curves, {"all": "Train Loss"})),
        draw("PSNR in training, dB", _named(curves, training_psnr), digits=4),
        *(
            draw(
                title,
                _named(curves, {"one view at a time": f"{_ONE}/{key}", "all views": f"{_ALL}/{key}"}),
                note="" if f"{_ALL}/{key}" in curves else "one view at a time, not always the same",
                digits=4,
            )
            for key, title in _HELD_OUT.items()
        ),
        *(draw(f"Pool, {kind.lower()}", _named(curves, {"pool": tag})) for kind, tag in pools.items()),
        *(draw(title, _named(curves, {name: tag})) for title, name, tag in beside),
        draw("Gaussians", _named(curves, {"Gaussians": "Train Metrics Dict/gaussian_count"}), digits=6),
    ]
    note = "Over steps; faint lines are single values, strong ones their running mean."
    if marks:
        note += " Dashed lines: a round has ended."
    return Section("While it trained", [note, grid(charts)], "Curves")


def _named(curves: Mapping[str, Curve], tags: Mapping[str, str]) -> list[Curve]:
    return [Curve(name, curves[tag].steps, curves[tag].values) for name, tag in tags.items() if tag in curves]
