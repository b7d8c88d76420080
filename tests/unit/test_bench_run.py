"""What a benchmark does with what is on disk already: goes on, or says what has changed. No training is run here."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench import provenance, record
from difix3d_ns.evaluation.bench.bench_recipe import Method, Recipe, load_recipe
from difix3d_ns.evaluation.bench.bench_run import bench
from difix3d_ns.evaluation.bench.job import Job, Scene, missing_parts
from difix3d_ns.evaluation.bench.kept_pictures import keep_pictures
from difix3d_ns.io.atomic import write_text
from tests.unit.bench_states import finish
from tests.unit.tiny_scene import write_scene

CONTENT = {
    "steps": 60,
    "methods": {
        "plain": {"flags": {"pipeline.guidance.rounds": 0}},
        "plain-dropout": {"flags": {"pipeline.model.gaussian-dropout": 0.1}},
        "plain-tuned": {"best_of": ["plain", "plain-dropout"]},
    },
    "compare": [{"method": "plain-dropout", "against": "plain"}],
}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder with a recipe, a scene and all its runs."""
    write_scene(tmp_path / "scene")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    recipe = load_recipe(tmp_path / "recipe.yaml")
    for training, psnr in (("plain", 20.0), ("plain-dropout", 21.0)):
        finish(Job(Scene(tmp_path / "scene", "scene"), training, 0), recipe, tmp_path / "out", {training: psnr})
    return tmp_path


def _bench(folder: Path, **options: object) -> dict:
    arguments = {"recipe": folder / "recipe.yaml", "folder": folder / "record", "console": Console(quiet=True)}
    return bench([folder / "scene"], folder / "out", **{**arguments, **options})  # type: ignore[arg-type]


def test_what_is_finished_is_not_made_again(finished: Path) -> None:
    table = _bench(finished)
    assert table == json.loads((finished / "out" / "results.json").read_text())
    assert list(table["scene"]) == ["plain", "plain-dropout", "plain-tuned"]
    assert table["scene"]["plain-tuned"] == table["scene"]["plain-dropout"]
    told = json.loads((finished / "out" / "comparisons.json").read_text())
    assert told["chosen"] == {"plain-tuned": "plain-dropout"}
    assert told["compared"][0]["mean"]["psnr"] == {"mean": 1.0, "error": None, "count": 1}
    text = (finished / "out" / "table.md").read_text()
    assert "`difix3d bench scene --output DIR --recipe recipe`" in text
    assert list(_bench(finished, methods=["plain"])["scene"]) == ["plain"]


def test_the_report_shows_kept_pictures_and_needs_no_network(finished: Path) -> None:
    grey, black = (torch.full((20, 30, 3), value) for value in (0.5, 0.0))
    for method in ("plain", "plain-dropout"):
        keep_pictures(finished / "out" / "pictures" / "scene", method, [grey] * 5, [black] * 5, count=2)
    assert sorted(path.name for path in (finished / "out" / "pictures" / "scene" / "truth").iterdir()) == [
        "001.jpg",
        "003.jpg",
    ]
    _bench(finished)
    text = (finished / "out" / "report.html").read_text()
    assert set(re.findall(r"Held-out view (\d)", text)) == {"2", "4"}
    for said in ("+1.00 dB", "plain-dropout over plain", "plain-tuned", "20.00", "2 CPU cores", "commit 0123456789"):
        assert said in text, said
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", text)
    with Image.open(finished / "out" / "comparison" / "scene.png") as sheet:
        assert sheet.size[0] >= 3 * 30  # plain, plain-tuned, truth


def test_every_run_is_on_record_once(finished: Path) -> None:
    _bench(finished)
    path = finished / "record" / "bench-recipe.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines) + '\n{"run": "interrup')  # killed while it wrote
    _bench(finished)
    after = path.read_text().splitlines()
    assert after[:2] == lines and len(after) == 3
    entries = [json.loads(line) for line in lines]
    assert [entry["method"] for entry in entries] == ["plain", "plain-dropout"]
    assert entries[0]["metrics"]["psnr"] == 20 and entries[0]["metrics"]["lpips"] is None
    assert entries[0]["command"] == "difix3d bench scene --output DIR --recipe recipe --methods plain --seeds 0"
    assert entries[0]["commit"] == "0123456789" and entries[0]["hardware"] == "2 CPU cores"
    assert "--pipeline.guidance.rounds" in entries[0]["flags"]
    assert str(finished) not in path.read_text()  # no paths of this machine
    path.unlink()
    _bench(finished)
    assert path.read_text().splitlines() == lines


def test_a_recipe_not_worth_it_is_not_on_record(finished: Path) -> None:
    (finished / "recipe.yaml").write_text(yaml.safe_dump({**CONTENT, "on_record": False}))
    _bench(finished)
    assert not (finished / "record").exists()


