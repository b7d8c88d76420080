"""Curves of a training, as TensorBoard has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

EVENT_FILES = "events.out.tfevents.*"


@dataclass(frozen=True)
class Curve:
    """Values over steps."""

    name: str
    steps: np.ndarray  # [N] rising
    values: np.ndarray  # [N]


def read_curves(folder: Path) -> tuple[dict[str, Curve], float | None]:
    """Scalars of TensorBoard's event files in a folder, and the seconds of training they cover.

    There is a file for each time the training was begun or resumed; pauses in between do not count, and nothing does
    of what was before it began again. A file that is being written is read as far as it is whole. Without any:
    ({}, None).
    """
    if not any(folder.glob(EVENT_FILES)):
        return {}, None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars: dict[str, list[tuple[int, float]]] = {}
    seconds: list[float] = []
    for file in sorted(folder.glob(EVENT_FILES)):  # their names begin with the time
        events = EventAccumulator(str(file), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
        events.Reload()
        scalars_of = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
        if not scalars_of:
            continue
        if min(values[0].step for values in scalars_of.values()) == 0:
            scalars, seconds = {}, []
        times = [values[i].wall_time for values in scalars_of.values() for i in (0, -1)]
        seconds.append(max(times) - min(times))
        for name, values in scalars_of.items():
            scalars.setdefault(name, []).extend((value.step, value.value) for value in values)
    curves = {}
    for name, pairs in scalars.items():
        steps, values = np.array([step for step, _ in pairs]), np.array([value for _, value in pairs])
        steps, first = np.unique(steps[::-1], return_index=True)  # of a step logged twice, the later value
        curves[name] = Curve(name, steps, values[::-1][first])
    return curves, sum(seconds) if seconds else None
