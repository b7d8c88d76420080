"""The enhancer beside the render threads of the viewer: who waits, what is shown, what is forgotten."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.ns.model import Outputs
from difix3d_ns.ns.viewer.live import LiveEnhancer
from difix3d_ns.ns.viewer.panel import Panel
from tests.unit.tiny_splat import tiny_camera


class _Tab(RenderStateMachine):
    """nerfstudio's render thread, not started, which notes what it is asked for."""

    def __init__(self, state: str = "high") -> None:
        super().__init__(self, 10.0, None)  # type: ignore[arg-type]  # it is its own viewer
        self.state = state  # type: ignore[assignment]
        self.asked = threading.Semaphore(0)

    def get_camera_state(self, client: Any) -> None:
        return None

    def action(self, action: Any) -> None:
        assert action.action == "step"  # which neither moves nor interrupts
        self.asked.release()

    def wait(self) -> bool:
        return self.asked.acquire(timeout=10)


def _camera(x: float = 0.0) -> Pinhole:
    pose = torch.eye(4)
    pose[0, 3] = x
    return Pinhole(pose, torch.tensor([[10.0, 0, 4], [0, 10, 3], [0, 0, 1]]), 8, 6)


def _render(value: float = 0.5) -> Tensor:
    return torch.full((6, 8, 3), value)


