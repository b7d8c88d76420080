"""The pool: precision, bounds, and what is left after interruptions, damage and a full disk."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.guidance.difix import Task, most_redundant_of_oldest_round
from difix3d_ns.views import pool as pools
from difix3d_ns.views.view import PackedView, TrainView, decode, encode, pack
from tests.pretended_cuda import out_of_memory


def camera(x=0.0, width=24, height=16) -> Pinhole:
    pose = torch.eye(4)
    pose[0, 3] = x
    return Pinhole(pose, torch.tensor([[20.0, 0, width / 2], [0, 20.0, height / 2], [0, 0, 1]]), width, height)


def Pool(capacity, folder=None, **options) -> pools.Pool:
    """With the rule of the rounds for what a full pool gives up."""
    return pools.Pool(capacity, folder, most_redundant_of_oldest_round, **options)


def key(number: int, round: int = 0) -> str:
    return Task(round, number).key


def numbers(pool: pools.Pool) -> list[int]:
    """Of the targets, in the pool's order."""
    return [Task.of(k).target for k in pool]


def view(number: int, round: int = 0, x: float | None = None, place: str | None = None, **size) -> TrainView:
    """A view that tells its number by what it shows; ``place``: the key of the one whose place it takes."""
    generator = torch.Generator().manual_seed(number)
    seen_from = camera(float(number) if x is None else x, **size)
    image = torch.rand(seen_from.height, seen_from.width, 3, generator=generator)
    confidence = torch.rand(seen_from.height, seen_from.width, 1, generator=generator)
    return TrainView(place or key(number, round), seen_from, image, confidence=confidence)


def same(a: TrainView, b: TrainView):
    torch.testing.assert_close(a.image, b.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.confidence, b.confidence, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.camera.camera_to_world, b.camera.camera_to_world, atol=0, rtol=0)
    torch.testing.assert_close(a.camera.intrinsics, b.camera.intrinsics, atol=0, rtol=0)
    assert (a.camera.width, a.camera.height) == (b.camera.width, b.camera.height)


def restored(folder, state, capacity, **options) -> Pool:
    pool = Pool(capacity, folder, **options)
    pool.restore(folder, state)
    return pool


def view_files(folder):
    return sorted(folder.glob("view_*"))


def test_what_goes_in_comes_out_without_bias(tmp_path):
    ramp = torch.linspace(0, 1, 200 * 300 * 3).reshape(200, 300, 3)
    confidence = torch.linspace(0, 1, 200 * 300).reshape(200, 300, 1)
    pool = Pool(2, tmp_path, ram_bytes=0)
    pool.put(TrainView(key(0), camera(width=300, height=200), ramp, confidence=confidence))
    pool.put(view(1))
    for out in (pool.get(key(0)), restored(tmp_path, pool.state(0), 2).get(key(0))):
        error = (out.image.double() - ramp).flatten()
        assert error.abs().mean() < 1e-5
        assert abs(error.mean()) < 1e-8
        assert (out.confidence - confidence).abs().max() < 1e-5
    assert out.image.min() == 0
    assert out.image.max() == 1


def test_values_out_of_range_are_clamped_and_broken_pixels_teach_nothing():
    broken = view(0)
    broken.image[0, 0, 1] = torch.nan
    broken.image[0, 1, 2] = torch.inf
    broken.confidence[0, 2] = torch.nan
    broken.image[1] = 1.5
    broken.image[2] = -0.5
    out = pack(broken).unpack()
    assert out.image.isfinite().all()
    assert (out.confidence[0, :3] == 0).all()
    assert (out.confidence[0, 3:] > 0).all()
    assert (out.image[1] == 1).all()
    assert (out.image[2] == 0).all()


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e7])
def test_depth_comes_out_again_at_any_scale(tmp_path, unit):
    depth = torch.logspace(-2, 2, 16 * 24).reshape(16, 24, 1) * unit
    depth[0, :4, 0] = torch.tensor([0.0, -1.0, torch.nan, torch.inf])
    trust = torch.linspace(0, 1, 16 * 24).reshape(16, 24, 1)
    pool = Pool(3, tmp_path, ram_bytes=0)
    pool.put(replace(view(0), depth=depth, depth_weight=trust))
    pool.put(replace(view(1), depth=torch.zeros_like(depth), depth_weight=0.25))
    pool.put(view(2))
    for again in (pool, restored(tmp_path, pool.state(0), 3)):
        out, unknown, without = (again.get(k) for k in again)
        same(out, view(0))
        assert (out.depth[0, :4] == 0).all()
        torch.testing.assert_close(out.depth.flatten()[4:], depth.flatten()[4:], rtol=5e-4, atol=0)
        torch.testing.assert_close(out.depth_weight, trust, atol=1e-5, rtol=0)
        assert (unknown.depth == 0).all() and unknown.depth_weight == 0.25
        assert without.depth is None and without.depth_weight == 0


