"""Ways of making samples: four of Wu et al., Difix3D+ (CVPR 2025, section 4.1), those of other priors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from difix3d_ns.data.capture import Capture
from difix3d_ns.data.cycle import seen_from_beside
from difix3d_ns.data.enlarged import ENLARGEMENTS, Stills, reduced
from difix3d_ns.data.options import Strategy
from difix3d_ns.data.reconstruct import Schedule, Splat, reconstruct
from difix3d_ns.geometry.poses import stack_poses

_MIN_VIEWS = 3  # views a splat of a sparse reconstruction is trained on
_SPARSE_STEPS = 0.7  # share of the schedule, for splats that are not from all views
_UNDERFIT = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Plan:
    """One training, and the units that come of it: each is a shard."""

    views: list[int]  # trained on
    held_out: list[int]
    units: dict[str, Strategy]
    share: float = _SPARSE_STEPS  # of the schedule's steps


class Unit(NamedTuple):
    """A splat, the poses to render it at, and the photographs that may be shown with it."""

    name: str
    strategy: Strategy
    splat: Splat | Stills
    poses: list[int]  # of the capture; the photographs there are the truth
    references: list[int]
    steps: int


def plans(capture: Capture, strategies: Sequence[Strategy]) -> list[Plan]:
    """Plan the trainings for some strategies; densities that leave too few views are left out."""
    train, test = capture.train, capture.test
    if "sides" in strategies and capture.about:
        return [Plan(train, train, {"sides": "sides"})]
    if not len(capture.points):  # pictures of which nothing can be reconstructed
        return [Plan(train, test, {"pictures": "enlarged"})] if "enlarged" in strategies else []
    everything: dict[str, Strategy] = {
        "full": "sparse",
        **dict.fromkeys(map(_underfit_name, _UNDERFIT), "underfit"),
    }
    found = [Plan(train, test, everything | {"cycle": "cycle"}, 1.0)]
    sparser = {"half_a": train[::2], "half_b": train[1::2], "third": train[1::3], "quarter": train[1::4]}
    if len(train) // 2 < _MIN_VIEWS:
        sparser = {"half_a": train[:-1], "half_b": train[1:]}
    for name, views in sparser.items():
        if len(views) >= _MIN_VIEWS:
            found.append(Plan(views, sorted({*train, *test} - {*views}), {name: "sparse"}))
    found += _crossings(capture)
    found += [Plan(train, test, {name: "enlarged"}, 1.0) for name in ENLARGEMENTS]
    found.append(Plan(sorted({*train, *test}), [], {"photographs": "photographs"}))
    found.append(Plan(train, test, {"orbit": "orbit"}, 1.0))
    wanted = [replace(p, units={n: s for n, s in p.units.items() if s in strategies}) for p in found]
    return [plan for plan in wanted if plan.units and len(plan.views) >= 2]


def make_units(
    capture: Capture, plan: Plan, schedule: Schedule, seed: int, on_step: Callable[[], None] = lambda: None
) -> Iterator[Unit]:
    """Train by a plan, and hand over its units.

    Args:
        capture: the scene.
        plan: one of ``plans``.
        schedule: of a splat from all views.
        seed: of the training and of the trajectory of ``cycle``.
        on_step: called after each training step, ``steps_of`` times.
    """
    shorter = replace(schedule, steps=_steps(plan, schedule))
    if "photographs" in plan.units:
        stills = Stills(capture.cameras, capture.images, capture.points)
        yield Unit("photographs", "photographs", stills, plan.views, plan.views, 0)
        return
    if "sides" in plan.units:
        yield Unit("sides", "sides", Stills(capture.cameras, capture.images), plan.held_out, plan.views, 0)
        return
    if "orbit" in plan.units:
        half = reconstruct(reduced(capture, 2), plan.views, replace(shorter, mode="antialiased"), seed, on_step=on_step)
        yield Unit("orbit", "orbit", half[1.0], plan.held_out, plan.views, shorter.steps)
        return
    if "enlarged" in plan.units.values():
        yield _enlarged_unit(capture, plan, shorter, seed, on_step)
        return
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


def _enlarged_unit(capture: Capture, plan: Plan, schedule: Schedule, seed: int, on_step: Callable[[], None]) -> Unit:
    (name,) = plan.units
    if name not in ENLARGEMENTS:
        return Unit(name, "enlarged", Stills.enlarged(capture), plan.views, [], 0)
    schedule = replace(schedule, mode="antialiased")  # as of methods whose photographs are small
    splat = reconstruct(ENLARGEMENTS[name](capture), plan.views, schedule, seed, on_step=on_step)[1.0]
    # A splat of the small photos alone has less to show at its own cameras than others: it is seen from all.
    poses = sorted({*plan.views, *plan.held_out}) if name == "reduced_4" else plan.views
    return Unit(name, "enlarged", splat, poses, [], schedule.steps)


def steps_of(plan: Plan, schedule: Schedule) -> int:
    """Training steps a plan takes."""
    if {"photographs", "sides"} & set(plan.units):
        return 0
    return _steps(plan, schedule) + ("cycle" in plan.units) * _cycle_steps(schedule)


def _steps(plan: Plan, schedule: Schedule) -> int:
    return max(1, int(schedule.steps * plan.share))


def _cycle_steps(schedule: Schedule) -> int:
    return max(1, int(schedule.steps * _SPARSE_STEPS))


def _underfit_name(share: float) -> str:
    return f"full_{round(100 * share)}"


def _crossings(capture: Capture) -> list[Plan]:
    """Plans from each physical camera to the others if there are several, else from either side of the main axis."""
    every = sorted({*capture.train, *capture.test})
    if capture.devices is not None:
        sides = {f"cross_camera{number}": number for number in sorted(set(capture.devices))}
        side_of = dict(enumerate(capture.devices))
        if min(sum(side_of[view] == side for view in capture.train) for side in sides.values()) >= _MIN_VIEWS:
            return [_crossing(capture, name, side, side_of) for name, side in sides.items()]
    positions = stack_poses([capture.cameras[view] for view in every])[:, :3, 3]
    trained = [every.index(view) for view in capture.train]
    centred = positions - positions[trained].mean(0)
    _, _, axes = torch.linalg.svd(centred[trained], full_matrices=False)
    along = centred @ axes[0]
    order = along[trained].sort().values
    middle = order[len(order) // 2 - 1 : len(order) // 2 + 1].mean()
    side_of = {view: int(place > middle) for view, place in zip(every, along.tolist(), strict=True)}
    return [_crossing(capture, "cross_a", 0, side_of), _crossing(capture, "cross_b", 1, side_of)]


def _crossing(capture: Capture, name: str, side: int, side_of: dict[int, int]) -> Plan:
    views = [view for view in capture.train if side_of[view] == side]
    beyond = sorted(view for view in {*capture.train, *capture.test} if side_of[view] != side)
    return Plan(views, beyond, {name: "cross"})
