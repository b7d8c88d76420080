"""``difix3d bench`` with real trainings: complete, going on, telling what failed, and on a Ray cluster."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench.bench_run import bench
from tests.conftest import Command

FLAGS = {
    "steps-per-eval-image": 0,
    "steps-per-eval-all-images": 0,
    "pipeline.datamanager.pose-frame": "train",
    "pipeline.model.max-gs-num": 1500,
    "pipeline.enhancer.name": "blend",
}
PLAIN = {"pipeline.guidance.rounds": 0, "pipeline.sparse-helps": False}
ONE_ROUND = {
    "pipeline.guidance.rounds": 1,
    "pipeline.guidance.targets.count": 2,
    "pipeline.guidance.fixer.name": "blend",
}
RECIPE = {
    "steps": 60,
    "seeds": [3],
    "pictures": 1,
    "flags": FLAGS,
    "methods": {
        "plain": {"flags": PLAIN, "checkpoints": 2},
        "plain-earlystop": {"of": "plain", "earlier": True},
        "plain-tuned": {"best_of": ["plain", "plain-earlystop"]},
        "fix-only": {"of": "plain", "enhanced": True, "strength": 1.0},
        "sparse": {"ns_method": "sparse-splatfacto", "flags": {}},
        "difix3d": {"flags": ONE_ROUND},
        "difix3d+": {"of": "difix3d", "enhanced": True},
        "as-exported": {"of": "difix3d", "exported": ".spz"},
    },
    "compare": [{"method": "difix3d", "against": "plain-tuned", "bars": {"psnr": 0.4}}],
}


def _recipe(folder: Path, **changes: object) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def folder(run: Command, tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a finished benchmark."""
    folder = tmp_path_factory.mktemp("bench")
    run(
        *("difix3d", "bench", tiny_scene, "--output", folder / "out", "--recipe", _recipe(folder)),
        *("--record", folder / "record"),
    )
    return folder


def test_every_method_is_measured(folder: Path) -> None:
    results = json.loads((folder / "out" / "results.json").read_text())
    (name,) = results
    table = results[name]
    assert list(table) == list(RECIPE["methods"])
    for row in table.values():
        assert 8 < row["psnr"] < 40 and 0 < row["ssim"] < 1 and 0 < row["flip"] < 1
        assert row["psnr_std"] is None  # one seed
        assert 100 < row["gaussians"] < 5000
        assert 300 < row["peak_mb"] < 20_000  # torch and nerfstudio alone take that
    assert table["plain"]["seconds"] < table["fix-only"]["seconds"]
    assert table["plain"]["peak_mb"] == table["fix-only"]["peak_mb"]
    assert table["fix-only"]["psnr"] != table["plain"]["psnr"] != table["plain-earlystop"]["psnr"]
    assert table["plain-earlystop"]["seconds"] is None
    assert table["plain-tuned"] in (table["plain"], table["plain-earlystop"])
    assert table["plain-tuned"]["psnr"] == max(table["plain"]["psnr"], table["plain-earlystop"]["psnr"])
    assert table["as-exported"]["gaussians"] <= table["difix3d"]["gaussians"]
    assert table["as-exported"]["psnr"] != table["difix3d"]["psnr"]
    assert table["as-exported"]["psnr"] == pytest.approx(table["difix3d"]["psnr"], abs=1)
    assert "### difix3d over plain-tuned" in (folder / "out" / "table.md").read_text()
    assert "Held-out view" in (folder / "out" / "report.html").read_text()
    with Image.open(folder / "out" / "comparison" / f"{name}.png") as sheet:
        assert sheet.size[0] > 6 * 128  # plain, tuned, fix-only, difix3d, difix3d+ and the truth
    lines = [json.loads(line) for line in (folder / "record" / "bench-tiny.jsonl").read_text().splitlines()]
    assert {line["method"] for line in lines} == {
        *("plain", "plain-earlystop@30", "fix-only", "sparse", "difix3d", "difix3d+", "as-exported")
    }
    assert {line["method"] for line in lines if line["ns_method"] == "sparse-splatfacto"} == {"sparse"}
    assert all(line["seed"] == 3 and line["scene"] == name for line in lines)


def test_started_again_it_goes_on(folder: Path, tiny_scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warm = threading.Event()
    warm.set()  # the benchmark before has compiled everything
    monkeypatch.setattr("difix3d_ns.evaluation.bench.job._warm", warm)
    runs = folder / "out" / "runs" / tiny_scene.name
    before = {
        method: json.loads((runs / method / "seed-3" / "training.json").read_text()) for method in ("plain", "difix3d")
    }
    means = json.loads((folder / "out" / "results.json").read_text())
    (runs / "difix3d" / "seed-3" / "training.json").unlink()  # as if it had been killed while it trained
    lines = (folder / "record" / "bench-tiny.jsonl").read_text()
    table = bench(
        *([tiny_scene], folder / "out"),
        recipe=folder / "tiny.yaml",
        record=folder / "record",
        console=Console(quiet=True),
    )
    after = {method: json.loads((runs / method / "seed-3" / "training.json").read_text()) for method in before}
    assert after["plain"] == before["plain"]
    assert after["difix3d"]["run"] != before["difix3d"]["run"]
    assert table[tiny_scene.name]["difix3d"]["psnr"] == pytest.approx(
        means[tiny_scene.name]["difix3d"]["psnr"], abs=0.5
    )
    record = (folder / "record" / "bench-tiny.jsonl").read_text()
    assert record.startswith(lines)
    added = [json.loads(line)["method"] for line in record.removeprefix(lines).splitlines()]
    assert sorted(added) == ["as-exported", "difix3d", "difix3d+"]  # the training and what is measured of it


def test_scenes_are_spread_over_a_cluster_and_one_that_fails_is_named(tiny_scene: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from tests.conftest import start_cluster

    shutil.copytree(tiny_scene, tmp_path / "broken")
    meta = json.loads((tmp_path / "broken" / "transforms.json").read_text())
    (tmp_path / "broken" / meta["train_filenames"][1]).write_bytes(b"no picture")
    methods = {"plain": {"flags": PLAIN}}
    recipe = _recipe(tmp_path, methods=methods, compare=[], steps=20)
    start_cluster(ray)
    try:
        with pytest.raises(UserError, match=r"1 of 2 trainings failed \(start again .*broken, plain, seed 3") as caught:
            bench(
                *([tmp_path / "broken", tiny_scene], tmp_path / "out"),
                recipe=recipe,
                executor="ray",
                record=tmp_path / "record",
                console=Console(quiet=True),
            )
    finally:
        ray.shutdown()
    assert "cannot be read" in str(caught.value)  # what ns-train said
    log = tmp_path / "out" / "runs" / "broken" / "plain" / "seed-3" / "log.txt"
    assert str(log) in str(caught.value) and "cannot be read" in log.read_text()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == [tiny_scene.name]
    assert results[tiny_scene.name]["plain"]["psnr"] > 8
    assert len((tmp_path / "record" / "bench-tiny.jsonl").read_text().splitlines()) == 1