def test_depth_counts_among_the_bytes_held():
    plain, deep = pack(view(0)), pack(replace(view(0), depth=torch.ones(16, 24, 1)))
    assert (plain.nbytes, deep.nbytes) == (16 * 24 * 8, 16 * 24 * 10)


def test_damaged_depth_is_noticed():
    packed = pack(replace(view(0), depth=torch.full((16, 24, 1), 3.0)))
    content = bytearray(encode(packed))
    at = content.index(packed.maps["depth"].numpy().tobytes())
    content[at] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        decode(bytes(content))


def test_a_view_that_does_not_fit_its_camera_is_refused():
    good = view(0)
    with pytest.raises(ValueError, match="24 x 16"):
        Pool(1).put(replace(good, image=good.image[:8]))
    for name in ("confidence", "valid", "alpha", "depth", "depth_weight"):
        with pytest.raises(ValueError, match=f"{good.key} .* needs {name} "):
            Pool(1).put(replace(good, **{name: torch.ones(16, 23, 1)}))
    with pytest.raises(ValueError, match="capacity"):
        Pool(0)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_view_takes_the_place_of_one_with_its_key(tmp_path, on_disk):
    pool = Pool(4, tmp_path if on_disk else None)
    with pytest.raises(LookupError):
        pool.sample()
    with pytest.raises(KeyError):
        pool.get(key(0))
    for number in range(3):
        pool.put(view(number))
    pool.put(view(9, place=key(0)))
    same(pool.get(key(0)), view(9))
    assert list(pool) == [key(0), key(1), key(2)] and key(0) in pool and key(9) not in pool
    assert [entry.generation for entry in pool.entries()] == [3, 1, 2]
    assert len(view_files(tmp_path)) == (3 if on_disk else 0)


def test_what_a_guidance_works_with_is_no_view(tmp_path):
    pool = pools.Pool(2, tmp_path)
    for place in ("state/000", "state", "rendered/000"):
        pool.put_state(place, {"noise": torch.arange(3.0)})
    for number in range(3):
        pool.put(view(number))
    again = restored(tmp_path, pool.state(0), 2)
    for kept in (pool, again):
        assert list(kept) == [entry.key for entry in kept.entries()] and len(kept) == 2
        assert {kept.sample(torch.Generator().manual_seed(seed)).key for seed in range(9)} == set(kept)
        assert kept.stored_state("state")["noise"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="target/000@0 is a key of views"):
        pool.put_state(key(0), {})


def test_a_full_pool_gives_up_the_most_redundant_of_the_oldest_round(tmp_path):
    pool = Pool(4, tmp_path)
    for number, (round, x) in enumerate([(1, 0.0), (0, 3.0), (0, 0.1), (0, 8.0)]):
        pool.put(view(number, round, x))
    pool.put(view(4, 2, 20.0))
    assert numbers(pool) == [0, 1, 3, 4]
    for number in range(5, 25):
        pool.put(view(number, 2 + number, float(number)))
        assert len(pool) == 4
        assert len(view_files(tmp_path)) == 4


def test_memory_stays_bounded_and_every_view_can_be_drawn(tmp_path):
    one = pack(view(0)).nbytes
    pool = Pool(20, tmp_path, ram_bytes=3 * one)
    for number in range(20):
        pool.put(view(number))
    seen = set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        drawn = pool.sample(generator)
        number = Task.of(drawn.key).target
        same(drawn, view(number))
        seen.add(number)
        assert len(pool._held) <= 3
    assert seen == set(range(20))


