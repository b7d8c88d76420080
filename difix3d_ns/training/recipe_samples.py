"""The samples a recipe asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from difix3d_ns.data.curate import curate
from difix3d_ns.data.options import CurationOptions
from difix3d_ns.data.scene_names import ReadCapture
from difix3d_ns.errors import UserError


def make_samples(entries: Sequence[Mapping[str, Any]], root: Path, read: ReadCapture, console: Console) -> None:
    """Curate a recipe's scenes; what is there is not made again.

    Args:
        entries: {"scene": one or more as ``difix3d curate`` takes them, "first_seed", options of ``CurationOptions``}.
        root: folder of shards.
        read: reads scenes that are folders.
        console: where progress goes.

    Raises:
        UserError: an entry says something unknown, or a scene cannot be made.
    """
    known = {field.name for field in dataclasses.fields(CurationOptions)}
    for entry in entries:
        options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        scenes, first_seed = options.pop("scene", ()), int(options.pop("first_seed", 0))
        if unknown := sorted(set(options) - known):
            raise UserError(
                f"recipe: scenes: unknown {', '.join(unknown)}; known are scene, first_seed, {', '.join(sorted(known))}"
            )
        if not scenes:
            raise UserError("recipe: every entry of scenes needs a scene, procedural:8 for example")
        curate(
            (scenes,) if isinstance(scenes, str) else scenes,
            root,
            CurationOptions(**options),
            first_seed,
            console=console,
            read=read,
        )
