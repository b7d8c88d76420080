"""The enhancer in a live viewer: the render at once, the enhanced picture as soon as it is ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.render_state_machine import RenderAction, RenderStateMachine
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole


@dataclass(frozen=True)
class ShownFrame:
    """A render and where it was seen from."""

    camera: Pinhole
    image: Tensor  # [H, W, 3]
    version: int  # of the settings

    def same_place(self, other: ShownFrame) -> bool:
        """Return whether another frame shows the same view at the same size, perhaps of a splat trained further."""
        ours, theirs = self.camera, other.camera
        return (
            (self.version, ours.width, ours.height) == (other.version, theirs.width, theirs.height)
            and torch.equal(ours.camera_to_world, theirs.camera_to_world)
            and torch.equal(ours.intrinsics, theirs.intrinsics)
        )

    def same(self, other: ShownFrame) -> bool:
        """Return whether another frame is the very same picture."""
        return self.same_place(other) and torch.equal(self.image, other.image)


@dataclass
class _Tab:
    """State of a browser tab: the frame it waits for and the one it got."""

    requested: ShownFrame | None = None
    done: tuple[ShownFrame, Tensor] | None = None
    failed: ShownFrame | None = None  # not tried again until something changes
    to_show: bool = False  # the next frame is requested to show what is done, not because anything changed


class LiveEnhancer:
    """Repairer of resting views of each browser tab in a thread of its own.

    A render thread never waits for the fixer, so the camera moves as without the plugin. When a picture is ready the
    tab's render thread is sent for another frame, as nerfstudio does after training steps.

    Args:
        enhance: makes the enhanced picture [H, W, 3] of camera and render, and gets whose frames follow each other;
            called from that thread, or from a render thread if ``always``.
    """

    def __init__(self, enhance: Callable[[Pinhole, Tensor, Any], Tensor]) -> None:
        self._enhance = enhance
        self.always = False
        """enhance moving views as well; every frame then waits for the fixer"""
        self.on_frame: Callable[[float, int, int], None] = lambda seconds, width, height: None
        """called with each enhanced picture's seconds, width and height"""
        self.on_error: Callable[[Exception], None] = lambda error: None
        """called when the fixer fails; the render is shown instead"""
        self._tabs: WeakKeyDictionary[RenderStateMachine, _Tab] = WeakKeyDictionary()
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._version = 0
        self._failed_always = -1
        self._message = ""  # of the latest failure

    def settings_changed(self) -> None:
        """Stop showing what was enhanced before."""
        with self._changed:
            self._version += 1

    def forget_closed(self) -> None:
        """Let go of tabs that were closed; their threads may linger until Python collects its garbage."""
        with self._changed:
            for thread in list(self._tabs):
                if not thread.running:
                    del self._tabs[thread]

    def picture(self, thread: RenderStateMachine, camera: Pinhole, image: Tensor) -> Tensor:
        """Return the enhanced picture [H, W, 3] if it is there, else the render; never raises."""
        frame = ShownFrame(camera, image, self._version)
        if self.always:
            if self._failed_always == frame.version:
                return image  # not again for every frame
            enhanced = self._attempt(frame, thread)
            if enhanced is None:
                self._failed_always = frame.version
            return image if enhanced is None else enhanced
        with self._changed:
            if not thread.running:  # its last frame, which nobody sees
                return image
            tab = self._tabs.setdefault(thread, _Tab())
            if thread.state != "high":  # it moves, or has just come to rest
                tab.requested = tab.done = tab.failed = None
                return image
            to_show, tab.to_show = tab.to_show, False
            if tab.done is not None and (tab.done[0].same(frame) or (to_show and tab.done[0].same_place(frame))):
                return tab.done[1]
            if tab.failed is None or not tab.failed.same_place(frame):
                tab.requested = frame
                self._start()
                self._changed.notify()
            # While training goes on, the picture of some steps ago beats a flickering render.
            return tab.done[1] if tab.done is not None and tab.done[0].same_place(frame) else image

    def _start(self) -> None:
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(target=self._run_worker, name="difix3d-enhancer", daemon=True)
            self._worker.start()

    def _next_job(self) -> tuple[RenderStateMachine, ShownFrame] | None:
        """Take the request of the tab that was served longest ago."""
        for thread, tab in list(self._tabs.items()):
            frame, tab.requested = tab.requested, None
            if not thread.running:  # the tab was closed
                del self._tabs[thread]
            elif frame is not None:
                self._tabs[thread] = self._tabs.pop(thread)
                return thread, frame
        return None

    def _run_worker(self) -> None:
        while True:
            with self._changed:
                while (job := self._next_job()) is None:
                    self._changed.wait()
            self._serve(*job)
            del job  # a closed tab is not kept until the next job comes

    def _serve(self, thread: RenderStateMachine, frame: ShownFrame) -> None:
        enhanced = self._attempt(frame)
        with self._changed:
            tab = self._tabs.get(thread)
            if tab is None or frame.version != self._version:
                return
            if enhanced is None:
                tab.failed = frame
                return
            tab.done, tab.to_show = (frame, enhanced), True
        self._show(thread)

    def _attempt(self, frame: ShownFrame, caller: Any = None) -> Tensor | None:
        started = time.perf_counter()
        try:
            enhanced = self._enhance(frame.camera, frame.image, caller)
            if enhanced.is_cuda:
                torch.cuda.synchronize()
        except Exception as error:  # the render thread must survive whatever a fixer does
            if str(error) != self._message:  # once, not for every view
                CONSOLE.log(f"[yellow]The enhancer failed, showing the plain render: {error}")
            self._message = str(error)
            self.on_error(error)
            return None
        self.on_frame(time.perf_counter() - started, enhanced.shape[1], enhanced.shape[0])
        return enhanced

    @staticmethod
    def _show(thread: RenderStateMachine) -> None:
        if thread.running:
            thread.action(RenderAction("step", thread.viewer.get_camera_state(thread.client)))