def test_drawing_is_reproducible_and_uniform_also_after_a_restore(tmp_path):
    pool = Pool(8, tmp_path)
    for number in range(8):
        pool.put(view(number))
    pool.put(view(30, place=key(3)))
    state = pool.state(0)

    def draw(pool, seed, times):
        generator = torch.Generator().manual_seed(seed)
        return [pool.sample(generator).key for _ in range(times)]

    first = draw(pool, 1, 800)
    assert first == draw(pool, 1, 800)
    assert first == draw(restored(tmp_path, state, 8), 1, 800)
    assert first != draw(pool, 2, 800)
    assert min(first.count(t) for t in set(first)) > 60
    torch.manual_seed(4)
    a = [pool.sample().key for _ in range(20)]
    torch.manual_seed(4)
    assert a == [pool.sample().key for _ in range(20)]


def test_restore_brings_back_the_checkpoint_not_what_came_after(tmp_path):
    pool = Pool(6, tmp_path)
    for number in range(4):
        pool.put(view(number))
    state = pickle.loads(pickle.dumps(pool.state(0)))
    pool.put(view(10, place=key(0)))
    for number in range(11, 20):
        pool.put(view(number, 1))
    again = restored(tmp_path, state, 6)
    assert numbers(again) == [0, 1, 2, 3]
    for number in range(4):
        same(again.get(key(number)), view(number))
    # The other branch is untouched by going on from here.
    later = pool.state(0)
    again.put(view(99))
    again.put(view(98, place=key(1)))
    other = restored(tmp_path, later, 6)
    assert list(other) == list(pool)
    for there in pool:
        same(other.get(there), pool.get(there))


def test_going_on_from_an_older_checkpoint_leaves_the_newer_ones_whole(tmp_path):
    pool = Pool(6, tmp_path)
    pool.put(view(0))
    old = pool.state(100)
    pool.put(view(1, place=key(0)))
    pool.put(view(2))
    new = pool.state(200)
    branch = restored(tmp_path, old, 6)
    branched = branch.state(150)
    branch.put(view(3))
    branch.prune([100, 150, 200])
    again = restored(tmp_path, new, 6)
    assert numbers(again) == [0, 2]
    same(again.get(key(0)), view(1))
    for state in (old, branched):
        same(restored(tmp_path, state, 6).get(key(0)), view(0))


def test_a_resumed_run_takes_the_views_along_into_its_own_folder(tmp_path):
    pool = Pool(6, tmp_path / "first")
    for number in range(5):
        pool.put(view(number))
    pool.put(view(11, place=key(1)))
    state = pool.state(1000)
    for target in (Pool(6, tmp_path / "second"), Pool(6, tmp_path / "tight", ram_bytes=0), Pool(6)):
        target.restore(tmp_path / "first", state)
        assert numbers(target) == [0, 1, 2, 3, 4]
        same(target.get(key(1)), view(11))
        generations = [entry.generation for entry in target.entries()]
        assert sorted(range(5), key=generations.__getitem__) == [0, 2, 3, 4, 1]  # what was oldest stays oldest
    second = Pool(6, tmp_path / "second")
    second.restore(tmp_path / "first", state)
    own = second.state(2000)
    for file in (tmp_path / "first").iterdir():
        file.unlink()
    again = restored(tmp_path / "second", own, 6)
    assert list(again) == list(pool)
    for number, shown in enumerate((0, 11, 2, 3, 4)):
        same(again.get(key(number)), view(shown))


def test_pruning_by_the_numbers_of_checkpoints_and_not_at_all_when_in_doubt(tmp_path):
    pool = Pool(3, tmp_path)
    for step in (100, 200, 300):
        pool.put(view(7))
        pool.state(step)
    assert len(pool) == 1
    assert len(view_files(tmp_path)) == 3
    pool.prune([300, 555])
    assert len(view_files(tmp_path)) == 3
    pool.prune([200, 300])
    assert len(view_files(tmp_path)) == 2
    pool.prune([])
    assert len(view_files(tmp_path)) == 1


