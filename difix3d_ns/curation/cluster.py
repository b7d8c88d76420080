"""Curation on a Ray cluster: a task per scene, made anew elsewhere when its worker or machine is lost."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from difix3d_ns.curation.curate import SceneReport, attempt
from difix3d_ns.curation.options import CurationOptions
from difix3d_ns.curation.scenes import Scene
from difix3d_ns.errors import UserError

_RETRIES = 5  # of a scene whose worker died: one that always dies (too little memory, say) must end


def curate_on_ray(
    scenes: Sequence[Scene], output: Path, options: CurationOptions, address: str | None, console: Console
) -> Iterator[SceneReport | UserError]:
    """Results of ``attempt`` as they come in; see ``curate`` for the arguments.

    A cluster this process is connected to already is used and left running.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports to nobody
    try:
        import ray
    except ImportError as error:
        raise UserError("--executor ray needs Ray: pip install 'difix3d-ns[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        try:
            _check_reachable(address)
            ray.init(address=address, include_dashboard=False if address is None else None, log_to_driver=False)
        except Exception as error:  # a plain one where the machine is too busy for Ray to start in time
            what = "Ray did not start" if address is None else f"--address {address}: no Ray cluster there"
            raise UserError(f"{what} ({error})") from error
    try:
        make = ray.remote(num_cpus=options.threads, max_retries=_RETRIES)(attempt)
        pending = {make.remote(scene, output.absolute(), options): scene for scene in scenes}
        columns = (TextColumn("Scenes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            whole = progress.add_task("Scenes", total=len(scenes))
            while pending:
                (ready,), _ = ray.wait(list(pending), num_returns=1)
                scene = pending.pop(ready)
                try:
                    result = ray.get(ready)
                except ray.exceptions.RayError as error:
                    result = UserError(f"{scene.name}: its worker failed ({error}); start again to go on")
                progress.advance(whole)
                yield result
    finally:
        if ours:
            ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raises OSError. Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