class _Fixer:
    """Adds 0.25, when it is let."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.calls = 0
        self.threads: set[str] = set()
        self.callers: list[Any] = []

    def __call__(self, camera: Pinhole, image: Tensor, caller: Any) -> Tensor:
        self.callers.append(caller)
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(10)
        self.calls += 1
        if self.error is not None:
            raise self.error
        return image + 0.25


@pytest.fixture
def fixer() -> _Fixer:
    return _Fixer()


def _shown(live: LiveEnhancer, tab: _Tab, value: float = 0.5, x: float = 0.0) -> float:
    return float(live.picture(tab, _camera(x), _render(value)).mean())


def test_the_render_at_once_and_then_the_enhanced_picture(fixer: _Fixer) -> None:
    live, tab = LiveEnhancer(fixer), _Tab()
    frames = []
    live.on_frame = lambda *frame: frames.append(frame)
    fixer.gate.clear()
    assert _shown(live, tab) == 0.5  # does not wait
    fixer.gate.set()
    assert tab.wait() and _shown(live, tab) == 0.75
    assert _shown(live, tab) == 0.75 and fixer.calls == 1
    assert threading.current_thread().name not in fixer.threads
    assert frames[0][0] > 0 and frames[0][1:] == (8, 6)


@pytest.mark.parametrize("state", ["low_move", "low_static"])
def test_moving_views_are_renders(state: str, fixer: _Fixer) -> None:
    live, tab = LiveEnhancer(fixer), _Tab(state)
    assert _shown(live, tab) == 0.5 and fixer.calls == 0


def test_after_a_move_nothing_old_is_shown(fixer: _Fixer) -> None:
    live, tab = LiveEnhancer(fixer), _Tab()
    _shown(live, tab)
    assert tab.wait()
    tab.state = "low_move"
    _shown(live, tab)
    tab.state = "high"
    fixer.gate.clear()
    assert _shown(live, tab) == 0.5
    fixer.gate.set()


def test_always(fixer: _Fixer) -> None:
    live, tab = LiveEnhancer(fixer), _Tab("low_move")
    live.always = True
    assert _shown(live, tab) == 0.75
    assert fixer.threads == {threading.current_thread().name}
    assert fixer.callers == [tab]  # whose frames follow each other


def test_while_training_goes_on_the_last_picture_stays(fixer: _Fixer) -> None:
    live, tab = LiveEnhancer(fixer), _Tab()
    _shown(live, tab)
    assert tab.wait()
    assert _shown(live, tab, value=0.1) == 0.75  # the frame that was asked for, of a splat that has changed meanwhile
    assert fixer.calls == 1
    assert _shown(live, tab, value=0.2) == 0.75  # nerfstudio's next one
    assert tab.wait() and _shown(live, tab, value=0.2) == pytest.approx(0.45)
    assert _shown(live, tab, value=0.2, x=1.0) == pytest.approx(0.2)  # from elsewhere


def test_other_settings(fixer: _Fixer) -> None:
    live, tab = LiveEnhancer(fixer), _Tab()
    _shown(live, tab)
    assert tab.wait()
    live.settings_changed()
    fixer.gate.clear()
    assert _shown(live, tab) == 0.5
    fixer.gate.set()
    assert tab.wait() and _shown(live, tab) == 0.75 and fixer.calls == 2


def test_an_error_is_told_once_and_passes(fixer: _Fixer, capsys: pytest.CaptureFixture[str]) -> None:
    live, tab = LiveEnhancer(fixer), _Tab()
    told = threading.Event()
    errors: list[Exception] = []

    def tell(error: Exception) -> None:
        errors.append(error)
        told.set()

    live.on_error = tell
    fixer.error = RuntimeError("no weights")
    assert _shown(live, tab) == 0.5
    assert told.wait(10) and str(errors[0]) == "no weights"
    for _ in range(100):  # the error is known to the tab a moment after it was told
        if live._tabs[tab].failed is not None:
            break
        threading.Event().wait(0.05)
    assert _shown(live, tab) == 0.5 and _shown(live, tab, value=0.4) == pytest.approx(0.4)
    assert fixer.calls == 1  # not again and again
    fixer.error = None
    live.settings_changed()
    _shown(live, tab)
    assert tab.wait() and _shown(live, tab) == 0.75
    live.always, fixer.error = True, RuntimeError("again")
    assert _shown(live, tab) == 0.5


def test_two_tabs_are_served_in_turn(fixer: _Fixer) -> None:
    live, one, other = LiveEnhancer(fixer), _Tab(), _Tab()
    _shown(live, one, 0.1)
    _shown(live, other, 0.2)
    assert one.wait() and other.wait()
    assert _shown(live, one, 0.1) == pytest.approx(0.35) and _shown(live, other, 0.2) == pytest.approx(0.45)


def test_a_closed_tab_can_be_forgotten_before_its_thread_is_gone(fixer: _Fixer) -> None:
    live, tab, other = LiveEnhancer(fixer), _Tab(), _Tab()
    for each in (tab, other):
        _shown(live, each)
        assert each.wait()
    tab.running = False
    live.forget_closed()
    assert list(live._tabs) == [other]
    assert _shown(live, tab) == 0.5 and list(live._tabs) == [other]


def test_always_gives_up_where_the_fixer_fails_until_something_changes(fixer: _Fixer) -> None:
    live = LiveEnhancer(fixer)
    live.always, fixer.error = True, RuntimeError("no weights")
    assert [_shown(live, _Tab(), value) for value in (0.5, 0.25)] == [0.5, 0.25] and fixer.calls == 1
    fixer.error = None
    live.settings_changed()
    assert _shown(live, _Tab()) == 0.75


def _wait(holds: Callable[[], bool]) -> bool:
    for _ in range(200):
        gc.collect()
        if holds():
            return True
        threading.Event().wait(0.05)
    return False


def test_a_closed_tab_is_forgotten_even_in_the_middle_of_a_picture(fixer: _Fixer) -> None:
    live, tab, other = LiveEnhancer(fixer), _Tab(), _Tab()
    fixer.gate.clear()
    _shown(live, tab)
    tab.running = False
    gone = weakref.ref(tab)
    del tab
    fixer.gate.set()
    assert _wait(lambda: gone() is None and len(live._tabs) == 0)
    _shown(live, other)
    assert other.wait() and _shown(live, other) == 0.75


def test_a_tab_gets_the_picture_of_its_own(fixer: _Fixer) -> None:
    """The viewer's render thread, patched to ask the pipeline's panel, shows what the enhancer made for this tab."""
    tab = _Tab()
    panel = Panel.__new__(Panel)
    panel.live, panel._enhancer_controls = LiveEnhancer(fixer), None
    plain = {"rgb": _render(), "depth": torch.ones(6, 8, 1)}
    assert panel.serve(tab, plain) is plain  # nothing to enhance

    def elsewhere() -> Tensor:
        raise AssertionError("the enhancer of ns-eval was asked in the viewer")

    def outputs() -> Outputs:
        return Outputs(plain, {"enhanced": elsewhere}, tiny_camera(8, 6), plain["rgb"])

    assert float(panel.serve(tab, outputs())["enhanced"].mean()) == 0.5
    assert tab.wait() and float(panel.serve(tab, outputs())["enhanced"].mean()) == 0.75
    assert float(panel.serve(_Tab(), outputs())["enhanced"].mean()) == 0.5  # another tab waits for its own


def test_render_threads_ask_the_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    from difix3d_ns.ns.patches import viewer_tabs

    tab = _Tab()
    monkeypatch.setattr(viewer_tabs, "_render_img", lambda self, state: {"rgb": state})
    tab.pipeline = SimpleNamespace()  # type: ignore[attr-defined]  # of another plugin
    assert tab._render_img("seen") == {"rgb": "seen"}  # type: ignore[arg-type]
    tab.pipeline = SimpleNamespace(panel=SimpleNamespace(serve=lambda tab, outputs: outputs | {"tab": tab}))  # type: ignore[attr-defined]
    assert tab._render_img("seen") == {"rgb": "seen", "tab": tab}  # type: ignore[arg-type]