def test_what_a_view_carries_comes_back(tmp_path):
    """Exactly, what is never trained on; rounded to 16 bits, what is between 0 and 1."""
    pool = Pool(9, tmp_path, ram_bytes=0)
    latent, low = torch.randn(4, 3, 5), torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8)
    valid, alpha = torch.rand(16, 24, 1), torch.rand(16, 24, 1)
    rich = replace(
        view(0),
        photo=12,
        weight=0.3,
        valid=valid,
        alpha=alpha,
        extra={"latent": latent, "low": low, "t": torch.tensor(0.7)},
    )
    pool.put(rich)
    pool.put(replace(view(1), confidence=None))
    for again in (pool, restored(tmp_path, pool.state(0), 9)):
        out, plain = again.get(key(0)), again.get(key(1))
        assert (out.photo, out.weight) == (12, 0.3)
        assert out.extra.keys() == {"latent", "low", "t"} and out.extra["t"] == rich.extra["t"]
        assert torch.equal(out.extra["latent"], latent) and torch.equal(out.extra["low"], low)
        torch.testing.assert_close(out.valid, valid, atol=1e-5, rtol=0)
        torch.testing.assert_close(out.alpha, alpha, atol=1e-5, rtol=0)
        assert plain.confidence is plain.valid is plain.alpha is plain.photo is None and not plain.extra


def test_a_pool_without_a_bound_gives_nothing_up():
    pool = pools.Pool(None)
    for number in range(30):
        pool.put(view(number))
    assert len(pool) == 30


def test_the_guidance_decides_what_is_given_up():
    pool = pools.Pool(2, evict=lambda entries: entries[-1].key)
    for number in range(4):
        pool.put(view(number))
    assert numbers(pool) == [0, 3]


def test_state_is_plain_enough_for_a_checkpoint(tmp_path):
    pool = Pool(3, tmp_path)
    pool.put(view(0))
    state = pool.state(0)
    assert state == [(key(0), 0)]
    torch.save(state, tmp_path / "checkpoint.pt")
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True) == state


def test_pruning_keeps_what_kept_checkpoints_need_and_bounds_the_disk(tmp_path):
    pool = Pool(5, tmp_path)
    states = []
    for number in range(40):
        oldest = min(pool.entries(), key=lambda entry: entry.generation, default=None)
        if number % 2 and oldest is not None:
            pool.put(view(number, number, place=oldest.key))
        else:
            pool.put(view(number, number))
        if number % 4 == 3:
            states.append(pool.state(number))
            keep = states[-2:]
            pool.prune([number - 4, number] if number > 4 else [number])
            needed = {generation for state in keep for _, generation in state}
            assert {int(p.stem[5:]) for p in view_files(tmp_path)} == needed
            assert len(list(tmp_path.glob("checkpoint_*"))) == len(keep)
            for s in keep:
                assert len(restored(tmp_path, s, 5)) == len(s)
        assert len(view_files(tmp_path)) <= 15
    (tmp_path / ".view_00000077.1234abcd.part.safetensors").write_bytes(b"half")
    pool.prune([])
    assert len(view_files(tmp_path)) == len(pool)
    assert not list(tmp_path.glob(".*"))


def filled(folder):
    pool = Pool(6, folder)
    for number in range(5):
        pool.put(view(number))
    return pool.state(0)


@pytest.mark.parametrize("harm", ["truncated", "empty", "flipped", "gone", "another", "garbage"])
def test_a_damaged_view_is_named_and_left_out(tmp_path, capsys, harm):
    state = filled(tmp_path)
    file = view_files(tmp_path)[2]
    content = bytearray(file.read_bytes())
    if harm == "flipped":
        content[-100] ^= 1
    changed = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "flipped": content,
        "another": view_files(tmp_path)[1].read_bytes(),
        "garbage": os.urandom(500),
    }
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(changed[harm])
    pool = restored(tmp_path, state, 6)
    assert numbers(pool) == [0, 1, 3, 4]
    same(pool.get(key(3)), view(3))
    message = capsys.readouterr().out
    assert str(file) in message
    assert "1 of 5" in message
    # New views never take the name of a damaged one's successors.
    pool.put(view(50))
    assert len(restored(tmp_path, pool.state(0), 6)) == 5


def test_leftovers_of_an_interrupted_write_do_no_harm(tmp_path, capsys):
    state = filled(tmp_path)
    (tmp_path / ".view_00000005.1234abcd.part.safetensors").write_bytes(b"\x10\0\0")
    (tmp_path / "checkpoint_00000099.json").write_text("nonsense")
    pool = restored(tmp_path, state, 6)
    assert len(pool) == 5
    assert capsys.readouterr().out == ""
    pool.put(view(9))
    pool.state(200)
    pool.prune([200])
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "checkpoint_00000099.json").exists()


