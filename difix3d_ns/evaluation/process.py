"""``ns-train`` in a process of its own, which measures its memory.

The process is ``python -m difix3d_ns.evaluation.process FILE ARGUMENTS``: it runs ``ns-train ARGUMENTS`` and writes its
own peak to FILE at its end.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import psutil
import torch

import difix3d_ns

_EVERY = 0.5  # seconds between checks that whoever started the training is still there
_MB = 1024**2


def run(arguments: Sequence[str], peak_file: Path, output: IO[str] | None = None) -> tuple[int, float]:
    """Run ``ns-train``.

    Args:
        arguments: its own.
        peak_file: a file to use; it is overwritten.
        output: file for all its output; None shows it.

    Returns:
        (exit status, peak memory in MB: with CUDA what torch had allocated there, else resident memory of the process;
        0 if it was killed).
    """
    peak_file.unlink(missing_ok=True)
    # what is measured is the package that measures, whatever the current folder holds; that comes last, for fixers
    command = [sys.executable, "-P", "-m", __name__, str(peak_file), *arguments]
    known = [str(Path(difix3d_ns.__file__).parents[1]), os.environ.get("PYTHONPATH", ""), os.getcwd()]
    # torch and numba bring a thread pool each: waiting threads must not steal the other's cores
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, known))}
    streams = {"stdout": output, "stderr": subprocess.STDOUT} if output is not None else {}
    process = subprocess.Popen(command, env=environment, **streams)  # type: ignore[call-overload]
    try:
        code = process.wait()
    except BaseException:  # whoever stops the benchmark stops its training
        process.terminate()
        process.wait()
        raise
    try:
        peak = json.loads(peak_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it was killed
        return code, 0.0
    return code, float(peak["resident_mb"] if peak["cuda_mb"] is None else peak["cuda_mb"])


def own_peak() -> dict[str, float | None]:
    """Peak memory of this process so far, in MB: resident, and allocated by torch with CUDA (None: not used)."""
    return {
        "resident_mb": _resident() / _MB,
        "cuda_mb": torch.cuda.max_memory_allocated() / _MB if torch.cuda.is_initialized() else None,
    }


def _resident() -> float:  # bytes
    try:  # what the system accounts to a process on its end would begin with the memory of the one that started it
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        if sys.platform == "win32":
            return float(psutil.Process().memory_info().peak_wset)
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(peak if sys.platform == "darwin" else peak * 1024)


def _end_with(parent: int) -> None:
    """Leave when whoever started this is gone: a benchmark that was killed must not go on training unseen."""
    while os.getppid() == parent:
        time.sleep(_EVERY)
    os._exit(1)


def main() -> None:
    """Entry point of the process."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    path = Path(sys.argv.pop(1))
    atexit.register(lambda: path.write_text(json.dumps(own_peak()), encoding="utf-8"))
    from nerfstudio.scripts.train import entrypoint

    entrypoint()


if __name__ == "__main__":
    main()
