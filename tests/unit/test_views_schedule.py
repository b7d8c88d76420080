"""The schedule of rounds, over lengths of training from tiny to the full one."""

from __future__ import annotations

import itertools

import pytest

from difix3d_ns.guidance import schedule as rounds_schedule
from difix3d_ns.guidance.schedule import RoundSchedule
from difix3d_ns.splats.strategies.fitness import Fitness, pause_after_reset


def plan_rounds(
    total: int,
    rounds: int,
    first_densification: int,
    reset_every: int,
    refine_stop: int,
    recovery: int | None = None,
    resolution_full_step: int = 0,
    **options,
) -> RoundSchedule:
    """A schedule whose ``fitness`` is known too."""
    fit_from = max(first_densification, resolution_full_step)
    fitness = Fitness(fit_from, reset_every, refine_stop, recovery=recovery)
    return rounds_schedule.plan_rounds(total, rounds, fitness.at, **options)


def fitness_of(schedule: RoundSchedule) -> Fitness:
    return schedule.fit_at.__self__


def scaled(total: int, rounds: int, **changes) -> RoundSchedule:
    """Settings derived from the length of training in splatfacto's proportions."""
    settings = {
        "first_densification": total // 50,
        "reset_every": total // 10,
        "refine_stop": total // 2,
        "recovery": total // 50,
        "resolution_full_step": total // 5,
    }
    return plan_rounds(total, rounds, **{**settings, **changes})


def resets(schedule: RoundSchedule, total: int) -> list[int]:
    """As gsplat's DefaultStrategy.step_post_backward decides, step by step."""
    fitness = fitness_of(schedule)
    if fitness.reset_every <= 0:
        return []
    return [s for s in range(min(fitness.refine_stop, total)) if s % fitness.reset_every == 0]


LENGTHS = (1, 7, 30, 100, 300, 999, 2000, 7000, 30000)


@pytest.mark.parametrize(("total", "rounds"), list(itertools.product(LENGTHS, (0, 1, 2, 3, 5, 20))))
def test_every_round_starts_where_the_splat_is_fit(total, rounds):
    schedule = scaled(total, rounds)
    assert list(schedule.starts) == sorted(set(schedule.starts))
    for start in schedule.starts:
        assert 0.375 * total <= start <= 0.8 * total
        assert start >= total // 50
        assert start >= total // 5
        assert schedule.may_render(start)
        assert all(start > r + fitness_of(schedule).recovery or start < r for r in resets(schedule, total))
    if total >= 100:
        assert len(schedule.starts) == rounds
    if rounds and total >= 30:
        assert schedule.starts[0] <= 0.4 * total + 1
        if rounds > 1:
            assert schedule.starts[-1] >= 0.7 * total


