"""Names of scenes as people write them: folders, and procedural ones by number or seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from difix3d_ns.data.capture import Capture, picture_capture, procedural_capture, thinned
from difix3d_ns.data.object_sides import sides_capture
from difix3d_ns.data.options import CurationOptions
from difix3d_ns.data.orbit_samples import orbit_capture
from difix3d_ns.errors import UserError

_SEED = "-seed"
_OF_SEEDS = {f"procedural{_SEED}": None, f"object{_SEED}": "object", f"grounded{_SEED}": "grounded"}
"""source -> kind of world; None: kinds take turns"""
_ORBIT, _SIDES = f"orbit{_SEED}", f"sides{_SEED}"
_MESHES = re.compile(r"meshes(@-?\d+)?:(.+)")
MESH = "mesh"
"""source and parser of a mesh, with "@30" where its elevation is not drawn"""
_MESH_FILES = frozenset({".glb", ".gltf", ".obj", ".ply"})


class ReadCapture(Protocol):
    """A reader of scenes on disk.

    It is handed down by whoever knows the formats, and pickled where scenes run on a cluster: a function of a
    module.
    """

    def __call__(
        self, path: Path, name: str, long_side: int, *, parser: str | None, hold_out: int, white_background: bool
    ) -> Capture:
        """Read the scene at ``path``.

        Args:
            path: a folder or file.
            name: for the capture.
            long_side: pictures are reduced to this many pixels on their longer side.
            parser: name of its format; None: by what is in the folder.
            hold_out: without test views, every so many-th training view is one.
            white_background: the pictures show an object before white: mask it.

        Raises:
            UserError: it cannot be read.
        """
        ...


def only_procedural(
    path: Path, name: str, long_side: int, *, parser: str | None, hold_out: int, white_background: bool
) -> Capture:
    """Refuse a scene on disk: the reader where none is handed down."""
    raise UserError(f"{path} cannot be read here, procedural:N can; difix3d curate reads what nerfstudio does")


class Scene(NamedTuple):
    """A scene that has not been read yet."""

    name: str  # unique in a curation; a folder's name
    source: str  # "procedural-seed:7", "sample-pictures", an absolute path, or "dataparser:path"

    def load(self, options: CurationOptions, read: ReadCapture = only_procedural) -> Capture:
        """Read or photograph it; at most ``options.views`` views are for training.

        Raises:
            UserError: it cannot be read.
        """
        kind, _, rest = self.source.partition(":")
        if kind in _OF_SEEDS:
            capture = procedural_capture(int(rest), options.long_side, options.supersampling, _OF_SEEDS[kind])
        elif kind == _ORBIT:
            return orbit_capture(int(rest), options.long_side, options.supersampling)
        elif kind == _SIDES:
            return sides_capture(int(rest), options.long_side)
        elif kind == "sample-pictures":
            return picture_capture(options.long_side)
        else:
            parser = None if Path(self.source).is_absolute() else kind
            capture = read(
                Path(rest if parser else self.source),
                self.name,
                options.long_side,
                parser=parser,
                hold_out=options.hold_out,
                white_background=options.white_background,
            )
        return thinned(capture, options.views)


def expand(texts: Sequence[str], first_seed: int = 0) -> list[Scene]:
    """Turn names as people write them into scenes.

    Args:
        texts: ``procedural:N`` for N procedural scenes, ``procedural-seed:S`` for one, ``object:N`` and
            ``object-seed:S`` for objects alone, ``grounded:N`` and ``grounded-seed:S`` for objects on ground,
            ``orbit:N`` and ``orbit-seed:S`` for objects with an orbit around them, ``sides:N`` and ``sides-seed:S``
            for objects photographed from any side, ``meshes:FOLDER`` for the .glb,
            .gltf, .obj and .ply files in it, with an orbit at an elevation drawn for each, ``meshes@30:FOLDER`` at 30
            degrees, ``sample-pictures`` for pictures without a scene, a folder that nerfstudio reads
            (``transforms.json`` or a COLMAP model), or ``DATAPARSER:FOLDER`` with the name of one of its dataparsers.
        first_seed: of ``procedural:N``, ``object:N``, ``grounded:N``, ``orbit:N`` and ``sides:N``.

    Raises:
        UserError: there is none, a number is missing, or two scenes would have one name.
    """
    if not texts:
        raise UserError("no scene given: name procedural:8 or a folder that nerfstudio reads")
    scenes: dict[str, Scene] = {}
    for scene in (scene for text in texts for scene in _expand(text, first_seed)):
        if scene.name in scenes:
            raise UserError(f"{scene.source} and {scenes[scene.name].source} would both be {scene.name}: rename one")
        scenes[scene.name] = scene
    return list(scenes.values())


def _expand(text: str, first_seed: int) -> list[Scene]:
    kind, _, number = text.partition(":")
    if text == "sample-pictures":
        return [Scene("sample_pictures", text)]
    if found := _MESHES.fullmatch(text):
        return _meshes(Path(found[2]).expanduser(), found[1] or "")
    name = kind.removesuffix(_SEED)
    if f"{name}{_SEED}" in (*_OF_SEEDS, _ORBIT, _SIDES):
        if not number.isdigit():
            raise UserError(f"{text}: write {name}:8 for eight scenes, or {name}{_SEED}:7 for that of seed 7")
        first, count = (first_seed, int(number)) if kind == name else (int(number), 1)
        return [Scene(f"{name}_{seed:05d}", f"{name}{_SEED}:{seed}") for seed in range(first, first + count)]
    parser, path = ("", Path(text)) if Path(text).exists() or not number else (f"{kind}:", Path(number))
    folder = path.resolve().parent if path.suffix == ".json" else path.resolve()
    return [Scene(re.sub(r"[^\w.-]", "_", folder.name) or "scene", f"{parser}{path.resolve()}")]


def _meshes(place: Path, elevation: str) -> list[Scene]:
    """Meshes of a folder and those in it, or one; named by their way from there."""
    files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if _is_mesh(file))
    if not files:
        what = "holds no mesh (.glb, .obj or .ply)" if place.is_dir() else "no such folder"
        raise UserError(f"meshes{elevation}:{place}: {what}; give a folder of meshes, which may lie deeper in it")
    root = place.parent if place.is_file() else place
    names = ["_".join(file.relative_to(root).with_suffix("").parts) for file in files]
    return [
        Scene(re.sub(r"[^\w.-]", "_", name), f"{MESH}{elevation}:{file.resolve()}")
        for name, file in zip(names, files, strict=True)
    ]


def _is_mesh(file: Path) -> bool:
    return file.suffix.lower() in _MESH_FILES and file.is_file() and not file.name.startswith(".")
