"""A paper's protocol: a recipe with a reader for the paper's data set, and the paper's rows."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench import provenance
from difix3d_ns.evaluation.bench.bench_recipe import Recipe
from difix3d_ns.evaluation.protocols import (
    co3d_scenes,
    colmap_scenes,
    dataset_writer,
    dl3dv_scenes,
    gso_scenes,
    nerfbusters_scenes,
)
from difix3d_ns.evaluation.protocols.scene_source import Misfit, SceneSource
from difix3d_ns.io import recipes
from difix3d_ns.io.atomic import write_text

READERS: dict[str, Callable[..., list[SceneSource]]] = {
    "nerfbusters": nerfbusters_scenes.find,
    "dl3dv": dl3dv_scenes.find,
    "colmap": colmap_scenes.find,
    "co3d": co3d_scenes.find,
    "gso": gso_scenes.find,
}
"""what finds the scenes of a data set in its folder, with settings of its own"""
SCENES = "scenes"
"""folder in an output"""


@dataclass(frozen=True)
class Protocol(Recipe):
    """Data set, split, size, metrics and methods of a published comparison."""

    kind: ClassVar[Literal["recipe", "protocol"]] = "protocol"
    title: str = ""
    """Data set and paper."""
    reader: str = ""
    """One of ``READERS``."""
    reading: Mapping[str, int | float | str] = field(default_factory=dict)
    """Settings of the reader."""
    layout: tuple[str, ...] = ()
    """Files of the data set, one a line, with what they are."""
    published: tuple[str, ...] = ()
    """What is as published."""
    differs: tuple[str, ...] = ()
    """What is not, or is not known."""
    scenes: int | None = None
    """Number of scenes of the published means."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reader not in READERS:
            raise ValueError(f"reader is one of {', '.join(READERS)}")
        known = list(inspect.signature(READERS[self.reader]).parameters)[1:]
        if unknown := [name for name in self.reading if name not in known]:
            settings = f"has {', '.join(known)}" if known else "has no settings"
            raise ValueError(f"reading: {', '.join(unknown)}: the reader {self.reader} {settings}")

    @property
    def remarks(self) -> tuple[str, ...]:
        """Paragraphs on what is as published, and what is not."""
        mean = (
            f"Published means are over {self.scenes} scenes, ours over those that were given. " if self.scenes else ""
        )
        return (
            f"As published: {' '.join(self.published)}",
            f"Not as published, or not known: {mean}{' '.join(self.differs)}",
        )


def load_protocol(name: str | Path) -> Protocol:
    """Read a protocol by path, or by name from the ``configs/protocol`` that ships with the package.

    Raises:
        UserError: no such protocol, or it makes no sense.
    """
    return recipes.load(recipes.find("protocol", name), Protocol, "configs/protocol/nerfbusters.yaml")


def write_scenes(
    protocol: Protocol, data: Sequence[Path], output: Path, notify: Callable[[str], object] = lambda message: None
) -> list[Path]:
    """Write the scenes of a data set as nerfstudio datasets to ``output/scenes``, as far as they are not there.

    Those written with other settings or by other code, the reader's and the writer's included, are written again: where
    that changes a file, what was trained on it is stale.

    Args:
        protocol: whose data set it is.
        data: folders of the data set, or of single scenes of it.
        output: of the benchmark.
        notify: takes a sentence for each scene.

    Returns:
        Folders of the scenes.

    Raises:
        UserError: a folder has another layout; the message names what is missing, and the layout.
    """
    if not data:
        raise UserError(f"no data set given: difix3d bench FOLDER --protocol {protocol.name} --output DIR")
    written: dict[str, Path] = {}
    code = provenance.code_digest(READERS[protocol.reader].__module__, dataset_writer.__name__)
    made_by = {"reader": protocol.reader, "reading": dict(protocol.reading), "code": code}
    for folder in data:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: give that of {protocol.title}, with {'; '.join(protocol.layout)}")
        try:
            for scene in READERS[protocol.reader](folder, **protocol.reading):
                if scene.name in written:
                    raise UserError(f"{folder}: there are two scenes {scene.name}, by which results are distinguished")
                written[scene.name] = output / SCENES / scene.name
                record = {**made_by, "data": str(folder.absolute())}
                _write_scene(scene, record, written[scene.name], notify)
        except Misfit as error:
            raise UserError(
                f"{error}: the protocol {protocol.name} reads {protocol.title}, with {'; '.join(protocol.layout)}"
            ) from error
    return list(written.values())


def _write_scene(scene: SceneSource, made_by: Mapping[str, Any], target: Path, notify: Callable[[str], object]) -> None:
    text = json.dumps(made_by, indent=1) + "\n"
    record = target.with_name(f"{target.name}.json")
    if target.is_dir() and record.is_file() and record.read_text(encoding="utf-8") == text:
        return
    notify(f"Writing {target}")
    shutil.rmtree(target, ignore_errors=True)
    record.unlink(missing_ok=True)
    scene.write(target)
    write_text(record, text)


def shipped_protocols() -> dict[str, Protocol]:
    """Protocols that ship with the package, by name."""
    return {name: load_protocol(name) for name in recipes.shipped("protocol")}