@pytest.mark.parametrize("total", [30, 300, 2000])
@pytest.mark.parametrize("reset_share", [0.0, 0.05, 0.13, 0.3, 1.0])
@pytest.mark.parametrize("recovery_share", [0.0, 0.02, 0.1, 0.5])
def test_no_step_that_may_render_is_foggy_coarse_or_too_early(total, reset_share, recovery_share):
    for first, full, stop in itertools.product((0, total // 3, total), (0, total // 2, total), (0, total // 2, total)):
        schedule = plan_rounds(
            total, 3, first, int(reset_share * total), stop, int(recovery_share * total), full, views_per_round=5
        )
        foggy = {s for r in resets(schedule, total) for s in range(r, r + fitness_of(schedule).recovery + 1)}
        fit = [s for s in range(total) if schedule.may_render(s)]
        assert foggy.isdisjoint(fit)
        assert all(s >= max(first, full) for s in fit)
        assert all(s < 0.85 * total for s in fit)
        assert set(schedule.starts) <= set(fit)
        clear = [s for s in range(total) if s not in foggy and s >= max(first, full) and s < int(0.85 * total)]
        assert fit == clear


@pytest.mark.parametrize(("views", "expected"), [(4, 4), (16, 4), (8000, 7)])
def test_views_at_once_is_the_least_number_per_step(views, expected):
    schedule = scaled(30000, 5, views_per_round=views, views_at_once=4)
    assert schedule.views_per_step == expected


def test_splatfactos_own_settings():
    schedule = plan_rounds(30000, 5, 600, 3000, 15000, 500, 6000)
    assert schedule.starts[0] == 11250
    assert schedule.starts[-1] == 22500
    assert schedule.views_per_step == 1
    assert not schedule.may_render(12000)
    assert not schedule.may_render(12500)
    assert schedule.may_render(12501)
    assert schedule.may_render(15000)  # refinement has stopped: no reset here


def test_a_round_that_falls_on_a_reset_waits_until_it_has_recovered():
    schedule = plan_rounds(1000, 1, 0, 375, 1000, 60, 0)
    assert schedule.starts == (436,)


def test_impossible_conditions_leave_no_round_and_no_weight():
    for schedule in (
        scaled(300, 3, first_densification=500),
        scaled(300, 3, resolution_full_step=290),
        scaled(300, 3, reset_every=10, recovery=20, refine_stop=300),
    ):
        assert schedule.starts == ()
        assert schedule.views_per_step >= 1
        assert schedule.rounds == 0
        assert all(schedule.weight(s) == 0 for s in range(300))
        assert schedule.round_at(299) == 0


def test_the_weight_ramps_up_from_the_first_round_and_stays():
    schedule = scaled(2000, 4, weight=0.7)
    first = schedule.starts[0]
    assert schedule.weight(first - 1) == 0
    assert 0 < schedule.weight(first) < 0.01
    weights = [schedule.weight(s) for s in range(2000)]
    assert weights == sorted(weights)
    assert schedule.weight(first + 100) == pytest.approx(0.7)
    assert schedule.weight(1999) == pytest.approx(0.7)


def test_rounds_are_counted_at_their_starts():
    schedule = scaled(2000, 4)
    assert schedule.round_at(0) == 0
    for number, start in enumerate(schedule.starts, 1):
        assert schedule.round_at(start - 1) == number - 1
        assert schedule.round_at(start) == number
    assert schedule.round_at(10**6) == 4


@pytest.mark.parametrize("total", LENGTHS[2:])
@pytest.mark.parametrize("views", [1, 16, 200])
def test_the_queue_of_a_round_is_worked_off_before_the_next(total, views):
    schedule = scaled(total, 3, views_per_round=views)
    ends = (*schedule.starts[1:], schedule.end_step)
    for start, end in zip(schedule.starts, ends, strict=True):
        room = sum(schedule.may_render(s) for s in range(start, end)) * schedule.views_per_step
        assert room >= views
    if total >= 2000 and views <= 16:
        assert schedule.views_per_step == 1


def test_going_on_from_a_plain_model_counts_from_there():
    whole, later = scaled(2000, 3), plan_rounds(5000, 3, 40, 200, 1000, 40, 400, first_step=3000)
    assert later.starts[0] == 3000 + 750
    assert later.starts[-1] == 3000 + 1500 == 3000 + whole.starts[-1]
    assert later.end_step == 3000 + 1700


def test_the_recovery_time_by_default():
    def recovery(reset_every):
        return Fitness(0, reset_every, 15000).recovery

    assert [recovery(r) for r in (3000, 600, 150, 0)] == [500, 100, 75, 0]


def test_the_same_arguments_give_the_same_schedule():
    assert scaled(2000, 4) == scaled(2000, 4)


def test_the_pause_after_a_reset_counts_the_pool_but_never_ends_densification():
    assert pause_after_reset(30, 100, 3000) == 130
    assert pause_after_reset(94, 100, 3000) == 194
    assert pause_after_reset(530, 10, 300) == 150
    assert pause_after_reset(94, 100, 0) == 194


def test_the_weight_grows_from_the_first_view_where_that_was_asked_for_early():
    schedule = scaled(2000, 3)
    start = schedule.starts[0]
    assert schedule.weight(start - 1) == 0 < schedule.weight(start - 1, first_view=start - 10)
    assert schedule.weight(start - 11, first_view=start - 10) == 0
    assert schedule.weight(start + 5, first_view=start + 5) == schedule.weight(start + 5)
    assert scaled(2000, 0).weight(50, first_view=40) > 0


def test_late_views():
    schedule = scaled(2000, 3)
    assert not schedule.may_render(1999) and schedule.may_render(1999, late=True)
    assert not schedule.may_render(0, late=True)
