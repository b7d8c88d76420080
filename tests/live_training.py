"""A real training with its viewer in a process of its own, that a test can ask and direct.

``python -m tests.live_training FLAGS...`` is ``ns-train FLAGS...``; it answers lines of JSON on standard input. With
``--without-panel`` as the first flag the viewer is nerfstudio's own, without what the plugin adds.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tests.commands import forked, prepare

_MARK = "ANSWER "
_SURROUNDINGS = {
    **{"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},  # a browser without a GPU needs a core for itself
    "MALLOC_ARENA_MAX": "2",  # or each new thread may leave an arena of its own behind, which hides what leaks
}


class LiveTraining:
    """The test's end of it."""

    def __init__(self, questions: TextIO, answers: Path, port: int, log: Path) -> None:
        self._questions = questions
        self._pipe = answers
        self._log = log
        self.address = f"http://localhost:{port}"
        self._answers: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, question: str, **arguments: Any) -> Any:
        """The answer of a function below by that name."""
        self._questions.write(json.dumps([question, arguments]) + "\n")
        self._questions.flush()
        try:
            return self._answers.get(timeout=120)
        except queue.Empty:
            raise AssertionError(f"no answer to {question}: {self.said[-3000:]}") from None

    def wait_for(self, question: str, enough: Any, seconds: float = 120, **arguments: Any) -> Any:
        """Ask until the answer is as wanted."""
        deadline = time.monotonic() + seconds
        while not enough(answer := self.ask(question, **arguments)):
            assert time.monotonic() < deadline, f"{question} stays {answer}: {self.said[-3000:]}"
            time.sleep(0.1)
        return answer

    @property
    def said(self) -> str:
        """All its output."""
        return self._log.read_text()

    def _read(self) -> None:
        with os.fdopen(os.open(self._pipe, os.O_RDWR)) as output, self._log.open("w") as log:
            for line in output:
                if line.startswith(_MARK):
                    self._answers.put(json.loads(line[len(_MARK) :]))
                else:
                    log.write(line)
                    log.flush()


@contextmanager
def live_training(log: Path, port: int, *flags: object) -> Iterator[LiveTraining]:
    """Start ``ns-train`` with a viewer on a port; killed at the end."""
    prepare(_SURROUNDINGS)
    command = ("-m", "tests.live_training", *flags, "--viewer.websocket-port", port)
    questions, answers = (log.with_name(f"{log.name}.{name}") for name in ("questions", "answers"))
    for pipe in (questions, answers):
        os.mkfifo(pipe)
    # opened for both directions, a pipe waits for nobody: not even for a process that died before it opened its end
    with (
        forked(command, answers, _SURROUNDINGS, Path(__file__).parents[1], questions),
        os.fdopen(os.open(questions, os.O_RDWR), "w") as asked,
    ):
        training = LiveTraining(asked, answers, port, log)
        training.wait_for("status", lambda status: status["ready"], seconds=240)
        yield training


class _Server:
    """The process's end of it."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self._steps: list[int] = []

    def status(self) -> dict[str, Any]:
        viewer = getattr(self.trainer, "viewer_state", None)
        if viewer is None or not viewer.ready:
            return {"ready": False}
        guidance = self.trainer.pipeline.guidance
        ready = hasattr(guidance, "pool") and hasattr(self.trainer, "step")
        return {
            "ready": ready,
            "step": getattr(self.trainer, "step", -1),
            "state": self.trainer.training_state,
            "round": guidance.round if ready else 0,
            "pool": len(guidance.pool) if ready else 0,
            "targets": len(guidance.targets) if ready else 0,
            "tabs": len(viewer.render_statemachines),
            "enhancing": len(self.trainer.pipeline.panel.live._tabs),
            "threads": sorted(f"{type(thread).__name__} {thread.name}" for thread in threading.enumerate()),
        }

    def memory(self) -> float:
        """Resident MiB, after what can be freed was freed."""
        import ctypes

        import psutil

        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        return psutil.Process().memory_info().rss / 2**20

    def count_steps(self) -> list[int]:
        """Training steps since training began."""
        return list(self._steps)

    def watch_steps(self) -> None:
        """Of the trainer that was just made."""
        iterate = self.trainer.train_iteration

        def watched(step: int) -> Any:
            self._steps.append(step)
            return iterate(step)

        self.trainer.train_iteration = watched

    def frames(self, clear: bool = False) -> list[list[Any]]:
        """What the output ``enhanced`` gave the viewer: [state of the render thread, whether it was enhanced]."""
        live = self.trainer.pipeline.panel.live
        if not hasattr(self, "_frames"):
            self._frames: list[list[Any]] = []
            picture = live.picture

            def watched(thread: Any, camera: Any, image: Any) -> Any:
                shown = picture(thread, camera, image)
                self._frames.append([thread.state, shown is not image])
                return shown

            live.picture = watched
        if clear:
            self._frames.clear()
        return list(self._frames)

    def look(self, eval_index: int = 0, turn: float = 0.0, back: float = 0.0) -> dict[str, Any]:
        """Put every tab's camera where a held-out photograph was taken, turned by so many radians, and back so far."""
        import viser.transforms as vtf

        from difix3d_ns.ns.cameras import to_pinhole
        from difix3d_ns.ns.viewer.viewer_cameras import placed

        dataset = self.trainer.pipeline.datamanager.eval_dataset
        where = placed(to_pinhole(dataset.cameras[eval_index : eval_index + 1]))
        turned = vtf.SO3(where["wxyz"]) @ vtf.SO3.from_y_radians(turn)
        for client in self.trainer.viewer_state.viser_server.get_clients().values():
            with client.atomic():
                client.camera.fov = where["fov"]
                client.camera.position = where["position"] - back * turned.as_matrix()[:, 2]
                client.camera.wxyz = turned.wxyz
        return {"file": str(dataset.image_filenames[eval_index])}


def _serve(server: _Server) -> None:
    out = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        question, arguments = json.loads(line)
        try:
            answer = getattr(server, question)(**arguments)
        except Exception as error:
            answer = {"error": repr(error)}
        out.write("\n" + _MARK + json.dumps(answer) + "\n")
        out.flush()


def _remember_trainer(server: _Server) -> None:
    from difix3d_ns.ns.trainer import GuidedTrainer

    begin = GuidedTrainer.__init__

    def remembered(trainer: Any, *arguments: Any, **options: Any) -> None:
        server.trainer = trainer
        begin(trainer, *arguments, **options)
        server.watch_steps()

    setattr(GuidedTrainer, "__init__", remembered)  # noqa: B010


def _remove_panel() -> None:
    from nerfstudio.viewer.viewer_elements import ViewerControl

    from difix3d_ns.ns.viewer.panel import Panel

    setattr(Panel, "_setup", ViewerControl._setup)  # noqa: B010


if __name__ == "__main__":
    this = _Server()
    threading.Thread(target=_serve, args=(this,), daemon=True).start()
    from nerfstudio.scripts.train import entrypoint

    _remember_trainer(this)
    if sys.argv[1:2] == ["--without-panel"]:
        del sys.argv[1]
        _remove_panel()
    entrypoint()
