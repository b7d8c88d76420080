"""Screenshots of the viewer and the report for the docs: ``make screenshots``.

Trains on the demo scene with the viewer open, looks at it in Chromium, and writes into ``docs/images``. Only the
procedural scene is shown.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser import Tab, open_tab
from tests.live_training import LiveTraining, live_training

IMAGES = Path(__file__).parent / "images"
SIZE = 1280, 800
PORT = 7447
SHARP = "Object.defineProperty(window, 'devicePixelRatio', {get: () => 2.5})"
"""viser draws with fewer pixels where the browser is slow, and without a GPU it is; the page itself stays as it is"""


def main() -> None:
    """Write viewer.jpg, loop.jpg, report.jpg and report-phone.jpg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo/screenshots"), help="folder for scene and training")
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    scene = options.output / "scene"
    if not (scene / "transforms.json").exists():
        from difix3d_ns.data.procedural import demo_scene

        demo_scene(scene, seed=0)
    shutil.rmtree(options.output / "outputs", ignore_errors=True)
    run = ("--output-dir", options.output / "outputs", "--experiment-name", "demo", "--timestamp", "run")
    flags = ("difix3d-splatfacto", "--data", scene, *run, "--max-num-iterations", options.steps)
    with live_training(options.output.absolute() / "log", PORT, *map(_absolute, flags)) as training:
        training.wait_for("status", lambda status: status["state"] == "completed", seconds=3600)
        with open_tab(*SIZE) as tab:
            tab.page.add_init_script(SHARP)
            tab.page.goto(training.address)
            tab.page.get_by_text("difix3d-splatfacto", exact=True).wait_for(timeout=120_000)
            _viewer(training, tab)
            _loop(training, tab)
    _report(options.output / "outputs" / "demo" / "difix3d-splatfacto" / "run")


def _absolute(flag: object) -> object:
    return flag.absolute() if isinstance(flag, Path) else flag


def _viewer(training: LiveTraining, tab: Tab) -> None:
    page = tab.page
    page.get_by_role("button", name="Hide Train Cams").click()
    page.get_by_label("Show pseudo-views", exact=True).click()
    training.ask("look", eval_index=3)
    training.ask("frames")
    page.get_by_label("Split", exact=True).first.click()
    while training.ask("frames")[-1:] != [["high", True]]:
        time.sleep(0.5)
    page.mouse.move(300, 700)  # away from the hints
    time.sleep(8)
    _shoot(tab, "viewer")
    page.get_by_label("Split", exact=True).first.click()


def _loop(training: LiveTraining, tab: Tab) -> None:
    page = tab.page
    page.get_by_label("Show pseudo-views", exact=True).click()
    page.get_by_label("Show references", exact=True).click()
    page.get_by_label("Round", exact=True).click()
    page.get_by_role("option", name="2", exact=True).click()
    page.get_by_text("Gallery", exact=True).click()
    training.ask("look", eval_index=3, back=9)
    page.get_by_text("Pseudo-views", exact=True).evaluate("e => e.scrollIntoView()")
    time.sleep(12)
    page.get_by_label("Show references", exact=True).evaluate("e => e.scrollIntoView()")
    page.mouse.move(300, 700)
    time.sleep(3)
    _shoot(tab, "loop")


def _report(run: Path) -> None:
    import subprocess

    page = run / "report.html"
    subprocess.run(
        [str(Path(sys.executable).parent / "difix3d"), "report", str(run), "--output", str(page)], check=True
    )
    for name, (width, height), options in (
        ("report", (1280, 1300), {}),
        ("report-phone", (390, 800), {"device_scale_factor": 2}),
    ):
        with open_tab(width, height, offline=True, **options) as tab:
            tab.page.goto(page.absolute().as_uri())
            time.sleep(2)
            _shoot(tab, name)


def _shoot(tab: Tab, name: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    picture = Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB")
    picture.save(IMAGES / f"{name}.jpg", quality=85, optimize=True)
    print(IMAGES / f"{name}.jpg")


if __name__ == "__main__":
    main()
