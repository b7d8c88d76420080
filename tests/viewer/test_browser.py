"""The viewer of a live training in a real browser: panel, enhancer, loop. One training for all tests, in order."""

from __future__ import annotations

import io
import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import SLOW_SCREEN, Tab, another_tab, chromium, open_tab
from tests.live_training import LiveTraining, live_training

PORT = 7433
FLAGS = (
    *("--max-num-iterations", 100_000, "--pipeline.guidance.rounds", 2, "--pipeline.guidance.targets.count", 3),
    *("--pipeline.model.warmup-length", 20, "--pipeline.model.refine-every", 20),
    *("--pipeline.model.reset-alpha-every", 5000, "--pipeline.model.resolution-schedule", 10),
    *("--pipeline.model.max-gs-num", 5000, "--pipeline.enhancer.strength", 1),
    *("--machine.device-type", "cpu", "--viewer.image-format", "png"),
)
"""A training that goes on as long as the tests look at it, fit for rounds after some hundred steps."""


@pytest.fixture(scope="module")
def training(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveTraining]:
    chromium()
    folder = tmp_path_factory.mktemp("live")
    scene = ("difix3d-splatfacto", "--data", tiny_scene, "--output-dir", folder, "--experiment-name", "scene")
    with live_training(folder / "log", PORT, *scene, *FLAGS) as training:
        yield training


@pytest.fixture(scope="module")
def tab(training: LiveTraining) -> Iterator[Tab]:
    with open_tab(900, 700) as tab:
        tab.page.add_init_script(SLOW_SCREEN)
        tab.page.goto(training.address)
        tab.page.get_by_text("difix3d-splatfacto", exact=True).wait_for(timeout=60_000)
        yield tab


def _picture(tab: Tab) -> np.ndarray:
    """What the canvas shows beside the panel, [H, W, 3] in [0, 1]."""
    box = tab.page.locator("canvas").last.bounding_box()
    content = tab.page.screenshot(clip={key: int(value) for key, value in box.items()})
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float32) / 255


