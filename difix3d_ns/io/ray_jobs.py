"""Scenes on a Ray cluster: a task per scene, made again elsewhere when its worker or machine is lost."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from rich.console import Console

from difix3d_ns.errors import UserError
from difix3d_ns.io.progress import progress_bar

_RETRIES = 5  # of a scene whose worker died: one that always dies (too little memory, say) must end

Result = TypeVar("Result")


class Named(Protocol):
    """A scene with a name for messages."""

    @property
    def name(self) -> str: ...


def run_on_ray(
    task: Callable[..., Result],
    scenes: Sequence[Named],
    arguments: Sequence[Any],
    cpus: int,
    address: str | None,
    console: Console,
    gpus: int = 0,
) -> Iterator[Result | UserError]:
    """Run ``task(scene, *arguments)`` for every scene; results are handed out as they come in.

    A cluster this process is connected to already is used and left running.

    Args:
        task: a function that can be run again: its worker may die.
        scenes: one task each.
        arguments: the same for all.
        cpus: cores of each task, at most as many as the largest machine has.
        address: of a Ray cluster; None starts one on this machine.
        console: where the progress goes.
        gpus: of each task, if the cluster has any.

    Returns:
        For a scene whose worker died too often a UserError that names it.

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
        largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
        gpus = gpus if ray.cluster_resources().get("GPU", 0) >= gpus else 0
        options: dict[str, Any] = {"num_cpus": min(cpus, largest) if largest else cpus, "max_retries": _RETRIES}
        if gpus:  # asked for none, a task would be shown none
            options["num_gpus"] = gpus
        make: Any = ray.remote(**options)(task)
        pending = {make.remote(scene, *arguments): scene for scene in scenes}
        with progress_bar(console, counted=True) as progress:
            whole = progress.add_task("Scenes", total=len(scenes))
            while pending:
                (ready,), _ = ray.wait(list(pending), num_returns=1)
                scene = pending.pop(ready)
                result: Result | UserError
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
    """Try a cluster's address, for which Ray itself takes minutes. Raises OSError."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
