"""Named checks of a script, run one after another: each alone, with its seconds, whatever the others do."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

Check = Callable[[], Any]


class Checks(dict[str, Check]):
    """Functions by name, in the order in which they run; an instance is a decorator."""

    def __call__(self, function: Check) -> Check:
        self[function.__name__] = function
        return function

    def run(self, out: Path, wanted: Sequence[str] = ()) -> dict[str, Any]:
        """Run the checks, all or those wanted; what they return is printed and kept as JSON.

        Args:
            out: the file, written after each check: the next may not come back.
            wanted: names.

        Returns:
            {"seconds", "result"} by name; the result of one that failed begins with FAILED.
        """
        out.parent.mkdir(parents=True, exist_ok=True)
        report: dict[str, Any] = {}
        for name, function in self.items():
            if wanted and name not in wanted:
                continue
            began = time.perf_counter()
            try:
                value = function()
            except Exception:  # the others are worth their time on the machine
                value = "FAILED " + traceback.format_exc()[-1500:]
            report[name] = {"seconds": round(time.perf_counter() - began, 1), "result": value}
            print(f"== {name} ({report[name]['seconds']} s): {value}", flush=True)
            out.write_text(json.dumps(report, indent=1, default=str))
        return report


def milliseconds(function: Callable[[], Any], times: int = 10) -> float:
    """Mean time of a call on the CUDA device, without the first one."""
    function()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        function()
    torch.cuda.synchronize()
    return round(1000 * (time.perf_counter() - began) / times, 2)
