"""Console scripts, each in a process of its own that is forked from one that has imported nerfstudio already.

Importing nerfstudio takes 12 seconds of a core; about a hundred commands are run by the tests.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest import mock

import torch

PRELOADED = (
    # as ns-eval and ns-render import them: what they ask for first decides what is there when our methods are read
    *("nerfstudio.scripts.eval", "nerfstudio.scripts.render", "nerfstudio.scripts.train", "difix3d_ns.cli"),
    *("torchmetrics.image.lpip", "difix3d_ns.priors.embedded"),  # imported late by almost every command: four seconds
)
WIDTH = "200"  # columns
READ_AT_IMPORT = frozenset(
    {"PYTHONPATH", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MALLOC_ARENA_MAX", "COLUMNS", "NERFSTUDIO_METHOD_CONFIGS"}
)
"""variables that must be there before a process imports anything"""
TIMEOUT = 600  # seconds


def script(name: str) -> Path:
    """A console script of this environment, whether or not the environment is active."""
    return Path(sys.executable).parent / name


def preload() -> None:
    """Import what commands need, without what belongs to one of them alone."""
    for module in PRELOADED:
        __import__(module)


@contextmanager
def forked(
    command: Sequence[object],
    output: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    source: Path = Path(os.devnull),
    before: Callable[[], object] = int,
) -> Iterator[ForkServerProcess]:
    """Run a command in the background; killed at the end.

    Args:
        command: the path of a Python script, or "-m" and a module's name, then arguments.
        output: file for what it writes; may be a named pipe.
        env: variables beside those of this process; of ``READ_AT_IMPORT`` only those it was prepared with.
        cwd: the folder it runs in; None for this process's.
        source: file or named pipe it reads from.
        before: what its process does first, as limiting itself; a function that can be pickled; by default nothing.
    """
    output.touch()
    variables = {**os.environ, "COLUMNS": WIDTH, **(env or {})}
    arguments = (list(map(str, command)), variables, str(cwd or Path.cwd()), str(source), str(output), before)
    prepare({})
    process = multiprocessing.get_context("forkserver").Process(target=_become, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@functools.cache
def _start() -> dict[str, str]:
    """Start the process that commands are forked from; return the variables it has."""
    root = str(Path(__file__).parents[1])
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    with mock.patch.dict(os.environ, variables):  # it imports from the root, wherever pytest was started
        multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.preloaded"])
        forkserver.ensure_running()
    return dict(os.environ)


def prepare(env: Mapping[str, str]) -> None:
    """Start the process that commands are forked from, with variables that have to be there at import.

    Raises:
        AssertionError: it was started without them.
    """
    with mock.patch.dict(os.environ, env):
        started = _start()
    assert all(started.get(name) == value for name, value in env.items()), "commands were forked before"


def can_fork(env: Mapping[str, str]) -> bool:
    """True if a forked command sees these variables as a new process would; CUDA does not survive a fork."""
    known = os.environ if _start.cache_info().currsize == 0 else _start()
    at_import = {name: value for name, value in env.items() if name in READ_AT_IMPORT}
    return not torch.cuda.is_available() and all(known.get(name) == value for name, value in at_import.items())


def run_forked(
    command: Sequence[object], env: Mapping[str, str], cwd: Path | None, before: Callable[[], object] = int
) -> tuple[int, str]:
    """Run a command to its end and return (exit status, what it wrote); see :func:`forked`."""
    with tempfile.NamedTemporaryFile("r", errors="replace") as output:
        with forked(command, Path(output.name), env, cwd, before=before) as process:
            process.join(TIMEOUT)
            if process.exitcode is None:
                raise subprocess.TimeoutExpired(list(map(str, command)), TIMEOUT, output.read())
        return process.exitcode, output.read()


def _become(
    command: list[str], env: dict[str, str], cwd: str, source: str, output: str, before: Callable[[], object]
) -> None:
    """Be the command: the current process becomes what a terminal would have started."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    os.dup2(os.open(source, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)  # multiprocessing closes the one that was there
    for number in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), number)
    before()
    if command[0] == "-m":
        sys.argv = command[1:]
        status = _status(lambda: runpy.run_module(command[1], run_name="__main__", alter_sys=True))
    else:
        sys.argv = command
        status = _status(lambda: runpy.run_path(command[0], run_name="__main__"))
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _status(run: Callable[[], object]) -> int:
    """The exit status Python would end with."""
    try:
        run()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0