def test_a_smaller_capacity_keeps_the_newest_rounds(tmp_path):
    pool = Pool(6, tmp_path)
    for number in range(6):
        pool.put(view(number, round=number // 2))
    smaller = restored(tmp_path, pool.state(0), 2)
    assert [Task.of(k).round for k in smaller] == [2, 2]


def test_a_view_that_vanishes_while_training_is_left_out(tmp_path, capsys):
    pool = Pool(6, tmp_path, ram_bytes=0)
    for number in range(4):
        pool.put(view(number))
    view_files(tmp_path)[0].unlink()
    generator = torch.Generator().manual_seed(0)
    assert {pool.sample(generator).key for _ in range(60)} == {key(1), key(2), key(3)}
    assert len(pool) == 3
    assert "view_00000000" in capsys.readouterr().out


def test_a_full_disk_keeps_views_in_memory_and_saves_them_later(tmp_path, capsys, monkeypatch):
    pool = Pool(8, tmp_path, ram_bytes=0)
    pool.put(view(0))
    honest = os.fsync

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for number in range(1, 4):
        pool.put(view(number))
    pool.put(view(10, place=key(0)))
    assert pool.state(0) == []
    assert len(pool) == 4
    for there, number in zip(pool, (10, 1, 2, 3), strict=True):
        same(pool.get(there), view(number))
    message = capsys.readouterr().out
    assert message.count("Notice") == 1
    assert str(tmp_path) in message
    assert not list(tmp_path.glob(".*"))
    # Room again: the next checkpoint has everything.
    monkeypatch.setattr(os, "fsync", honest)
    again = restored(tmp_path, pool.state(0), 8)
    assert numbers(again) == [0, 1, 2, 3]
    same(again.get(key(0)), view(10))


def test_a_full_disk_from_the_start(tmp_path, capsys, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    pool = Pool(2, tmp_path / "pool")
    for number in range(5):
        pool.put(view(number, number))
    assert len(pool) == 2
    assert capsys.readouterr().out.count("Notice") == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "pool"):
        with pytest.raises(OSError, match="training views cannot be written") as error:
            Pool(3, folder)
        assert str(folder) in str(error.value)


WRITER = """
import json, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from test_views_pool import Pool, view
torch.set_num_threads(1)
folder, pool, number = Path(sys.argv[1]), Pool(6, Path(sys.argv[1])), 0
while True:
    pool.put(view(number))
    if number % 3 == 0:
        pool.put(view(number))
    number += 1
    if number % 5 == 0:
        state = pool.state(number)
        print(json.dumps([state, list(pool)]), flush=True)
        pool.prune([number])
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_last_checkpoint_comes_back(tmp_path):
    here = os.path.dirname(__file__)
    for attempt, moment in enumerate((0.0, 0.05, 0.13)):
        folder = tmp_path / str(attempt)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), here], stdout=subprocess.PIPE, cwd=os.getcwd(), text=True
        )
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines(keepends=True)
        process.wait()
        process.stdout.close()
        state, keys = json.loads([line for line in lines if line.endswith("\n")][-1])
        pool = restored(folder, state, 6)
        # The very last state may have been printed with the one before already pruned, never the other way round.
        assert list(pool) == keys
        for there in pool:
            same(pool.get(there), view(Task.of(there).target))


def test_the_device_keeps_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of views that are there already: densification takes more of the memory from step to step."""
    pool = Pool(None)
    for number in range(3):
        pool.put(view(number))
    size = pack(view(0)).nbytes
    for free, there in ((100 * size, 3), (2 * size, 1), (100 * size, 2)):
        monkeypatch.setattr(pools, "free_memory", lambda device, free=free: free)
        for number in range(3) if there == 3 else [0] if there == 1 else [1]:
            same(pool.drawn(key(number)), view(number))
        assert len(pool._there) == there


def test_a_view_for_which_the_device_has_no_memory_takes_the_place_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(None)
    for number in range(2):
        pool.put(view(number))
    monkeypatch.setattr(pools, "free_memory", lambda device: 2**30)
    same(pool.drawn(key(0)), view(0))
    with out_of_memory(PackedView, "to", 1):
        same(pool.drawn(key(1)), view(1))
    assert pool._there.get(key(0)) is None and len(pool._there) == 1
