"""The pool of a training on a GPU, pretended: views lie there packed, and a draw waits for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.view import TrainView, pack
from tests.pretended_cuda import PretendedCuda, counting, pretended_cuda

HEIGHT, WIDTH = 16, 24
BYTES = HEIGHT * WIDTH * 4 * 2


@pytest.fixture
def device() -> Iterator[PretendedCuda]:
    with pretended_cuda() as device:
        yield device


def view(number: int, place: str | None = None) -> TrainView:
    generator = torch.Generator().manual_seed(number)
    pose = torch.eye(4)
    pose[0, 3] = number
    camera = Pinhole(pose, torch.tensor([[20.0, 0, 12], [0, 20.0, 8], [0, 0, 1]]), WIDTH, HEIGHT)
    image, trust = (torch.rand(HEIGHT, WIDTH, channels, generator=generator) for channels in (3, 1))
    return TrainView(place or f"{number}", camera, image, confidence=trust)


def pool_of(count: int, folder: Path | None = None) -> Pool:
    pool = Pool(None, folder, device="cuda")
    for number in range(count):
        pool.put(view(number))
    return pool


def draws(pool: Pool, times: int, seed: int = 0) -> list[TrainView]:
    generator = torch.Generator().manual_seed(seed)
    return [pool.sample(generator) for _ in range(times)]


def test_views_are_sent_once_without_a_wait(device: PretendedCuda, tmp_path: Path) -> None:
    pool, on_cpu = pool_of(3, tmp_path / "there"), Pool(None, tmp_path / "here")
    for number in range(3):
        on_cpu.put(view(number))
    with counting() as traffic:
        drawn = draws(pool, 20)
    assert (traffic["h2d"], traffic["waits"]) == (2 * 3, 0)
    for found, expected in zip(drawn, draws(on_cpu, 20), strict=True):
        assert found.key == expected.key and not found.camera.camera_to_world.is_cuda
        assert found.image.is_cuda and found.confidence is not None and found.confidence.is_cuda
        torch.testing.assert_close(found.image.cpu(), expected.image)
        torch.testing.assert_close(found.confidence.cpu(), expected.confidence)
    assert not pool.get("0").image.is_cuda


def test_a_new_view_takes_the_old_ones_place_there(device: PretendedCuda) -> None:
    pool = pool_of(1)
    draws(pool, 1)
    pool.put(view(9, place="0"))
    (drawn,) = draws(pool, 1)
    torch.testing.assert_close(drawn.image.cpu(), pool.get("0").image)
    torch.testing.assert_close(drawn.image.cpu(), view(9).image, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("free", "held"), [(0, 1), (4 * 2 * BYTES, 2), (4 * 30 * BYTES, 5)])
def test_views_take_a_quarter_of_what_is_free(free: int, held: int, device: PretendedCuda) -> None:
    pool = pool_of(5)
    for number in range(5):
        device.free = max(0, free - (pool._there.nbytes + BYTES))  # what is free beside them, with the next one there
        pool._packed_there(f"{number}")
    assert len(pool._there) == held and pool._there.nbytes == held * BYTES
    assert {found.key for found in draws(pool, 60)} == {"0", "1", "2", "3", "4"}


def test_those_used_least_recently_leave_first(device: PretendedCuda) -> None:
    pool = pool_of(3)
    device.free = 4 * 2 * BYTES
    for key in ("0", "1", "0", "2"):
        pool._packed_there(key)
    with counting() as traffic:
        pool._packed_there("0")
        assert traffic["h2d"] == 0
        pool._packed_there("1")
        assert traffic["h2d"] == 2


def test_memory_is_given_back(device: PretendedCuda) -> None:
    pool = pool_of(2)
    draws(pool, 9)
    assert pool._there.nbytes == 2 * BYTES
    pool.leave_device()
    assert pool._there.nbytes == len(pool._there) == 0
    assert {found.key for found in draws(pool, 9)} == {"0", "1"}


def test_a_view_that_is_given_up_or_restored_leaves_the_device(device: PretendedCuda, tmp_path: Path) -> None:
    pool = pool_of(2, tmp_path)
    state = pool.state(1)
    draws(pool, 9)
    pool.capacity = 2
    pool.put(view(2))
    assert pool._there.nbytes == BYTES and len(pool) == 2
    pool.restore(tmp_path, state)
    assert pool._there.nbytes == 0
    assert {found.key for found in draws(pool, 9)} == {"0", "1"}


def test_the_mean_confidence_is_known_before_a_view_is_read(tmp_path: Path) -> None:
    pool, plain = Pool(None, tmp_path), replace(view(1), confidence=None)
    pool.put(view(0))
    pool.put(plain)
    again = Pool(None, tmp_path)
    again.restore(tmp_path, pool.state(1))
    for found in (pool, again):
        trust = found.get("0").confidence
        assert trust is not None and found.entry("0").confidence == float(trust.mean())
        assert found.entry("1").confidence == 1.0
    assert pack(plain).mean_confidence == 1.0
    with pytest.raises(KeyError):
        pool.entry("2")
