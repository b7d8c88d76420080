"""The report of real trainings: finished, going on, without their scene."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

from tests.commands import forked
from tests.conftest import Command, command_line
from tests.integration.conftest import SMALL
from tests.unit.fabricated_run import text_of

MEGABYTE = 1e6


def _report(run: Command, training: Path, output: Path) -> tuple[str, str]:
    """The page's source, and what it says."""
    said = run("difix3d", "report", training, "--output", output).stdout
    assert str(output) in said
    assert "Traceback" not in said
    html = output.read_text()
    return html, text_of(html)


def _contents(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_a_finished_training(run: Command, trained: Path, tmp_path: Path) -> None:
    before = _contents(trained.parent)
    html, text = _report(run, trained.parent, tmp_path / "page.html")
    assert _contents(trained.parent) == before
    assert "not finished" not in text
    assert "3 photos were kept out of training" in text
    assert html.count('data-name="Enhanced"') == html.count('data-name="Error of enhanced"') == 3
    assert html.count('data-name="Fixed"') == html.count('data-name="Confidence"') >= 8
    assert re.search(r"mean \d\d\.\d\d \d\d\.\d\d 0\.\d{3} 0\.\d{3} 0\.\d{3} 0\.\d{3}", text)
    assert "Loss photos pseudo-views" in text
    assert "Held-out PSNR, dB" in text
    assert "Training, first to last step" in text and "Enhancing a further view, median" in text
    assert "--pipeline.guidance.targets.count 4 default 16" in text
    assert "--pipeline.guidance.fixer.name blend default embedded" in text
    assert len(html) < 8 * MEGABYTE


def test_a_training_that_was_moved_and_lost_its_scene(run: Command, trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained.parent, moved)
    _, text = _report(run, tmp_path, tmp_path / "moved.html")
    assert "3 photos were kept out" in text
    config = moved / "config.yml"
    config.write_text(re.sub(r"^(data: .*\n)(- .*\n)+", r"\1- gone\n", config.read_text(), flags=re.M))
    _, text = _report(run, moved, tmp_path / "lost.html")
    assert "The held-out views could not be rendered here" in text
    assert "Round 1:" in text and "Held-out PSNR, dB" in text


def test_weights_that_are_missing_cost_the_enhanced_pictures_alone(run: Command, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent, tmp_path / "run")
    config = tmp_path / "run" / "config.yml"
    config.write_text(config.read_text().replace("name: blend", "name: embedded"))
    page = tmp_path / "page.html"
    run(
        "difix3d",
        "report",
        tmp_path / "run",
        "--output",
        page,
        env={
            "DIFIX3D_WEIGHTS": str(tmp_path / "none.safetensors"),
            "DIFIX3D_ENHANCE": "off",  # changes nothing here
        },
    )
    text = text_of(page.read_text())
    assert "weights were other ones than in training" in text
    assert "The enhancer failed on 3 of 3 views" in text and "none.safetensors" in text
    assert "Render | Truth" in text


def test_a_training_that_goes_on_is_not_disturbed(run: Command, tiny_scene: Path, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "scene" / "difix3d-splatfacto" / "run"
    arguments = ("difix3d-splatfacto", "--data", tiny_scene, "--output-dir", tmp_path / "outputs", *SMALL)
    arguments += ("--experiment-name", "scene", "--timestamp", "run", "--max-num-iterations", 400)
    log = tmp_path / "log"
    with forked(command_line("ns-train", *arguments), log) as training:
        deadline = time.monotonic() + 300
        while not list(folder.glob("nerfstudio_models/*.ckpt")):
            assert training.is_alive() and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        assert training.pid is not None
        os.kill(training.pid, signal.SIGSTOP)  # or it may end before the report is written
        assert training.is_alive()
        _, text = _report(run, folder, tmp_path / "page.html")
        os.kill(training.pid, signal.SIGCONT)
        training.join(300)
        assert training.exitcode == 0, log.read_text()[-3000:]
    assert re.search(r"it is at step \d+ of 400", text)
    assert "3 photos were kept out" in text
    assert (folder / "nerfstudio_models" / "step-000000399.ckpt").is_file()
    assert "not finished" not in _report(run, folder, tmp_path / "page.html")[1]


def test_a_method_without_a_prior(run: Command, tiny_scene: Path, tmp_path: Path) -> None:
    arguments = ("sparse-splatfacto", "--data", tiny_scene, "--output-dir", tmp_path / "outputs", "--timestamp", "run")
    run(
        "ns-train",
        *(*arguments, "--vis", "tensorboard", "--max-num-iterations", 30, "--pipeline.model.max-gs-num", 2000),
        *("--pipeline.enhancer.name", "blend", "--machine.device-type", "cpu"),
    )
    html, text = _report(run, tmp_path, tmp_path / "page.html")
    assert "sparse-splatfacto, 30 steps" in text and "3 photos were kept out of training" in text
    assert "seudo-view" not in text and "rounds" not in text.partition("Settings")[0]
    assert html.count('data-name="Enhanced"') == 3 and "--pipeline.enhancer.name blend default unset" in text
    for fitted in ("min-depth", "stereo", "refine-every", "steps-per-save"):
        assert not re.search(rf"{fitted} \S+ default", text), fitted


def test_mistakes_end_with_one_line(run: Command, tmp_path: Path) -> None:
    said = run("difix3d", "report", tmp_path / "nowhere", status=1).stdout
    assert "Error: " in said and "nowhere does not exist" in said and "Traceback" not in said