def test_another_recipe_is_refused(finished: Path) -> None:
    content = json.loads(json.dumps(CONTENT))
    content["methods"]["plain-dropout"]["flags"] = {"pipeline.model.gaussian-dropout": 0.2}
    (finished / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for changed in ("refuse", "keep"):
        with pytest.raises(UserError, match=r"1 finished runs in .* would now be made otherwise") as caught:
            _bench(finished, changed=changed)
        assert "scene, plain-dropout, seed 0: recipe: --pipeline.model.gaussian-dropout 0.1, now 0.2" in str(
            caught.value
        )
        assert "--changed redo" in str(caught.value)
    assert list(_bench(finished, methods=["plain"])["scene"]) == ["plain"]  # that has not changed


def test_another_method_of_nerfstudio_is_another_training(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _bench(finished)
    content = json.loads(json.dumps(CONTENT))
    content["methods"]["plain-dropout"]["ns_method"] = "sparse-splatfacto"
    (finished / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(
        UserError, match="plain-dropout, seed 0: recipe: ns_method difix3d-splatfacto, now sparse-splat"
    ):
        _bench(finished, changed="keep")
    recipe = load_recipe(finished / "recipe.yaml")
    assert [state["training"] for state in record.read(recipe, finished / "record")] == ["plain"]
    made = {}

    def train(scene: Path, folder: Path, name: str, flags: list[str], log: Path, method: str) -> None:
        made[name] = method
        if name == "training":
            raise UserError("no training in this test")

    monkeypatch.setattr("difix3d_ns.evaluation.runs.train", train)
    monkeypatch.setattr("difix3d_ns.evaluation.bench.job._warm", Event())
    monkeypatch.setattr("difix3d_ns.evaluation.bench.job.shutil.rmtree", lambda *_, **__: None)
    state = finished / "out" / "runs" / "scene" / "plain-dropout" / "seed-0"
    state.rename(finished / "kept")
    with pytest.raises(UserError, match="no training in this test"):
        _bench(finished)
    assert made == {"warm-up": "sparse-splatfacto", "training": "sparse-splatfacto"}


def test_lines_on_record_that_were_run_with_flags_of_earlier_names(finished: Path) -> None:
    _bench(finished)
    path, recipe = finished / "record" / "bench-recipe.jsonl", load_recipe(finished / "recipe.yaml")
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["ns_method"] for entry in entries] == ["difix3d-splatfacto"] * 2
    for entry in entries:
        del entry["ns_method"]  # as the first lines on record
        entry["flags_now"], entry["flags"] = entry["flags"], ["--pipeline.earlier", "0"]
    path.write_text("\n".join(map(json.dumps, entries)))
    assert len(record.read(recipe, finished / "record")) == 2
    entries[0]["flags_now"] = entries[0]["flags"]
    path.write_text("\n".join(map(json.dumps, entries)))
    assert [state["training"] for state in record.read(recipe, finished / "record")] == ["plain-dropout"]


def test_another_scene_of_the_same_name_is_refused(finished: Path) -> None:
    (finished / "scene" / "transforms.json").write_text(
        (finished / "scene" / "transforms.json").read_text().replace("0.0", "0.1")
    )
    with pytest.raises(UserError, match=r"2 finished runs .*\nscene, plain, seed 0: scene: its files have changed"):
        _bench(finished)


def test_other_code_is_refused_unless_it_is_to_be_kept(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difix3d_ns.evaluation.bench.job.code_digest", lambda *fixers: "another")
    with pytest.raises(UserError, match=r"plain, seed 0: code: 0123456789, now .*\n(.*\n)*.*--changed keep"):
        _bench(finished)
    assert len(_bench(finished, changed="keep")["scene"]) == 3


def test_a_further_seed_is_not_put_beside_runs_of_other_code(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difix3d_ns.evaluation.bench.job.code_digest", lambda *fixers: "another")
    arguments = {"recipe": finished / "recipe.yaml", "folder": finished / "record", "seeds": [5]}
    with pytest.raises(UserError, match=r"2 finished runs .*\nscene, plain, seed 0: code"):
        bench([finished / "scene"], finished / "out", **arguments)


def test_runs_are_made_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def train(scene: Path, folder: Path, name: str, flags: list[str], log: Path, method: str) -> None:
        made.append(f"{folder.parent.name} {name} by {method}")
        raise UserError("no training in this test")

    monkeypatch.setattr("difix3d_ns.evaluation.runs.train", train)
    monkeypatch.setattr("difix3d_ns.evaluation.bench.job._warm_up", lambda *_: None)
    _bench(finished, changed="redo")
    assert made == []  # nothing has changed
    monkeypatch.setattr("difix3d_ns.evaluation.bench.job.code_digest", lambda *fixers: "another")
    monkeypatch.setattr("difix3d_ns.evaluation.bench.job.LOADED", "another")
    with pytest.raises(UserError, match=r"2 of 2 trainings failed .*no training in this test"):
        _bench(finished, changed="redo")
    assert made == ["plain training by difix3d-splatfacto", "plain-dropout training by difix3d-splatfacto"]
    assert not list(finished.glob("out/runs/*/*/*/job.json"))
    assert len((finished / "record" / "bench-recipe.jsonl").read_text().splitlines()) == 2  # the record keeps them


def test_code_that_changes_meanwhile_ends_the_benchmark(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = finished / "out" / "runs" / "scene" / "plain-dropout" / "seed-0" / "job.json"
    before = state.read_text()
    state.unlink()
    monkeypatch.setattr("difix3d_ns.evaluation.bench.job.LOADED", "what this process began with")
    with pytest.raises(UserError, match=r"^scene, plain-dropout, seed 0: the code has changed while the benchmark ran"):
        _bench(finished)
    state.write_text(before)
    assert len(_bench(finished)["scene"]) == 3  # nothing was left to train


def test_a_method_that_looks_otherwise_is_looked_at_again(finished: Path) -> None:
    content = {"steps": 60, "methods": {**CONTENT["methods"], "fixed": {"of": "plain", "enhanced": True}}}  # type: ignore[dict-item]
    (finished / "more.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    recipe = load_recipe(finished / "more.yaml")
    job = Job(Scene(finished / "scene", "scene"), "plain", 0)
    assert [method.name for method in missing_parts(job, recipe, job.state(finished / "out"))] == ["fixed"]
    assert [method.name for method in missing_parts(job, recipe, None)] == ["plain", "fixed"]


def test_a_damaged_state_is_named(finished: Path) -> None:
    path = finished / "out" / "runs" / "scene" / "plain" / "seed-0" / "job.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"job\.json is damaged .*: delete .*seed-0 and start again"):
        _bench(finished)


def test_scenes_are_told_apart_by_their_names(finished: Path) -> None:
    write_scene(finished / "other" / "scene")
    with pytest.raises(UserError, match="have the same name"):
        bench([finished / "scene", finished / "other" / "scene"], finished / "out", recipe=finished / "recipe.yaml")
    with pytest.raises(UserError, match="nowhere does not exist"):
        bench([finished / "nowhere"], finished / "out", recipe=finished / "recipe.yaml")
    with pytest.raises(UserError, match="no scene given"):
        bench([], finished / "out", recipe=finished / "recipe.yaml")


def test_where_a_number_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "difix3d_ns"
    package.mkdir()
    (package / "model.py").write_text("1")
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    first = provenance.code_digest()
    for folder in ("data", "apps"):
        (package / folder).mkdir()
        (package / folder / "scenes.py").write_text("no training depends on it")
    assert provenance.code_digest() == first
    (package / "model.py").write_text("2")
    assert provenance.code_digest() != first
    known = provenance.code_digest("mine.fixer")  # not there: trainings will say so
    assert known == provenance.code_digest("embedded")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "fixer.py").write_text("1")
    assert provenance.code_digest("mine.fixer") != known == provenance.code_digest("embedded")
    assert re.fullmatch(r"[0-9a-f]{10}\+?|version .*", provenance.commit())
    assert "CPU core" in provenance.hardware() or "NVIDIA" in provenance.hardware()


def test_a_method_of_another_package_counts_with_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.method_modules("difix3d-splatfacto") == []
    monkeypatch.setattr(provenance, "entry_points", lambda group, name: [SimpleNamespace(module="enlarge")])
    assert provenance.method_modules("enlarge-splatfacto") == ["enlarge"]


def test_a_scene_is_known_by_its_files(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene")
    before = provenance.data_digest(scene)
    assert provenance.data_digest(scene) == before == provenance.data_digest(scene / "transforms.json")
    (scene / "images" / "more.png").write_bytes(b"12345")
    assert provenance.data_digest(scene) != before


def test_of_each_training_the_newest_run_with_the_flags_of_today_is_read(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene")
    recipe = Recipe({"plain": Method("plain", {"pipeline.guidance.rounds": 0})}, "some", steps=10)
    job = Job(Scene(tmp_path / "scene", "scene"), "plain", 0)
    for run, psnr in {"first": 20.0, "second": 21.0}.items():
        state = finish(job, recipe, tmp_path / "out", {"plain": psnr})
        record.append([{**state, "id": run}], recipe, tmp_path)
    assert record.read(recipe, tmp_path / "nowhere") == []
    (state,) = record.read(recipe, tmp_path)
    assert state["parts"]["plain"]["metrics"]["psnr"] == 21.0 and state["training"] == "plain" and state["seed"] == 0
    assert record.read(replace(recipe, steps=11), tmp_path) == []
    assert (
        record.read(replace(recipe, methods={"other": Method("other", {"pipeline.guidance.rounds": 0})}), tmp_path)
        == []
    )


def test_what_was_finished_by_other_calls_stays_in_the_table(finished: Path) -> None:
    write_scene(finished / "other")
    recipe = load_recipe(finished / "recipe.yaml")
    finish(Job(Scene(finished / "other", "other"), "plain", 1), recipe, finished / "out", {"plain": 17.0})
    table = _bench(finished)
    assert list(table) == ["scene", "other"] and table["other"]["plain"]["psnr"] == 17.0


def test_files_written_by_several_at_once_are_whole(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_text(tmp_path / "file", str(number) * 1000), range(10)))
    (path,) = tmp_path.iterdir()
    assert len(set(path.read_text())) == 1 and len(path.read_text()) == 1000
