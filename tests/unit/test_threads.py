"""Threads of the CPU kernels: waiting ones sleep, busy ones share the tiles, and neither changes a picture."""

from __future__ import annotations

import os
import subprocess
import sys

import numba as nb
import numpy as np
import pytest
import torch

from difix3d_ns.rasterization import rasterization
from difix3d_ns.rasterization.jit import take

VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")
NAMES_OF_THREADS = """
import sys, threading
import torch
from difix3d_ns.rasterization.jit import slots
slots(2), slots(2)
print([thread.name for thread in threading.enumerate()].count("openmp"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of libgomp")
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMP_NUM_THREADS": "2"}, 1),
        ({"OMP_NUM_THREADS": "1"}, 0),
        ({"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "active"}, 0),
    ],
)
def test_a_sleeping_thread_of_openmp_is_added_where_threads_would_spin(
    variables: dict[str, str], expected: int
) -> None:
    env = {key: value for key, value in os.environ.items() if key not in VARIABLES} | variables
    output = subprocess.run([sys.executable, "-c", NAMES_OF_THREADS], env=env, capture_output=True, text=True)
    assert output.stdout.split() == [str(expected)], output.stderr


def test_threads_take_each_piece_of_work_once() -> None:
    @nb.njit(parallel=True)
    def work(counter: np.ndarray, done: np.ndarray) -> None:
        for _ in nb.prange(8):
            piece = take(counter)
            while piece < len(done):
                done[piece] += 1
                piece = take(counter)

    counter, done = np.zeros(1, np.int64), np.zeros(10_000, np.int64)
    work(counter, done)
    assert (done == 1).all() and counter[0] == len(done) + 8


@pytest.mark.skipif(nb.config.NUMBA_NUM_THREADS < 2, reason="numba has one thread")
def test_gradients_do_not_depend_on_who_took_what() -> None:
    generator = torch.Generator().manual_seed(0)
    n = 3000
    means = torch.rand(n, 3, generator=generator) * 2 - 1 + torch.tensor([0.0, 0.0, 3.0])
    scene = (means, torch.randn(n, 4, generator=generator), torch.full((n, 3), 0.03), torch.full((n,), 0.5))
    colors = torch.rand(n, 3, generator=generator)
    K = torch.tensor([[[100.0, 0, 64], [0, 100.0, 48], [0, 0, 1]]])

    def gradient() -> torch.Tensor:
        leaf = scene[0].clone().requires_grad_()
        image, _, _ = rasterization(leaf, *scene[1:], colors, torch.eye(4)[None], K, width=128, height=96)
        image.square().sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(20))
