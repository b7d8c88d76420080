"""The pool: precision, bounds, and what is left after interruptions, damage and a full disk."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.view import PseudoView, decode, encode, pack


def camera(x=0.0, width=24, height=16) -> Pinhole:
    pose = torch.eye(4)
    pose[0, 3] = x
    return Pinhole(pose, torch.tensor([[20.0, 0, width / 2], [0, 20.0, height / 2], [0, 0, 1]]), width, height)


def view(number: int, round: int = 0, x: float | None = None, **size) -> PseudoView:
    generator = torch.Generator().manual_seed(number)
    place = camera(float(number) if x is None else x, **size)
    image = torch.rand(place.height, place.width, 3, generator=generator)
    confidence = torch.rand(place.height, place.width, 1, generator=generator)
    return PseudoView(image, confidence, place, round, number)


def same(a: PseudoView, b: PseudoView):
    torch.testing.assert_close(a.image, b.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.confidence, b.confidence, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.camera.camera_to_world, b.camera.camera_to_world, atol=0, rtol=0)
    torch.testing.assert_close(a.camera.intrinsics, b.camera.intrinsics, atol=0, rtol=0)
    assert (a.camera.width, a.camera.height, a.round, a.target) == (b.camera.width, b.camera.height, b.round, b.target)


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
    key = pool.add(PseudoView(ramp, confidence, camera(width=300, height=200)))
    pool.add(view(1))
    for out in (pool.get(key), restored(tmp_path, pool.state(), 2).get(key)):
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
    key = pool.add(replace(view(0), depth=depth, depth_confidence=trust))
    pool.add(replace(view(1), depth=torch.zeros_like(depth)))
    pool.add(view(2))
    for again in (pool, restored(tmp_path, pool.state(), 3)):
        out, unknown, without = (again.get(k) for k in (key, key + 1, key + 2))
        same(out, view(0))
        assert (out.depth[0, :4] == 0).all()
        torch.testing.assert_close(out.depth.flatten()[4:], depth.flatten()[4:], rtol=5e-4, atol=0)
        torch.testing.assert_close(out.depth_confidence, trust, atol=1e-5, rtol=0)
        assert (unknown.depth == 0).all()
        assert unknown.depth_confidence is without.depth is without.depth_confidence is None


def test_depth_counts_among_the_bytes_held():
    plain, deep = pack(view(0)), pack(replace(view(0), depth=torch.ones(16, 24, 1)))
    assert (plain.nbytes, deep.nbytes) == (16 * 24 * 8, 16 * 24 * 10)


def test_damaged_depth_is_noticed():
    packed = pack(replace(view(0), depth=torch.full((16, 24, 1), 3.0)))
    content = bytearray(encode(packed))
    at = content.index(packed.depth.numpy().tobytes())
    content[at] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        decode(bytes(content))


def test_views_without_depth_are_stored_as_they_always_were():
    """Bytes of an earlier version, so that its pools are still read."""
    packed = pack(view(0))
    facts = {"round": 0, "target": 0, "generation": -1}
    facts["checksum"] = zlib.crc32(packed.confidence.numpy().tobytes(), zlib.crc32(packed.image.numpy().tobytes()))
    names = ("image", "confidence")
    tensors = {name: getattr(packed, name) for name in names}
    tensors |= {name: getattr(packed.camera, name).contiguous() for name in ("camera_to_world", "intrinsics")}
    earlier = safetensors.torch.save(tensors, {"format": "1", "view": json.dumps(facts)})
    same(decode(earlier).unpack(), packed.unpack())
    assert len(encode(packed)) == len(earlier)


def test_a_view_that_does_not_fit_its_camera_is_refused():
    good = view(0)
    with pytest.raises(ValueError, match="24 x 16"):
        Pool(1).add(PseudoView(good.image[:8], good.confidence, good.camera))
    with pytest.raises(ValueError, match="a depth"):
        Pool(1).add(replace(good, depth=torch.ones(16, 23, 1)))
    with pytest.raises(ValueError, match="capacity"):
        Pool(0)


@pytest.mark.parametrize("on_disk", [False, True])
def test_keys_replacing_and_the_oldest(tmp_path, on_disk):
    pool = Pool(4, tmp_path if on_disk else None)
    assert pool.oldest() is None
    with pytest.raises(LookupError):
        pool.sample()
    keys = [pool.add(view(i)) for i in range(3)]
    assert pool.oldest() == keys[0]
    pool.replace(keys[0], view(9, round=1))
    same(pool.get(keys[0]), view(9, round=1))
    assert pool.oldest() == keys[1]
    assert list(pool) == keys
    assert pool.entry(keys[0]).generation == pool.generation == 3
    with pytest.raises(KeyError):
        pool.replace(77, view(1))
    assert len(view_files(tmp_path)) == (3 if on_disk else 0)


def test_a_full_pool_gives_up_the_most_redundant_of_the_oldest_round(tmp_path):
    pool = Pool(4, tmp_path)
    for number, (round, x) in enumerate([(1, 0.0), (0, 3.0), (0, 0.1), (0, 8.0)]):
        pool.add(view(number, round, x))
    pool.add(view(4, 2, 20.0))
    assert [pool.entry(k).target for k in pool] == [0, 1, 3, 4]
    for number in range(5, 25):
        pool.add(view(number, 2 + number, float(number)))
        assert len(pool) == 4
        assert len(view_files(tmp_path)) == 4


def test_memory_stays_bounded_and_every_view_can_be_drawn(tmp_path):
    one = pack(view(0)).nbytes
    pool = Pool(20, tmp_path, ram_bytes=3 * one)
    for number in range(20):
        pool.add(view(number))
    seen = set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        drawn = pool.sample(generator)
        same(drawn, view(drawn.target))
        seen.add(drawn.target)
        assert sum(pool.entry(k).packed is not None for k in pool) <= 3
    assert seen == set(range(20))


def test_drawing_is_reproducible_and_uniform_also_after_a_restore(tmp_path):
    pool = Pool(8, tmp_path)
    for number in range(8):
        pool.add(view(number))
    pool.replace(3, view(30))
    state = pool.state()

    def draw(pool, seed, times):
        generator = torch.Generator().manual_seed(seed)
        return [pool.sample(generator).target for _ in range(times)]

    first = draw(pool, 1, 800)
    assert first == draw(pool, 1, 800)
    assert first == draw(restored(tmp_path, state, 8), 1, 800)
    assert first != draw(pool, 2, 800)
    assert min(first.count(t) for t in set(first)) > 60
    torch.manual_seed(4)
    a = [pool.sample().target for _ in range(20)]
    torch.manual_seed(4)
    assert a == [pool.sample().target for _ in range(20)]


def test_restore_brings_back_the_checkpoint_not_what_came_after(tmp_path):
    pool = Pool(6, tmp_path)
    for number in range(4):
        pool.add(view(number))
    state = pickle.loads(pickle.dumps(pool.state()))
    pool.replace(0, view(10, 1))
    for number in range(11, 20):
        pool.add(view(number, 1))
    again = restored(tmp_path, state, 6)
    assert list(again) == [0, 1, 2, 3]
    for key in again:
        same(again.get(key), view(key))
    # The other branch is untouched by going on from here.
    later = pool.state()
    again.add(view(99))
    again.replace(1, view(98))
    other = restored(tmp_path, later, 6)
    assert sorted(other.entry(k).target for k in other) == sorted(pool.entry(k).target for k in pool)


def test_going_on_from_an_older_checkpoint_leaves_the_newer_ones_whole(tmp_path):
    pool = Pool(6, tmp_path)
    pool.add(view(0))
    old = pool.state()
    pool.replace(0, view(1))
    pool.add(view(2))
    new = pool.state()
    branch = restored(tmp_path, old, 6)
    branched = branch.state()
    branch.add(view(3))
    generations = [s["generation"] for s in (old, new, branched)]
    assert len(set(generations)) == 3
    branch.prune(generations)
    again = restored(tmp_path, new, 6)
    assert [again.entry(k).target for k in again] == [1, 2]
    assert [restored(tmp_path, s, 6).entry(0).target for s in (old, branched)] == [0, 0]


def test_a_resumed_run_takes_the_views_along_into_its_own_folder(tmp_path):
    pool = Pool(6, tmp_path / "first")
    for number in range(5):
        pool.add(view(number))
    pool.replace(1, view(11))
    state = pool.state(1000)
    for target in (Pool(6, tmp_path / "second"), Pool(6, tmp_path / "tight", ram_bytes=0), Pool(6)):
        target.restore(tmp_path / "first", state)
        assert [target.entry(k).target for k in target] == [0, 11, 2, 3, 4]
        assert target.oldest() == 0
        target.replace(0, view(10))
        assert target.oldest() == 2
    second = Pool(6, tmp_path / "second")
    second.restore(tmp_path / "first", state)
    own = second.state(2000)
    for file in (tmp_path / "first").iterdir():
        file.unlink()
    again = restored(tmp_path / "second", own, 6)
    assert list(again) == list(pool)
    for key in again:
        same(again.get(key), view(again.entry(key).target))


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


def test_a_view_is_known_by_round_and_target(tmp_path):
    pool = Pool(9, tmp_path)
    keys = [pool.put(view(n, r)) for n, r in ((0, 1), (1, 1), (0, 2), (0, 1))]
    assert keys == [0, 1, 2, 0]
    assert [(e.round, e.target, e.generation) for e in pool.views()] == [(1, 0, 3), (1, 1, 1), (2, 0, 2)]
    assert {pool.sample(random.Random(seed)).target for seed in range(20)} == {0, 1}
    assert pool.sample(random.Random(3)).generation == pool.sample(random.Random(3)).generation


def test_state_is_plain_enough_for_a_checkpoint(tmp_path):
    pool = Pool(3, tmp_path)
    pool.add(view(0))
    state = pool.state()
    assert json.loads(json.dumps(state)) == state
    torch.save(state, tmp_path / "checkpoint.pt")
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True) == state


def test_pruning_keeps_what_kept_checkpoints_need_and_bounds_the_disk(tmp_path):
    pool = Pool(5, tmp_path)
    states = []
    for number in range(40):
        if number % 2 and len(pool):
            pool.replace(pool.oldest(), view(number, number))
        else:
            pool.add(view(number, number))
        if number % 4 == 3:
            states.append(pool.state())
            keep = states[-2:]
            pool.prune(s["generation"] for s in keep)
            needed = {entry[1] for s in keep for entry in s["views"]}
            assert {int(p.stem[5:]) for p in view_files(tmp_path)} == needed
            assert len(list(tmp_path.glob("checkpoint_*"))) == len(keep)
            for s in keep:
                assert len(restored(tmp_path, s, 5)) == len(s["views"])
        assert len(view_files(tmp_path)) <= 15
    (tmp_path / "view_00000077.safetensors.partial").write_bytes(b"half")
    pool.prune([])
    assert len(view_files(tmp_path)) == len(pool)
    assert not list(tmp_path.glob("*.partial"))


def filled(folder):
    pool = Pool(6, folder)
    for number in range(5):
        pool.add(view(number))
    return pool.state()


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
    assert list(pool) == [0, 1, 3, 4]
    same(pool.get(3), view(3))
    said = capsys.readouterr().out
    assert str(file) in said
    assert "1 of 5" in said
    # New views never take the name of a damaged one's successors.
    key = pool.add(view(50))
    assert key == 5
    assert len(restored(tmp_path, pool.state(), 6)) == 5


def test_leftovers_of_an_interrupted_write_do_no_harm(tmp_path, capsys):
    state = filled(tmp_path)
    (tmp_path / "view_00000005.safetensors.partial").write_bytes(b"\x10\0\0")
    (tmp_path / "index.json.partial").write_text("{")
    (tmp_path / "index.json").unlink()
    (tmp_path / "checkpoint_00000099.json").write_text("nonsense")
    pool = restored(tmp_path, state, 6)
    assert len(pool) == 5
    assert capsys.readouterr().out == ""
    pool.add(view(9))
    pool.prune([pool.state()["generation"]])
    assert not list(tmp_path.glob("*.partial"))
    assert not (tmp_path / "checkpoint_00000099.json").exists()


def test_without_a_state_the_index_or_else_the_files_are_taken(tmp_path, capsys):
    filled(tmp_path)
    assert len(restored(tmp_path, None, 6)) == 5
    assert capsys.readouterr().out == ""
    for content in ("{", "[]", '{"generation": 1, "views": [["a"]]}', '{"generation": 3}'):
        (tmp_path / "index.json").write_text(content)
        pool = restored(tmp_path, None, 6)
        assert sorted(pool.entry(k).target for k in pool) == [0, 1, 2, 3, 4]
        assert "index.json" in capsys.readouterr().out
    assert len(restored(tmp_path / "new", None, 6)) == 0
    assert capsys.readouterr().out == ""


def test_a_smaller_capacity_keeps_the_newest_rounds(tmp_path):
    pool = Pool(6, tmp_path)
    for number in range(6):
        pool.add(view(number, round=number // 2))
    smaller = restored(tmp_path, pool.state(), 2)
    assert [smaller.entry(k).round for k in smaller] == [2, 2]


def test_a_view_that_vanishes_while_training_is_left_out(tmp_path, capsys):
    pool = Pool(6, tmp_path, ram_bytes=0)
    for number in range(4):
        pool.add(view(number))
    view_files(tmp_path)[0].unlink()
    generator = torch.Generator().manual_seed(0)
    assert {pool.sample(generator).target for _ in range(60)} == {1, 2, 3}
    assert len(pool) == 3
    assert "view_00000000" in capsys.readouterr().out


def test_a_full_disk_keeps_views_in_memory_and_saves_them_later(tmp_path, capsys, monkeypatch):
    pool = Pool(8, tmp_path, ram_bytes=0)
    pool.add(view(0))
    honest = os.fsync

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for number in range(1, 4):
        pool.add(view(number))
    pool.replace(0, view(10))
    assert [entry[0] for entry in pool.state()["views"]] == []
    assert len(pool) == 4
    for key, number in zip(pool, (10, 1, 2, 3), strict=True):
        same(pool.get(key), view(number))
    said = capsys.readouterr().out
    assert said.count("Notice") == 1
    assert str(tmp_path) in said
    assert not list(tmp_path.glob("*.partial"))
    # Room again: the next checkpoint has everything.
    monkeypatch.setattr(os, "fsync", honest)
    again = restored(tmp_path, pool.state(), 8)
    assert sorted(again.entry(k).target for k in again) == [1, 2, 3, 10]


def test_a_full_disk_from_the_start(tmp_path, capsys, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    pool = Pool(2, tmp_path / "pool")
    for number in range(5):
        pool.add(view(number, number))
    assert len(pool) == 2
    assert capsys.readouterr().out.count("Notice") == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "pool"):
        with pytest.raises(OSError, match="pseudo-views cannot be written") as error:
            Pool(3, folder)
        assert str(folder) in str(error.value)


WRITER = """
import json, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from test_pseudoviews_pool import Pool, view
torch.set_num_threads(1)
folder, pool, number = Path(sys.argv[1]), Pool(6, Path(sys.argv[1])), 0
while True:
    pool.add(view(number)) if number % 3 else pool.replace(pool.add(view(number)), view(number))
    number += 1
    if number % 5 == 0:
        state = pool.state()
        print(json.dumps([state, [pool.entry(k).target for k in pool]]), flush=True)
        pool.prune([state["generation"]])
"""


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
        state, targets = json.loads([line for line in lines if line.endswith("\n")][-1])
        pool = restored(folder, state, 6)
        # The very last state may have been printed with the one before already pruned, never the other way round.
        assert [pool.entry(k).target for k in pool] == targets
        for key in pool:
            same(pool.get(key), view(pool.entry(key).target))
