"""A real browser for tests of pages: Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = [
    "--no-sandbox",  # root in a container has none
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU, for the viewer
]


SLOW_SCREEN = """
const draw = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = callback => setTimeout(() => draw(callback), 90);
"""
"""Script that makes a page draw ten times a second: without a GPU drawing takes the processor from what is tested."""


@dataclass
class Tab:
    """An open tab and what went wrong in it."""

    page: Any  # playwright.sync_api.Page
    errors: list[str] = field(default_factory=list)
    """what the console showed as an error, and exceptions nobody caught"""
    requests: list[str] = field(default_factory=list)
    """addresses of everything that was fetched, but for data: and blob:"""


def chromium() -> str:
    """Path of the browser; skips the test where there is none."""
    path = os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no browser found: apt-get install chromium (or set CHROMIUM to one)")
    return path


@contextmanager
def open_tab(width: int = 1280, height: int = 800, offline: bool = False, **options: Any) -> Iterator[Tab]:
    """A tab of a fresh browser, closed at the end; skips the test where no browser is found.

    Args:
        width: of the page, CSS pixels.
        height: of the page, CSS pixels.
        offline: whether the browser has no network.
        options: of Playwright's ``new_context``, such as has_touch, color_scheme or device_scale_factor.
    """
    path = chromium()
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        try:
            context = browser.new_context(viewport={"width": width, "height": height}, offline=offline, **options)
            yield _watched(context.new_page())
        finally:
            browser.close()


@contextmanager
def another_tab(tab: Tab, width: int = 1280, height: int = 800) -> Iterator[Tab]:
    """A second tab of the same browser, which shares nothing with the first; closed at the end."""
    context = tab.page.context.browser.new_context(viewport={"width": width, "height": height})
    try:
        yield _watched(context.new_page())
    finally:
        context.close()


def _watched(page: Any) -> Tab:
    tab = Tab(page)
    page.on("console", lambda said: tab.errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: tab.errors.append(str(error)))
    page.on("request", lambda request: _note(tab, request.url))
    return tab


def _note(tab: Tab, address: str) -> None:
    if not address.startswith(("data:", "blob:")):
        tab.requests.append(address)
