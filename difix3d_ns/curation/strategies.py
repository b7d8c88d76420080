"""The four ways of making degraded renders (Wu et al., Difix3D+, CVPR 2025, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from difix3d_ns.curation.capture import Capture
from difix3d_ns.curation.cycle import seen_from_beside
from difix3d_ns.curation.options import Strategy
from difix3d_ns.curation.reconstruct import Schedule, Splat, reconstruct
from difix3d_ns.pseudoviews.poses import stack_poses

_FEWEST = 3  # views a splat of a sparse reconstruction is trained on
_SHORTER = 0.7  # of the schedule, for splats that are not from all views
_UNDERFIT = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Plan:
    """One training, and the units that come of it: each is a shard."""

    views: list[int]  # trained on
    held_out: list[int]
    units: dict[str, Strategy]
    share: float = _SHORTER  # of the schedule's steps


class Unit(NamedTuple):
    """A splat, where to look at it, and the photographs that may be shown with it."""

    name: str
    strategy: Strategy
    splat: Splat
    poses: list[int]  # of the capture; the photographs there are the truth
    references: list[int]
    steps: int


def plans(capture: Capture, strategies: Sequence[Strategy]) -> list[Plan]:
    """What to train for some strategies; densities that leave too few views are left out."""
    train, test = capture.train, capture.test
    everything: dict[str, Strategy] = {"full": "sparse", **dict.fromkeys(map(_underfit_name, _UNDERFIT), "underfit")}
    found = [Plan(train, test, everything | {"cycle": "cycle"}, 1.0)]
    sparser = {"half_a": train[::2], "half_b": train[1::2], "third": train[1::3], "quarter": train[1::4]}
    if len(train) // 2 < _FEWEST:
        sparser = {"half_a": train[:-1], "half_b": train[1:]}
    found += [_plan(capture, views, name, "sparse") for name, views in sparser.items() if len(views) >= _FEWEST]
    found += [_plan(capture, views, name, "cross") for name, views in _sides(capture).items()]
    wanted = [replace(p, units={n: s for n, s in p.units.items() if s in strategies}) for p in found]
    return [plan for plan in wanted if plan.units and len(plan.views) >= 2]


def make_units(
    capture: Capture, plan: Plan, schedule: Schedule, seed: int, on_step: Callable[[], None] = lambda: None
) -> Iterator[Unit]:
    """Train what a plan says, and hand over its units.

    Args:
        capture: the scene.
        plan: one of ``plans``.
        schedule: of a splat from all views.
        seed: of the training and of the trajectory of ``cycle``.
        on_step: called after each training step; ``steps_of`` says how often.
    """
    shorter = replace(schedule, steps=_steps(plan, schedule))
    snapshots = [share for share in _UNDERFIT if _underfit_name(share) in plan.units]
    splats = reconstruct(capture, plan.views, shorter, seed, snapshots, on_step)
    for share in snapshots:
        # Under-trained renders resemble each other: a third of the views for each is enough.
        poses = plan.held_out[round(4 * share) - 1 :: 3] or plan.held_out
        name, steps = _underfit_name(share), round(share * shorter.steps)
        yield Unit(name, "underfit", splats[share], poses, plan.views, steps)
    for name, strategy in plan.units.items():
        if strategy in ("sparse", "cross"):
            yield Unit(name, strategy, splats[1.0], plan.held_out, plan.views, shorter.steps)
        elif strategy == "cycle":
            second = replace(schedule, steps=_cycle_steps(schedule))
            beside = seen_from_beside(capture, splats[1.0], plan.views, seed)
            splat = reconstruct(beside, beside.train, second, seed, on_step=on_step)[1.0]
            yield Unit(name, strategy, splat, plan.views, plan.views, second.steps)


def steps_of(plan: Plan, schedule: Schedule) -> int:
    """Training steps a plan takes."""
    return _steps(plan, schedule) + ("cycle" in plan.units) * _cycle_steps(schedule)


def _steps(plan: Plan, schedule: Schedule) -> int:
    return max(1, int(schedule.steps * plan.share))


def _cycle_steps(schedule: Schedule) -> int:
    return max(1, int(schedule.steps * _SHORTER))


def _underfit_name(share: float) -> str:
    return f"full_{round(100 * share)}"


def _plan(capture: Capture, views: list[int], name: str, strategy: Strategy) -> Plan:
    return Plan(views, sorted({*capture.train, *capture.test} - {*views}), {name: strategy})


def _sides(capture: Capture) -> dict[str, list[int]]:
    """Training views of each physical camera if there are several, else of either side of the cameras' main axis."""
    if capture.devices is not None:
        taken: dict[int, list[int]] = {}
        for view in capture.train:
            taken.setdefault(capture.devices[view], []).append(view)
        if len(taken) > 1 and min(map(len, taken.values())) >= _FEWEST:
            return {f"cross_camera{number}": views for number, views in sorted(taken.items())}
    positions = stack_poses([capture.cameras[view] for view in capture.train])[:, :3, 3]
    centred = positions - positions.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    order = [capture.train[i] for i in (centred @ axes[0]).argsort(stable=True).tolist()]
    middle = len(order) // 2
    return {"cross_a": sorted(order[:middle]), "cross_b": sorted(order[middle:])}
