"""Memory by picture size: what the package works with, against what benchmarks/memory.py counts."""

from __future__ import annotations

import pytest
import torch

from benchmarks import memory
from difix3d_ns.ns.training_memory import memory_needed
from difix3d_ns.priors.embedded import memory_of_call
from tests.unit.tiny_splat import tiny_model


def test_the_peak_is_of_what_lives_at_once() -> None:
    def run() -> None:
        first = torch.empty(1000, device="meta")
        second = first + 1
        del first
        torch.empty(500, device="meta").add_(second[:500])

    assert memory.peak(run) == 8000


@pytest.mark.parametrize("views", [1, 4])
def test_bounds_of_a_call_are_those_counted(views: int) -> None:
    counted = max(memory.alignment(480, 320), memory.networks(480, 320, views))
    assert memory.check(480, 320, counted, views)


def test_memory_of_a_training() -> None:
    plain = memory_needed(1600, 1064, 100, 1_000_000, rounds=False)
    rounds = memory_needed(1600, 1064, 100, 1_000_000)
    assert rounds - plain > memory_of_call(1600, 1064) - memory.LOSS_BYTES * 1600 * 1064
    more = memory_needed(1600, 1064, 100, 2_000_000) - rounds
    numbers = sum(values[0].numel() for values in tiny_model().gauss_params.values())
    held = 4 * 4 * numbers * 1_000_000  # each with its gradient and two moments
    assert held < more < 2 * held  # and what rasterizing takes
