"""Curation as a whole: restarts after a kill, several workers, Ray, and what it refuses."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from difix3d_ns.data.capture import procedural_capture
from difix3d_ns.data.curate import CLAIMS, FINISHED, curate, curate_scene, finished, prepare, split_of
from difix3d_ns.data.options import CurationOptions
from difix3d_ns.data.scene_names import Scene, expand
from difix3d_ns.data.shards import find_shards, read_shards, read_sidecar
from difix3d_ns.errors import UserError
from difix3d_ns.ns.capture_reader import read_dataset
from tests.conftest import start_cluster

pytestmark = pytest.mark.slow

OPTIONS = CurationOptions(long_side=64, steps=20, max_gaussians=600, references=2, samples=3, split="train")
SCENE = "procedural-seed:3"
NAME = "procedural_00003"
FLAGS = ("--long-side", "64", "--steps", "20", "--max-gaussians", "600", "--references", "2", "--samples", "3")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Without interruption: one scene by all strategies."""
    output = tmp_path_factory.mktemp("made")
    return output, curate([SCENE], output, OPTIONS)


def contents(output: Path) -> dict[str, bytes]:
    """Shards and their sidecars."""
    folder = output / "train" / NAME
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def start(output: Path, *scenes: str, flags: tuple[str, ...] = ()) -> subprocess.Popen:
    """``difix3d curate`` as a process of its own."""
    command = [sys.executable, "-m", "difix3d_ns.cli", "curate", *scenes, "--output", str(output), "--split", "train"]
    return subprocess.Popen([*command, *FLAGS, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_a_sidecar(output: Path, done) -> None:
    while not list(output.glob("train/*/[!.]*.json")):
        assert not done(), "it ended before anything was written"
        time.sleep(0.01)


def test_every_strategy_makes_samples(made):
    output, reports = made
    shards = find_shards(output, "train")
    samples = list(read_shards(shards))
    assert {s.provenance["strategy"] for s in samples} == {"sparse", "underfit", "cycle", "cross"}
    assert len({s.key for s in samples}) == len(samples) == sum(reports[NAME].samples.values())
    for sample in samples:
        scene, unit, _ = sample.key.split("/")
        assert (scene, unit) == (sample.provenance["scene"], sample.provenance["unit"]) == (NAME, unit)
        assert sample.provenance["split"] == "train"
        assert sample.provenance["settings"] == OPTIONS.settings()
        assert sample.request.image.shape == sample.truth.shape == (*sample.true_depth.shape[:2], 3)
        assert len(sample.request.references) == len(sample.reference_true_depths) == 2
        assert (sample.request.image - sample.truth).abs().max() > 0.1
    sidecar = read_sidecar(output / "train" / NAME / "cycle.json")
    assert sidecar["provenance"]["strategy"] == "cycle"
    assert sidecar["psnr"] > 14
    assert 0 < min(reports[NAME].samples.values()) <= max(reports[NAME].samples.values()) <= 3


def test_what_is_finished_is_not_made_again(made):
    output, reports = made
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.*ar")}
    seen: list[float] = []
    (scene,) = expand([SCENE])
    report = curate_scene(scene, output, OPTIONS, on_progress=seen.append)
    assert report is not None
    assert report.samples == reports[NAME].samples
    assert seen == []
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("*.*ar")}


def test_what_is_missing_is_made_again_and_nothing_else(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "set")
    folder = tmp_path / "set/train" / NAME
    (folder / "full_50.json").unlink()  # as if it had been killed between the shard and its list
    (folder / "half_b.tar").unlink()
    (folder / ".half_b.1234abcd.part.tar").write_bytes(b"half a shard")
    untouched = (folder / "full.tar").stat().st_mtime_ns
    curate([SCENE], tmp_path / "set", OPTIONS)
    assert contents(tmp_path / "set") == contents(made[0])
    assert (folder / "full.tar").stat().st_mtime_ns == untouched


def test_killed_in_the_middle_it_ends_as_if_it_had_not_been(made, tmp_path):
    process = start(tmp_path, SCENE)
    wait_for_a_sidecar(tmp_path, lambda: process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    missing = len(contents(made[0])) - len(contents(tmp_path))
    assert missing > 0
    curate([SCENE], tmp_path, OPTIONS)
    assert contents(tmp_path) == contents(made[0])


def test_more_strategies_are_added_to_what_is_there(made, tmp_path):
    some = CurationOptions(**{**vars(OPTIONS), "strategies": ("cross",)})
    assert set(curate([SCENE], tmp_path, some)[NAME].samples) == {"cross_a", "cross_b"}
    both = CurationOptions(**{**vars(OPTIONS), "strategies": ("cross", "underfit")})
    assert len(curate([SCENE], tmp_path, both)[NAME].samples) == 5
    everything = contents(made[0])
    assert contents(tmp_path) == {name: everything[name] for name in contents(tmp_path)}
    assert json.loads((tmp_path / FINISHED / f"{NAME}.json").read_text())["strategies"] == ["cross", "underfit"]


def test_a_scene_belongs_to_one_worker_at_a_time(tmp_path):
    prepare(tmp_path)
    (scene,) = expand([SCENE])
    with FileLock(tmp_path / CLAIMS / f"{NAME}.lock"):
        assert curate_scene(scene, tmp_path, OPTIONS, wait=False) is None
    assert not (tmp_path / "train").exists()


def test_two_workers_share_the_scenes(made, tmp_path):
    scenes, flags = (SCENE, "procedural-seed:1"), ("--strategies", "sparse")
    workers = [start(tmp_path, *order, flags=flags) for order in (scenes, scenes)]
    seen: dict[Path, int] = {}
    while any(worker.poll() is None for worker in workers):
        for path in tmp_path.glob("train/*/[!.]*.tar"):
            assert seen.setdefault(path, path.stat().st_ino) == path.stat().st_ino  # written once
        time.sleep(0.02)
    for worker in workers:
        output = worker.communicate()[0]
        assert worker.returncode == 0, output
        assert output.count("samples in") == 2  # either is told when all is there
    everything = contents(made[0])
    assert contents(tmp_path) == {name: everything[name] for name in contents(tmp_path)}
    assert len(list(tmp_path.glob("train/procedural_00001/*.tar"))) == 5


def test_a_worker_of_a_ray_cluster_dies_and_nothing_is_lost_or_repeated(made, tmp_path):
    psutil, ray = pytest.importorskip("psutil"), pytest.importorskip("ray")
    options = CurationOptions(**{**vars(OPTIONS), "strategies": ("sparse",)})
    start_cluster(ray)
    try:
        results: list[dict] = []
        run = threading.Thread(
            target=lambda: results.append(
                curate([SCENE], tmp_path, options, executor="ray", console=Console(quiet=True))
            )
        )
        run.start()
        wait_for_a_sidecar(tmp_path, lambda: not run.is_alive())
        workers = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::attempt")]
        assert len(workers) == 1
        os.kill(workers[0].pid, signal.SIGKILL)
        assert len(contents(tmp_path)) < 10
        run.join(300)
    finally:
        ray.shutdown()
    everything = contents(made[0])
    names = {
        f"{unit}.{ending}" for unit in ("full", "half_a", "half_b", "third", "quarter") for ending in ("tar", "json")
    }
    assert contents(tmp_path) == {name: everything[name] for name in sorted(names)}
    ((report,),) = (list(result.values()) for result in results)
    assert report.samples == {name: made[1][NAME].samples[name] for name in report.samples}


def test_scenes_that_are_folders_need_a_reader(tmp_path):
    """It is asked for what the options say, and goes to workers of a cluster by its name."""
    (tmp_path / "yard").mkdir()
    options = CurationOptions(**{**vars(OPTIONS), "strategies": ("cross",), "hold_out": 3, "white_background": True})
    asked = []

    def read(path, name, long_side, **how):
        asked.append((path, name, long_side, how))
        return replace(procedural_capture(3, long_side), name=name)

    scenes, quiet = [f"blender-data:{tmp_path / 'yard'}"], Console(quiet=True)
    assert set(curate(scenes, tmp_path / "set", options, console=quiet, read=read)) == {"yard"}
    how = {"parser": "blender-data", "hold_out": 3, "white_background": True}
    assert asked == [(tmp_path / "yard", "yard", 64, how)]
    with pytest.raises(UserError, match="yard cannot be read here"):
        curate(scenes, tmp_path / "other", options, console=quiet)
    assert pickle.loads(pickle.dumps(read_dataset)) is read_dataset


def test_no_ray_cluster_at_an_address(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=r"--address 127\.0\.0\.1:1: no Ray cluster there"):
        curate([SCENE], tmp_path, OPTIONS, executor="ray", address="127.0.0.1:1")


def test_other_settings_need_another_output(made):
    other = CurationOptions(**{**vars(OPTIONS), "steps": 30})
    with pytest.raises(
        UserError, match=r"\.tar was made with other settings \(steps 20, now 30\): give another --output"
    ):
        curate([SCENE], made[0], other)


def test_a_scene_is_in_one_split(made):
    other = CurationOptions(**{**vars(OPTIONS), "split": "validation"})
    with pytest.raises(UserError, match=f"train/{NAME} exists: a scene is in one split only; give --split train"):
        curate([SCENE], made[0], other)


def test_another_scene_of_the_same_name_is_told_apart(made):
    with pytest.raises(UserError, match=f"{NAME} in .* was made of procedural-seed:3, not of /data/{NAME}"):
        finished(Scene(NAME, f"/data/{NAME}"), made[0], OPTIONS)


def test_a_damaged_list_of_what_is_finished_is_named(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "set")
    path = tmp_path / "set" / FINISHED / f"{NAME}.json"
    path.write_text("{")
    with pytest.raises(UserError, match=f"{path} is damaged"):
        curate([SCENE], tmp_path / "set", OPTIONS)


def test_a_bad_scene_does_not_keep_the_others_from_being_made(tmp_path):
    options = CurationOptions(**{**vars(OPTIONS), "strategies": ("cross",)})
    scenes = [str(tmp_path / "nowhere"), SCENE]
    with pytest.raises(UserError, match="nowhere does not exist"):
        curate(scenes, tmp_path / "set", options, console=Console(quiet=True), read=read_dataset)
    assert len(find_shards(tmp_path / "set", "train")) == 2


def test_splits_are_drawn_by_name_alone():
    auto = CurationOptions(validation_share=0.3)
    scenes = expand(["procedural:200"])
    drawn = {scene.name: split_of(scene, auto) for scene in scenes}
    assert 40 < sum(split == "validation" for split in drawn.values()) < 80
    assert all(split_of(scene, auto) == drawn[scene.name] for scene in expand(["procedural:5"]))
    assert {split_of(scene, CurationOptions(validation_share=0)) for scene in scenes} == {"train"}


@pytest.mark.parametrize(("name", "value"), [("steps", 5), ("hold_out", 1)])
def test_impossible_options_are_refused(tmp_path, name, value):
    with pytest.raises(UserError, match="--steps must be 20 or more, and --hold-out 2 or more"):
        curate([SCENE], tmp_path, CurationOptions(**{name: value}))


def test_an_output_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output .*file cannot be written"):
        curate([SCENE], tmp_path / "file", OPTIONS)


def test_the_command_exports_what_it_made(made, run, tmp_path):
    result = run("difix3d", "export-pairs", made[0], "--output", tmp_path / "official")
    count = sum(made[1][NAME].samples.values())
    assert f"{count} training and 0 test samples" in result.stdout
    assert len(list((tmp_path / "official/train/target_image").glob("*.png"))) == count
