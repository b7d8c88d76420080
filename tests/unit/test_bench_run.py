"""What a benchmark does with what is on disk already: goes on, or says what has changed. No training is run here."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import re
import shutil
import sys
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from difix3d_ns.cli import main
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation import measures, runs
from difix3d_ns.evaluation.bench import provenance
from difix3d_ns.evaluation.bench.bench_recipe import Method, Recipe, load_recipe
from difix3d_ns.evaluation.bench.bench_run import bench
from difix3d_ns.evaluation.bench.job import Job, Scene, _evaluate
from difix3d_ns.evaluation.bench.kept_pictures import keep_pictures
from difix3d_ns.evaluation.bench.rows import Row, add_rows, current_rows, read_rows
from difix3d_ns.evaluation.curves import read_curves
from difix3d_ns.evaluation.evaluation_masks import read_masks
from difix3d_ns.evaluation.runs import Evaluation, HeldOutView
from difix3d_ns.io.atomic import write_text
from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.metrics.perceptual import FID
from difix3d_ns.metrics.scoring import score
from tests.unit.bench_states import finish
from tests.unit.tiny_scene import write_scene

CONTENT = {
    "steps": 60,
    "pictures": 2,
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
    arguments = {"recipe": folder / "recipe.yaml", "record": folder / "record", "console": Console(quiet=True)}
    return bench([folder / "scene"], folder / "out", **{**arguments, **options})  # type: ignore[arg-type]


def _on_record(folder: Path) -> list[Row]:
    return current_rows(read_rows(folder / "record" / "bench-recipe.jsonl"), load_recipe(folder / "recipe.yaml"))


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
        keep_pictures(finished / "out", {"scene": "scene", "method": method, "seed": 0}, [grey] * 5, [black] * 5)
    kept = [f"{view:03d}.png" for view in range(5)]  # all, without loss; truths once
    for folder in ("truth", "plain/seed-0", "plain-dropout/seed-0"):
        assert sorted(path.name for path in (finished / "out" / "pictures" / "scene" / folder).iterdir()) == kept
    _bench(finished)
    text = (finished / "out" / "report.html").read_text()
    assert set(re.findall(r"Held-out view (\d)", text)) == {"2", "4"}  # evenly spaced
    for said in ("+1.00 dB", "plain-dropout over plain", "plain-tuned", "20.00", "2 CPU cores", "commit 0123456789"):
        assert said in text, said
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", text)
    with Image.open(finished / "out" / "comparison" / "scene.png") as sheet:
        assert sheet.size[0] >= 3 * 30  # plain, plain-tuned, truth


@pytest.fixture
def with_pictures(finished: Path) -> Path:
    """The folder with three kept pictures of each run, worse ones of plain."""
    generator = torch.Generator().manual_seed(0)
    truths = list(torch.rand(3, 40, 48, 3, generator=generator))
    for method, noise in (("plain", 0.5), ("plain-dropout", 0.1)):
        pictures = [truth + noise * torch.rand(40, 48, 3, generator=generator) for truth in truths]
        keep_pictures(finished / "out", {"scene": "scene", "method": method, "seed": 0}, pictures, truths)
    return finished


class _Colours(nn.Module):
    """Features that are seen fast, in Inception's place."""

    num_features = 48

    def forward(self, pictures: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(pictures, 4).flatten(1)


@pytest.fixture
def fast_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    make = functools.partial(FID, features=_Colours())
    monkeypatch.setattr("difix3d_ns.evaluation.bench.perceptual_columns.FID", make)


def _fill(folder: Path, columns: Sequence[str] = ("lpips", "fid"), **options: Any) -> dict:
    options = {"console": Console(quiet=True), **options}
    return bench((), folder / "out", recipe=folder / "recipe.yaml", record=folder / "record", fill=columns, **options)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_fid", "perceptual_weights")
def test_lpips_and_fid_are_filled_in_later_from_kept_pictures(with_pictures: Path) -> None:
    lines = [row["run"] for row in _on_record(with_pictures)]
    table = _fill(with_pictures)["scene"]
    for column in ("lpips_alex", "lpips_vgg"):
        assert table["plain"][column] > table["plain-dropout"][column] > 0
    assert table["plain"]["fid"] > table["plain-dropout"]["fid"] == table["plain-tuned"]["fid"] > 0
    assert table["plain"]["psnr"] == 20 and lines == []
    text = (with_pictures / "out" / "table.md").read_text()
    assert "| LPIPS (AlexNet) ↓ | LPIPS (VGG) ↓ | FID ↓ |" in text and "FID is of all held-out pictures" in text
    assert "LPIPS (VGG)" in text.partition("## Paired differences")[2]
    assert "LPIPS (VGG) ↓" in (with_pictures / "out" / "report.html").read_text()
    first, second, *fid = _on_record(with_pictures)
    assert first["metrics"]["lpips_alex"] == pytest.approx(table["plain"]["lpips_alex"], abs=1e-5)
    assert [(row["method"], row["runs"], row["pictures"]) for row in fid] == [
        (row["method"], [row["run"]], 3) for row in (first, second)
    ]
    with mock.patch("difix3d_ns.evaluation.bench.perceptual_columns.add_rows") as added:
        assert _bench(with_pictures)["scene"] == table  # nothing is left to compute
    added.assert_not_called()


@pytest.mark.slow
@pytest.mark.usefixtures("fast_fid", "perceptual_weights")
def test_rows_on_record_are_filled_in_not_added_again(with_pictures: Path) -> None:
    _bench(with_pictures, methods=["plain"])
    assert _on_record(with_pictures)[0]["metrics"]["lpips_vgg"] > 0  # right after the trainings
    for file in ("out/runs/scene/plain/seed-0/rows.jsonl", "record/bench-recipe.jsonl"):
        text = (with_pictures / file).read_text()
        (with_pictures / file).write_text(re.sub(r'"lpips_vgg": [0-9.]+', '"lpips_vgg": null', text))
    assert _on_record(with_pictures)[0]["metrics"]["lpips_vgg"] is None
    before = len(_on_record(with_pictures))
    _fill(with_pictures, ["lpips"], methods=["plain"])
    assert _on_record(with_pictures)[0]["metrics"]["lpips_vgg"] > 0 and len(_on_record(with_pictures)) == before


def test_missing_weights_are_named_once_and_columns_stay_empty(with_pictures: Path, no_weights: Path) -> None:
    out = io.StringIO()
    table = _fill(with_pictures, console=Console(file=out, width=60))["scene"]
    assert all(row[column] is None for row in table.values() for column in ("lpips_alex", "lpips_vgg", "fid"))
    for column, file in {"lpips_alex": "alexnet-owt", "lpips_vgg": "vgg16", "fid": "weights-inception"}.items():
        assert out.getvalue().count(f"{column} is left out: the weights {no_weights}/hub/checkpoints/{file}") == 1
    assert out.getvalue().count("put https://") == 3
    assert "LPIPS" not in (with_pictures / "out" / "table.md").read_text().partition("## Paired")[0]
    shutil.rmtree(with_pictures / "out" / "pictures" / "scene" / "plain")
    _fill(with_pictures, console=Console(file=out))
    assert "1 rows have no kept pictures any more" in out.getvalue()


def test_fill_on_the_command_line(
    with_pictures: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> str:
        options = ("--recipe", with_pictures / "recipe.yaml", "--record", with_pictures / "record")
        monkeypatch.setattr("sys.argv", ["difix3d", "bench", *map(str, (*words, *options))])
        with contextlib.suppress(SystemExit):
            main()
        said = capsys.readouterr()
        return said.out + said.err

    for words in (
        ("--fill", "lpips", "fid", with_pictures / "out"),
        ("--fill", "fid", "--output", with_pictures / "out"),
    ):
        assert "fid is left out" in run(*words) and (with_pictures / "out" / "report.html").is_file()
    assert "has no finished runs of the recipe recipe" in run("--fill", "lpips", with_pictures / "nowhere")
    for words in (
        ("--fill", with_pictures / "out"),
        ("--fill", "fid"),
        (with_pictures / "scene", "--fill", "fid", "out"),
    ):
        assert "--fill takes lpips, fid or both, then one folder" in run(*words)
    assert "--output is missing" in run(with_pictures / "scene")


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
    assert entries[0]["metrics"]["psnr"] == 20 and entries[0]["metrics"]["lpips_alex"] is None
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
    assert [row["method"] for row in _on_record(finished)] == ["plain"]
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
    path = finished / "record" / "bench-recipe.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["ns_method"] for entry in entries] == ["difix3d-splatfacto"] * 2
    for entry in entries:
        entry["flags_now"], entry["flags"] = entry["flags"], ["--pipeline.earlier", "0"]
    path.write_text("\n".join(map(json.dumps, entries)))
    assert len(_on_record(finished)) == 2
    entries[0]["flags_now"] = entries[0]["flags"]
    path.write_text("\n".join(map(json.dumps, entries)))
    assert [row["method"] for row in _on_record(finished)] == ["plain-dropout"]


def test_another_scene_of_the_same_name_is_refused(finished: Path) -> None:
    (finished / "scene" / "transforms.json").write_text(
        (finished / "scene" / "transforms.json").read_text().replace("0.0", "0.1")
    )
    with pytest.raises(UserError, match=r"2 finished runs .*\nscene, plain, seed 0: scene: its files have changed"):
        _bench(finished)


def test_other_code_is_refused_unless_it_is_to_be_kept(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difix3d_ns.evaluation.bench.provenance.code_digest", lambda *fixers: "another")
    with pytest.raises(UserError, match=r"plain, seed 0: code: 0123456789, now .*\n(.*\n)*.*--changed keep"):
        _bench(finished)
    assert len(_bench(finished, changed="keep")["scene"]) == 3


def test_a_further_seed_is_not_put_beside_runs_of_other_code(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difix3d_ns.evaluation.bench.provenance.code_digest", lambda *fixers: "another")
    arguments = {"recipe": finished / "recipe.yaml", "record": finished / "record", "seeds": [5]}
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
    monkeypatch.setattr("difix3d_ns.evaluation.bench.provenance.code_digest", lambda *fixers: "another")
    monkeypatch.setattr("difix3d_ns.evaluation.bench.provenance.LOADED", "another")
    with pytest.raises(UserError, match=r"2 of 2 trainings failed .*no training in this test"):
        _bench(finished, changed="redo")
    assert made == ["plain training by difix3d-splatfacto", "plain-dropout training by difix3d-splatfacto"]
    assert not list(finished.glob("out/runs/*/*/*/training.json"))
    assert len((finished / "record" / "bench-recipe.jsonl").read_text().splitlines()) == 2  # the record keeps them


def test_code_that_changes_meanwhile_ends_the_benchmark(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = finished / "out" / "runs" / "scene" / "plain-dropout" / "seed-0" / "training.json"
    before = state.read_text()
    state.unlink()
    monkeypatch.setattr("difix3d_ns.evaluation.bench.provenance.LOADED", "what this process began with")
    with pytest.raises(UserError, match=r"^scene, plain-dropout, seed 0: the code has changed while the benchmark ran"):
        _bench(finished)
    state.write_text(before)
    assert len(_bench(finished)["scene"]) == 3  # nothing was left to train


def test_a_method_that_evaluates_otherwise_is_evaluated_again(finished: Path) -> None:
    content = {"steps": 60, "methods": {**CONTENT["methods"], "fixed": {"of": "plain", "enhanced": True}}}  # type: ignore[dict-item]
    (finished / "more.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    recipe = load_recipe(finished / "more.yaml")
    job = Job(Scene(finished / "scene", "scene"), "plain", 0)
    assert [method.name for method in job.missing(finished / "out", recipe)] == ["fixed"]
    assert [method.name for method in job.missing(finished / "nowhere", recipe)] == ["plain", "fixed"]


def test_a_damaged_state_is_named(finished: Path) -> None:
    path = finished / "out" / "runs" / "scene" / "plain" / "seed-0" / "training.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"training\.json is damaged .*: delete .*seed-0 and start again"):
        _bench(finished)


def test_an_output_of_an_earlier_version_is_left_as_it_is(finished: Path) -> None:
    folder = finished / "out" / "runs" / "scene" / "plain" / "seed-0"
    (folder / "training.json").rename(folder / "job.json")
    with pytest.raises(UserError, match=r"plain/seed-0 was made by an earlier version .* another --output"):
        _bench(finished)
    assert (folder / "job.json").is_file()


def test_scenes_are_told_apart_by_their_names(finished: Path) -> None:
    write_scene(finished / "other" / "scene")
    with pytest.raises(UserError, match="have the same name"):
        bench([finished / "scene", finished / "other" / "scene"], finished / "out", recipe=finished / "recipe.yaml")
    with pytest.raises(UserError, match="nowhere does not exist"):
        bench([finished / "nowhere"], finished / "out", recipe=finished / "recipe.yaml")
    with pytest.raises(UserError, match="no scene given"):
        bench([], finished / "out", recipe=finished / "recipe.yaml")


NUMBERS = (score, measures.corrected_psnr, measures.agreements, read_masks, read_curves, runs.evaluate, image_metrics)


@pytest.mark.parametrize("made", NUMBERS)
def test_what_makes_numbers_counts(made: Any) -> None:
    path = Path(str(sys.modules[made.__module__].__file__)).relative_to(provenance._PACKAGE).as_posix()
    assert not path.startswith(provenance._IRRELEVANT)


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
        rows = finish(job, recipe, tmp_path / "out", {"plain": psnr})
        add_rows(tmp_path / "some.jsonl", [row | {"run": f"{run}/plain"} for row in rows])
    assert read_rows(tmp_path / "nowhere.jsonl") == []
    rows = read_rows(tmp_path / "some.jsonl")
    (row,) = current_rows(rows, recipe)
    assert len(rows) == 2 and row["metrics"]["psnr"] == 21.0 and row["method"] == "plain" and row["seed"] == 0
    assert current_rows(rows, replace(recipe, steps=11)) == []
    others = {"other": Method("other", {"pipeline.guidance.rounds": 0})}
    assert current_rows(rows, replace(recipe, methods=others)) == []


def test_an_evaluation_is_taken_from_an_earlier_run_of_the_same_code_alone(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene")
    methods = {"ours": Method("ours", {}), "ours+": Method("ours+", of="ours", enhanced=True)}
    recipe = Recipe(methods, "some", steps=10)
    job = Job(Scene(tmp_path / "scene", "scene"), "ours", 0)
    plain, enhanced = finish(job, recipe, tmp_path / "out", {"ours": 20.0, "ours+": 21.0})
    again = plain | {"run": "later/ours"}
    assert current_rows([plain, enhanced, again], recipe) == [again, enhanced]
    for changed in ({"code": "another"}, {"data": "another"}):
        assert current_rows([plain, enhanced, again | changed], recipe) == [again | changed]


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


def test_rows_scored_at_one_size_hold_detail_and_the_size_of_training(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {**CONTENT, "long_side": 48, "factor": 2}
    (finished / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    truth = torch.rand(32, 48, 3, generator=torch.Generator().manual_seed(0))
    requested = []

    def evaluate(config: Path, **options: Any) -> Evaluation:
        requested.append(options)
        render = truth if "dropout" in str(config) else truth.mean((0, 1)).expand_as(truth)
        return Evaluation([HeldOutView(truth, render, None, "a.png")], 100, 0.0, (24, 16))

    monkeypatch.setattr(runs, "evaluate", evaluate)
    table = _bench(finished)["scene"]
    assert {options["long_side"] for options in requested} == {48} and len(requested) == 2  # what was scored otherwise
    assert table["plain-dropout"]["high_pass"] == pytest.approx(1) and table["plain"]["high_pass"] == 0
    assert table["plain-dropout"]["low_psnr"] == 100 > table["plain"]["low_psnr"] > 0
    (row,) = [row for row in _on_record(finished) if row["method"] == "plain"]
    assert row["size"] == [48, 32] and row["trained_size"] == [24, 16]
    assert row["evaluation"]["long_side"] == 48 and row["evaluation"]["factor"] == 2
    text = (finished / "out" / "table.md").read_text()
    assert "| detail, correlation ↑ |" in text and "trained on at 24x16" in text


def test_evaluations_are_shared_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {
        "ours": Method("ours", {}),
        "ply": Method("ply", of="ours", exported=".ply"),
        "spz": Method("spz", of="ours", exported=".spz"),
        "ours+": Method("ours+", of="ours", enhanced=True),
    }
    recipe, job = Recipe(methods, "some", steps=10), Job(Scene(tmp_path / "scene", "scene"), "ours", 0)
    picture, made, held = torch.rand(16, 16, 3), [], []

    def evaluate(config: Path, **options: Any) -> Evaluation:
        gc.collect()
        held.append(sum(each() is not None for each in made))
        found = Evaluation([HeldOutView(picture, picture, picture, "a.png")], 100, 0.0, (16, 16))
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(runs, "evaluate", evaluate)
    trained = {
        **dict.fromkeys(("run", "scene", "commit"), "x"),
        "ns_method": "m",
        "seed": 0,
        "seconds": 1,
        "peak_mb": 1,
    }
    _evaluate(job, recipe, tmp_path / "out", trained, list(methods.values()))
    assert held == [0, 1, 1]
    assert {row["method"] for row in read_rows(job.rows(tmp_path / "out"))} == set(methods)
