"""The report in a browser: sliders move, nothing is fetched, it fits a telephone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from difix3d_ns.evaluation.report import write_report
from tests.browser import Tab, open_tab
from tests.unit.fabricated_run import views, write_config, write_curves, write_fixes

pytestmark = pytest.mark.slow

PHONE: dict[str, Any] = {"width": 390, "height": 844, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with red renders, green enhanced and blue true pictures."""
    folder = tmp_path_factory.mktemp("report") / "outputs" / "scene" / "difix3d-splatfacto" / "run"
    write_config(folder)
    write_curves(folder)
    write_fixes(folder)
    plain = views(2)
    return write_report(folder, None, views(2), plain, {"plain": {"psnr": 20.123}, "difix3d": {"psnr": 21.0}}, "Scene")


@pytest.fixture
def tab(page: Path) -> Iterator[Tab]:
    """The report without a network; at the end nothing may have gone wrong in it."""
    with open_tab(offline=True) as tab:
        yield _opened(tab, page)


def _opened(tab: Tab, page: Path) -> Tab:
    tab.page.goto(page.as_uri())
    tab.page.get_by_text("Render | Enhanced").first.click()
    tab.page.mouse.move(0, 0)
    return tab


def _shares(tab: Tab) -> dict[str, float]:
    """Shares of red, green and blue in the first slider, without its bar and names."""
    frames = tab.page.locator(".frames").first
    frames.scroll_into_view_if_needed()
    pixels = np.asarray(Image.open(io.BytesIO(frames.screenshot())).convert("RGB")).astype(int)
    middle = pixels[10 : len(pixels) // 3]
    near = {n: (np.abs(middle - c).max(-1) < 40).mean() for n, c in zip("rgb", 255 * np.eye(3), strict=True)}
    return {name: float(value) for name, value in near.items()}


def _at(tab: Tab) -> float:
    return float(tab.page.locator(".frames input").first.input_value())


def test_nothing_is_fetched_and_nothing_fails(tab: Tab, page: Path) -> None:
    tab.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    for fold in tab.page.locator("summary").all():
        fold.click()
    tab.page.wait_for_function("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert tab.page.locator("img").count() > 10
    assert tab.requests == [page.as_uri()]
    assert tab.errors == []


def test_the_bar_is_dragged_with_the_mouse(tab: Tab) -> None:
    half = _shares(tab)
    assert half["r"] == pytest.approx(0.5, abs=0.05) and half["g"] == pytest.approx(0.5, abs=0.05)
    box = tab.page.locator(".frames").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    tab.page.mouse.move(box["x"] + box["width"] / 2, middle)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=5)
    tab.page.mouse.up()
    dragged = _shares(tab)
    assert dragged["r"] == pytest.approx(0.8, abs=0.04)
    assert dragged["g"] == pytest.approx(0.2, abs=0.04)
    tab.page.mouse.move(box["x"] + 5, middle)  # let go: it stays
    assert _shares(tab) == pytest.approx(dragged, abs=0.02)


def test_the_bar_is_moved_with_the_keys(tab: Tab) -> None:
    tab.page.locator(".frames input").first.focus()
    for _ in range(10):
        tab.page.keyboard.press("ArrowLeft")
    assert _at(tab) == 40
    assert _shares(tab)["r"] == pytest.approx(0.4, abs=0.04)
    tab.page.keyboard.press("End")
    assert _shares(tab)["r"] > 0.97
    tab.page.keyboard.press("Home")
    assert _shares(tab)["g"] > 0.97


@pytest.mark.parametrize("way", ["mouse", "keys"])
def test_a_view_is_magnified_and_the_bar_stays_where_it_is(tab: Tab, way: str) -> None:
    frames, scale = tab.page.locator(".frames").first, "image => new DOMMatrix(getComputedStyle(image).transform).a"
    frames.scroll_into_view_if_needed()
    box = frames.bounding_box()
    place = {"x": box["width"] * 0.3, "y": box["height"] * 0.6}
    (frames.dblclick if way == "mouse" else frames.click)(position=place)
    if way == "keys":
        tab.page.keyboard.press("+")
        tab.page.keyboard.press("+")
    assert {image.evaluate(scale) for image in frames.locator("img:not([hidden])").all()} == {4}
    for share in (0.3, 0.7):
        tab.page.mouse.click(box["x"] + box["width"] * share, box["y"] + 5)
        shares = _shares(tab)
        assert shares["r"] == pytest.approx(share, abs=0.04) and shares["g"] == pytest.approx(1 - share, abs=0.04)
    tab.page.wait_for_timeout(600)  # or it is the second half of a double click
    if way == "mouse":
        frames.dblclick(position=place)
    else:
        tab.page.keyboard.press("-")
        tab.page.keyboard.press("-")
        tab.page.keyboard.press("-")
    assert {image.evaluate(scale) for image in frames.locator("img:not([hidden])").all()} == {1}
    assert tab.errors == []


def test_the_keyboard_reaches_every_slider_and_shows_where_it_is(tab: Tab) -> None:
    tab.page.locator("nav a").last.focus()
    reached, outlined = 0, 0
    for _ in range(12):
        tab.page.keyboard.press("Tab")
        on_slider = tab.page.evaluate("document.activeElement.type === 'range'")
        reached += on_slider
        outlined += on_slider and tab.page.evaluate(
            "getComputedStyle(document.activeElement.parentElement).outlineStyle === 'solid'"
        )
    assert reached >= 2
    assert outlined == reached


def test_another_pair_is_chosen_for_all_sliders(tab: Tab) -> None:
    tab.page.get_by_text("Enhanced | Truth").click()
    assert _shares(tab) == pytest.approx({"r": 0, "g": 0.5, "b": 0.5}, abs=0.05)
    names = tab.page.locator(".gallery").first.locator(".tag.right").all_text_contents()
    assert names == ["Truth", "Truth"]
    label = tab.page.locator(".frames input").first.get_attribute("aria-label")
    assert label.startswith("Enhanced on the left, Truth on the right")
    assert not tab.page.get_by_text("FLIP: what people notice").is_visible()
    tab.page.get_by_text("Error of render | Error of enhanced").click()
    assert tab.page.get_by_text("FLIP: what people notice").is_visible()
    assert _shares(tab)["r"] < 0.1


def test_pseudo_views_are_folded_by_round_and_keep_their_own_choice(tab: Tab) -> None:
    folds = tab.page.locator("#section-2 details")
    assert folds.count() == 2
    assert [fold.get_attribute("open") is not None for fold in folds.all()] == [True, False]
    assert "Round 2" in folds.first.inner_text()
    folds.first.get_by_text("Fixed | Reference").click()
    assert set(folds.first.locator(".tag.right").all_text_contents()) == {"Reference"}
    assert set(folds.last.locator(".tag.right").all_text_contents()) == {"Fixed"}
    assert tab.page.locator(".tag.right").first.text_content() == "Enhanced"


def test_curves_tell_their_values_at_the_pointer(tab: Tab) -> None:
    chart = tab.page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg").first.bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)
    assert "photos 1, pseudo-views 0.1" in chart.locator(".reading").inner_text()
    tab.page.mouse.move(0, 0)
    assert "photos" not in chart.locator(".reading").inner_text()


def test_a_finger_moves_the_bar(page: Path) -> None:
    with open_tab(**PHONE) as tab:
        _opened(tab, page)
        frames = tab.page.locator(".frames").first
        frames.scroll_into_view_if_needed()
        box = frames.bounding_box()
        session = tab.page.context.new_cdp_session(tab.page)

        def touch(kind: str, *places: float) -> None:
            points = [{"x": box["x"] + box["width"] * x, "y": box["y"] + box["height"] / 2} for x in places]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", 0.5)
        for place in (0.45, 0.4, 0.3, 0.25):
            touch("touchMove", place)
        touch("touchEnd")
        assert _at(tab) == pytest.approx(25, abs=1)
        assert _shares(tab)["r"] == pytest.approx(0.25, abs=0.04)
        assert tab.errors == []


@pytest.mark.parametrize("width", [320, 390, 768])
def test_the_page_never_scrolls_sideways(page: Path, width: int) -> None:
    with open_tab(**PHONE | {"width": width}) as tab:
        _opened(tab, page)
        for fold in tab.page.locator("summary").all():
            fold.evaluate("summary => summary.parentElement.open = true")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        tab.page.evaluate("scrollTo(500, 0)")
        assert tab.page.evaluate("scrollX") == 0
        widest = tab.page.locator(".frames").first.bounding_box()
        assert widest["x"] >= 0 and widest["x"] + widest["width"] <= width


def test_it_is_dark_where_people_want_that(page: Path) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        with open_tab(color_scheme=scheme) as tab:
            _opened(tab, page)
            ground = np.asarray(Image.open(io.BytesIO(tab.page.screenshot())).convert("L"))[:40]
            brightness[scheme] = float(ground.mean())
    assert brightness["light"] > 230
    assert brightness["dark"] < 40