def _until(holds: Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def _at_rest(tab: Tab) -> np.ndarray:
    """The picture once it stays the same for two seconds."""
    before = _picture(tab)
    deadline = time.monotonic() + 60
    same = 0
    while same < 4:
        assert time.monotonic() < deadline, "the picture does not come to rest"
        time.sleep(0.5)
        after = _picture(tab)
        same = same + 1 if np.abs(after - before).mean() < 1e-3 else 0
        before = after
    return before


def _text(tab: Tab, start: str) -> str:
    return " ".join(tab.page.get_by_text(start).first.inner_text().split())


def test_the_panel_is_there(tab: Tab) -> None:
    page = tab.page
    for label in ("Enhance", "Split", "Strength, %", "When", "Show pseudo-views", "Show references", "Show targets"):
        assert page.get_by_text(label, exact=True).first.is_visible(), label
    for button in (
        "First photo",
        "Render this view",
        "Run a fix round now",
        "Add a pseudo-view here",
        "Use this camera path as targets",
    ):
        assert page.get_by_role("button", name=button).is_visible(), button
    page.get_by_text("Fixer", exact=True).click()
    page.get_by_text("References", exact=True).wait_for()
    assert page.get_by_label("Name", exact=True).input_value() == "embedded"
    assert _text(tab, "Round 0 of").startswith("Round 0 of 2, 0 pseudo-views in the pool")


def test_buttons_add_views(training: LiveTraining, tab: Tab) -> None:
    training.wait_for("status", lambda status: status["step"] > 120, seconds=240)
    tab.page.get_by_role("button", name="Add a pseudo-view here").click()
    status = training.wait_for("status", lambda status: status["pool"] == 1)
    assert status["round"] == 0 and status["targets"] == 4
    tab.page.get_by_role("button", name="Run a fix round now").click()
    # three targets and the view that was added
    status = training.wait_for("status", lambda status: status["pool"] == 5)
    assert status["round"] == 1
    _until(
        lambda: "Round 1 of 2, 5 pseudo-views in the pool" in _text(tab, "Round 1 of"),
        "the panel does not tell of the round",
    )
    tab.page.get_by_text("Gallery", exact=True).last.click()
    pictures = tab.page.get_by_alt_text("made view")
    _until(lambda: pictures.count() >= 4, "the gallery stays empty")
    widths = pictures.evaluate_all("images => images.map(image => image.naturalWidth)")
    assert all(width > 100 for width in widths), widths
    message = " ".join(tab.page.get_by_text("change ").first.inner_text().split())
    assert re.search(r"change [\d.]+ %, confidence [\d.]+ %", message) and "frame_" in message, message
    address = "images => images.map(image => image.src)"
    before = pictures.evaluate_all(address)
    tab.page.get_by_text("Compare, %", exact=True).last.wait_for()
    slider = tab.page.locator(".mantine-Flex-root", has_text="Compare, %").last.get_by_role("slider")
    slider.focus()
    slider.press("Home")  # all of it the picture after
    _until(lambda: slider.get_attribute("aria-valuenow") == "0", "the slider does not move")
    _until(lambda: pictures.evaluate_all(address) != before, "the slider changes nothing")
    tab.page.get_by_text("Gallery", exact=True).last.click()


def test_a_view_is_kept_with_the_command_that_renders_it(training: LiveTraining, tab: Tab) -> None:
    tab.page.get_by_role("button", name="Render this view").click()
    command = tab.page.get_by_text("ns-render camera-path").first
    command.wait_for()
    words = shlex.split(command.inner_text())
    content = json.loads(Path(words[words.index("--camera-path-filename") + 1]).read_text())
    assert Path(words[words.index("--load-config") + 1]).is_file()
    assert max(content["render_width"], content["render_height"]) == 1920 and len(content["camera_path"]) == 1


def test_a_path_that_is_too_short_is_told(training: LiveTraining, tab: Tab) -> None:
    tab.page.get_by_role("button", name="Use this camera path as targets").click()
    tab.page.get_by_text("The path has fewer than two cameras").wait_for()
    assert training.ask("status")["targets"] == 4


def test_a_camera_path_becomes_targets(training: LiveTraining, tab: Tab) -> None:
    page = tab.page
    page.get_by_role("tab", name="Render").click()
    for turn in (0.0, 0.1):
        training.ask("look", turn=turn)
        time.sleep(1)
        page.get_by_role("button", name="Add Keyframe").click()
        time.sleep(0.5)
    page.get_by_role("tab", name="Control").click()
    page.get_by_role("button", name="Use this camera path as targets").click()
    status = training.wait_for("status", lambda status: status["targets"] == 3)
    assert status["pool"] == 5


def test_frusta_appear(training: LiveTraining, tab: Tab) -> None:
    page = tab.page
    page.get_by_role("button", name="Pause Training").click()
    training.wait_for("status", lambda status: status["state"] == "paused")
    page.get_by_role("button", name="Hide Train Cams").click()
    training.ask("look", back=10)
    page.mouse.move(2, 2)
    with_frusta = _at_rest(tab)
    page.get_by_label("Show pseudo-views", exact=True).click()
    _until(lambda: _changed(tab, with_frusta) > 50, "no frusta were there")
    without = _at_rest(tab)
    for label in ("Show pseudo-views", "Show targets"):
        page.get_by_label(label, exact=True).click()
        _until(lambda: _changed(tab, without) > 50, f"{label} shows nothing")
        page.get_by_label(label, exact=True).click()
        _until(lambda: _changed(tab, without) < 5, f"{label} hides nothing")


def _changed(tab: Tab, before: np.ndarray) -> int:
    """Pixels."""
    tab.page.mouse.move(2, 2)  # over a label a hint would lie on the picture
    return int((np.abs(_picture(tab) - before).max(-1) > 0.1).sum())


def _error(picture: np.ndarray, truth: Path) -> float:
    """Mean absolute difference from a photograph of the same vertical field of view."""
    height, width = picture.shape[:2]
    with Image.open(truth) as file:
        whole = file.convert("RGB").resize((round(height * file.width / file.height), height))
    photograph = np.asarray(whole, np.float32) / 255
    common = min(width, photograph.shape[1])
    cut = [p[:, (p.shape[1] - common) // 2 :][:, :common] for p in (picture, photograph)]
    small = [np.asarray(Image.fromarray((p * 255).astype(np.uint8)).resize((96, 96)), float) / 255 for p in cut]
    inner = slice(8, -8)  # the gizmo of the axes is in a corner
    return float(np.abs(small[0] - small[1])[inner, inner].mean())


def test_enhancing_brings_the_picture_closer_to_the_truth(training: LiveTraining, tab: Tab) -> None:
    page = tab.page
    training.ask("frames")
    errors = []
    for index in (0, 1, 2):
        truth = Path(training.ask("look", eval_index=index)["file"])
        raw = _at_rest(tab)
        page.get_by_label("Enhance", exact=True).click()
        _until(lambda: training.ask("frames")[-1:] == [["high", True]], "no enhanced frame came")
        enhanced = _at_rest(tab)
        assert "ms" in _text(tab, "Last enhanced frame:")
        page.get_by_label("Enhance", exact=True).click()
        back = _at_rest(tab)
        assert np.abs(back - raw).mean() < 2e-3 < np.abs(enhanced - raw).mean()
        errors.append((_error(raw, truth), _error(enhanced, truth)))
        training.ask("frames", clear=True)
    raw_error, enhanced_error = np.mean(errors, axis=0)
    assert enhanced_error < raw_error, errors


def test_split_shows_both(training: LiveTraining, tab: Tab) -> None:
    page = tab.page
    raw = _at_rest(tab)
    page.get_by_label("Split", exact=True).first.click()
    _until(lambda: training.ask("frames")[-1:] == [["high", True]], "no enhanced frame came")
    both = _at_rest(tab)
    third = raw.shape[1] // 3
    change = np.abs(both - raw).mean((0, 2))
    assert change[:third].mean() < 2e-3 < change[-third:].mean()
    page.get_by_label("Split", exact=True).first.click()
    assert np.abs(_at_rest(tab) - raw).mean() < 2e-3


def test_a_moving_camera_shows_renders_and_then_the_enhanced_picture(training: LiveTraining, tab: Tab) -> None:
    page = tab.page
    page.get_by_label("Enhance", exact=True).click()
    _until(lambda: training.ask("frames")[-1:] == [["high", True]], "no enhanced frame came")
    training.ask("frames", clear=True)
    page.mouse.move(200, 300)
    page.mouse.down()
    for x in range(200, 260, 5):
        page.mouse.move(x, 300)
        time.sleep(0.05)
    page.mouse.up()
    _until(lambda: training.ask("frames")[-1:] == [["high", True]], "the enhanced picture does not follow")
    frames = training.ask("frames")
    assert not any(enhanced for state, enhanced in frames if state != "high"), frames
    assert frames.index(["high", True]) > frames.index(["low_move", False]), frames


def test_an_error_of_the_fixer_is_shown_and_ends_nothing(training: LiveTraining, tab: Tab) -> None:
    page = tab.page
    weights = page.locator(".mantine-Flex-root", has_text="Weights").last.locator("input")  # its label is not linked
    weights.fill("/nowhere/<{weights}>.safetensors")
    page.get_by_role("button", name="Use these weights").click()
    page.get_by_text("The enhancer failed, this is the render.").wait_for(timeout=60_000)
    assert page.get_by_text("UserError: the fixer 'embedded' cannot be loaded").is_visible()
    weights.fill("")
    training.ask("frames", clear=True)
    page.get_by_role("button", name="Use these weights").click()
    _until(lambda: training.ask("frames")[-1:] == [["high", True]], "the enhancer does not recover")
    page.get_by_role("button", name="Resume Training").click()
    step = training.ask("status")["step"]
    training.wait_for("status", lambda status: status["step"] > step + 20)


def test_a_second_tab_and_its_end(training: LiveTraining, tab: Tab) -> None:
    with another_tab(tab, 600, 500) as other:
        other.page.add_init_script(SLOW_SCREEN)
        other.page.goto(training.address)
        training.wait_for("status", lambda status: status["tabs"] == 2)
        training.wait_for("status", lambda status: status["enhancing"] == 2)
    training.wait_for("status", lambda status: status["tabs"] == 1)
    step = training.ask("status")["step"]
    training.wait_for("status", lambda status: status["step"] > step + 20)


def test_nothing_went_wrong_that_does_not_without_the_plugin(
    training: LiveTraining, tab: Tab, tiny_scene: Path, tmp_path: Path
) -> None:
    scene = ("difix3d-splatfacto", "--data", tiny_scene, "--output-dir", tmp_path, "--experiment-name", "scene")
    with (
        live_training(tmp_path / "log", PORT + 1, "--without-panel", *scene, *FLAGS) as plain,
        another_tab(tab, 900, 700) as other,
    ):
        other.page.goto(plain.address)
        other.page.get_by_text("Pause Training").wait_for(timeout=60_000)
        assert other.page.get_by_text("difix3d-splatfacto", exact=True).count() == 0
        time.sleep(10)
    assert set(tab.errors) <= set(other.errors)
    assert "Traceback" not in training.said
    assert "Viewer failed" not in training.said
