"""Formats of captures, found from the files in a folder."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.io.video_frames import VIDEOS
from difix3d_ns.ns.dataparsers.colmap_model import (
    command,
    count_images,
    find_pictures,
    is_model,
    is_picture,
    read_colmap,
    read_images,
    reduced_folders,
)
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene
from difix3d_ns.ns.dataparsers.llff_folder import read_llff
from difix3d_ns.ns.dataparsers.metashape_xml import is_metashape, read_metashape
from difix3d_ns.ns.dataparsers.realitycapture_csv import is_realitycapture, read_realitycapture

if TYPE_CHECKING:
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

_MODEL_PARENTS = ("sparse", "colmap/sparse", "dense/sparse", "dense/0/sparse", "distorted/sparse", "", "colmap")
"""where models are looked for, in this order; each may hold one itself, or several in numbered folders"""
_WITHIN_CAPTURE = ("sparse", "colmap", "dense", "distorted")
_PICTURE_FOLDERS = ("images", "input", "rgb", "image", "frames", "photos", "imgs", "color", "undistorted_images", "")
READ = (
    "transforms.json (nerfstudio, instant-ngp, Polycam, Record3D), transforms_train.json (NeRF synthetic), a COLMAP "
    "model in sparse/0, sparse or colmap/sparse/0 with images/, LLFF's poses_bounds.npy, Metashape's cameras as .xml "
    "or RealityCapture's as .csv beside the photos"
)


@dataclass(frozen=True)
class Layout:
    """A capture's files of one format."""

    kind: Literal["transforms", "blender", "colmap", "llff", "metashape", "realitycapture"]
    folder: Path
    file: Path | None = None  # of transforms or poses
    model: Path | None = None  # of COLMAP
    images: Path | None = None
    masks: Path | None = None
    notes: tuple[str, ...] = ()


def find_layout(data: Path) -> Layout:
    """Find which format a folder has; of several the one that says most: transforms, COLMAP's model, LLFF's poses.

    Args:
        data: what ``--data`` names: a folder, or a file with transforms.

    Raises:
        UserError: there is none; the message has the next command.
    """
    if not data.exists():
        raise UserError(f"--data {data} does not exist; give a folder with {READ}")
    if data.is_file():
        return _from_file(data)
    for name in ("transforms.json", "transforms_train.json"):
        if (data / name).is_file():
            return _from_file(data / name)
    layout = find_model(data) or _find_llff(data) or _find_survey(data)
    if layout is None:
        raise UserError(_next_command(data))
    return layout


def read_layout(layout: Layout, with_points: bool = True) -> DescribedScene:
    """Read a layout that is none of transforms, which have readers of their own."""
    if layout.kind == "colmap":
        return _read(layout, with_points=with_points)
    readers = {"llff": read_llff, "metashape": read_metashape, "realitycapture": read_realitycapture}
    assert layout.file is not None and layout.images is not None
    return readers[layout.kind](layout.file, layout.images)


def describe_colmap(config: ColmapDataParserConfig) -> DescribedScene:
    """Read what the ``colmap`` dataparser is given, its paths where they exist and else those that are found.

    Args:
        config: of nerfstudio's dataparser; its frame, splits and sizes are not for this.

    Raises:
        UserError: a path that was given does not exist, or no model is found.
    """
    defaults = type(config)()
    data = config.data
    if not data.is_dir():
        raise UserError(f"--data {data} is no folder; give one with a COLMAP model in sparse/0 and photos in images")
    layout = _given_model(config)
    images, masks = layout.images, layout.masks
    if config.images_path != defaults.images_path:
        images = data / config.images_path
        if not images.is_dir():
            raise UserError(f"--images-path {config.images_path}: there is no folder {images}; correct it")
    if config.masks_path is not None:
        masks = _given_folder(data, config.masks_path, "--masks-path")
    depths = None if config.depths_path is None else _given_folder(data, config.depths_path, "--depths-path")
    scene = _read(
        Layout("colmap", data, model=layout.model, images=images, masks=masks, notes=layout.notes),
        depths=depths,
        with_points=config.load_3D_points,
        nerfstudio_world=config.assume_colmap_world_coordinate_convention,
        depth_unit=config.depth_unit_scale_factor,
    )
    name = scene.frames[0].name
    if config.masks_path is not None and all(frame.mask is None for frame in scene.frames):
        raise UserError(f"--masks-path {config.masks_path}: no photo has a mask there; name them {name}.png or {name}")
    if depths is not None and all(frame.depth is None for frame in scene.frames):
        raise UserError(f"--depths-path {config.depths_path}: no photo has a depth map there; name them {name}.png")
    return scene


def point_matches(config: ColmapDataParserConfig, factor: int) -> dict[str, Tensor]:
    """Return what nerfstudio's dataparser knows of points besides place and colour, their 2D matches among it.

    Args:
        config: with ``max_2D_matches_per_3D_point``.
        factor: by which photos are reduced.
    """
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser

    model = _given_model(config).model
    assert model is not None
    theirs = ColmapDataParser(config)
    theirs._downscale_factor = factor  # type: ignore[assignment]
    points = theirs._load_3D_points(model, torch.eye(4)[:3], 1.0)
    return {name: values for name, values in points.items() if name not in ("points3D_xyz", "points3D_rgb")}


def _given_model(config: ColmapDataParserConfig) -> Layout:
    model = config.data / config.colmap_path
    if is_model(model):
        return _layout_of(config.data, model, ())
    if config.colmap_path != type(config)().colmap_path:
        raise UserError(
            f"--colmap-path {config.colmap_path}: {model} has no cameras.bin and images.bin (or both as .txt); "
            "give the folder that has them, relative to --data, or leave the flag away to have it found"
        )
    found = find_model(config.data)
    if found is None:
        other = find_layout(config.data)  # or the next command
        raise UserError(
            f"{config.data} has no COLMAP model (cameras.bin and images.bin), but {other.file}; "
            "leave `colmap` away from the command's end"
        )
    return found


def find_model(folder: Path) -> Layout | None:
    """Find a COLMAP model and its pictures; of several submodels the one with most images."""
    for parent in _MODEL_PARENTS:
        models = [place for place in _numbered(folder / parent) if is_model(place)]
        if not models:
            continue
        counts = {model: count_images(model) for model in models}
        best = max(models, key=lambda model: counts[model])
        notes = []
        if len(models) > 1:
            others = ", ".join(f"{model.relative_to(folder)}: {counts[model]}" for model in models if model != best)
            notes.append(
                f"Of {len(models)} COLMAP models {best.relative_to(folder)} is read, which has most images "
                f"({counts[best]}; {others}); another: end the command with `colmap --colmap-path PATH`."
            )
        return _layout_of(folder, best, tuple(notes))
    return None


def _from_file(data: Path) -> Layout:
    if data.suffix.lower() == ".json":
        kind: Literal["blender", "transforms"] = "blender" if data.name == "transforms_train.json" else "transforms"
        return Layout(kind, data.parent, file=data)
    if data.suffix.lower() in VIDEOS:
        raise UserError(_process("video", data, data.with_suffix("")))
    if data.name in ("cameras.bin", "images.bin", "points3D.bin", "cameras.txt", "images.txt", "points3D.txt"):
        raise UserError(f"--data {data} is a file of a COLMAP model; give the capture's folder: --data {data.parent}")
    raise UserError(f"--data {data} is no scene; give a folder with {READ}")


def _numbered(parent: Path) -> Iterator[Path]:
    """List folders that may hold a model: numbered ones by their number, then the one itself."""
    if not parent.is_dir():
        return
    inside = [entry for entry in parent.iterdir() if entry.name.isdigit() and entry.is_dir()]
    yield from sorted(inside, key=lambda entry: int(entry.name))
    yield parent


def _layout_of(folder: Path, model: Path, notes: tuple[str, ...]) -> Layout:
    names = [image.name for image in read_images(model)]
    roots = _roots(folder, model)
    best, most = roots[-1] / "images", 0
    for place, deep in _picture_places(roots, model):
        found = len(find_pictures(place, names, deep))
        if found > most:
            best, most = place, found
        if most == len(names):
            break
    beside = best.parent if best.name in _PICTURE_FOLDERS else best
    masks = next((place for place in (beside / "masks", folder / "masks") if place.is_dir()), None)
    return Layout("colmap", folder, model=model, images=best, masks=masks, notes=notes)


def _roots(folder: Path, model: Path) -> list[Path]:
    """List the folders from a model's own up to the capture's, though ``--data`` may name one within that."""
    roots = [place for place in (model, *model.parents) if place == folder or folder in place.parents] or [folder]
    while roots[-1].absolute().name.isdigit() or roots[-1].absolute().name in _WITHIN_CAPTURE:
        roots.append(roots[-1].absolute().parent)
    return roots


def _picture_places(roots: Sequence[Path], model: Path) -> Iterator[tuple[Path, bool]]:
    """Folders in which a model's pictures may be, nearest first, and whether those in them may be searched."""
    names: tuple[str, ...] = _PICTURE_FOLDERS
    distorted = [root / "distorted" for root in roots if (root / "distorted").is_dir()]
    if any(model.absolute().is_relative_to(place.absolute()) for place in distorted):
        names = tuple(name for name in names if name != "images")  # the undistorted ones, of another model
    elif distorted:
        names = tuple(name for name in names if name != "input")  # the distorted ones, of another model
    for root in roots:
        for name in names:
            place = root / name
            if place.is_dir() or reduced_folders(place):
                yield place, bool(name)


def _read(layout: Layout, depths: Path | None = None, **settings: bool | float) -> DescribedScene:
    assert layout.model is not None and layout.images is not None
    return read_colmap(
        layout.model,
        layout.images,
        source=layout.folder,
        masks=layout.masks,
        depths=depths,
        notes=layout.notes,
        **settings,  # type: ignore[arg-type]
    )


def _given_folder(data: Path, given: Path, flag: str) -> Path:
    if not (data / given).is_dir():
        raise UserError(f"{flag} {given}: there is no folder {data / given}; give it relative to --data")
    return data / given


def _find_llff(folder: Path) -> Layout | None:
    poses = folder / "poses_bounds.npy"
    if not poses.is_file():
        return None
    images = next(_with_pictures(folder), None) or next(iter(reduced_folders(folder / "images")), None)
    if images is None:
        raise UserError(f"{poses} has poses, and {folder / 'images'} no pictures; put them there")
    return Layout("llff", folder, file=poses, images=images)


def _find_survey(folder: Path) -> Layout | None:
    """Find cameras of Metashape or RealityCapture beside pictures."""
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() == ".xml" and is_metashape(file):
            kind: Literal["metashape", "realitycapture"] = "metashape"
        elif file.suffix.lower() == ".csv" and is_realitycapture(file):
            kind = "realitycapture"
        else:
            continue
        images = next(_with_pictures(folder), folder / "images")
        return Layout(kind, folder, file=file, images=images)
    return None


def _next_command(folder: Path) -> str:
    """Find the command that makes a folder one that can be trained on."""
    entries = sorted(folder.iterdir())
    output = folder.absolute().with_name(folder.absolute().name + "_processed")
    pictures = next(_with_pictures(folder), None)
    if (folder / "keyframes").is_dir():
        return _process("polycam", folder, output)
    if pictures is not None:
        return _process("images", pictures, output)
    videos = [entry for entry in entries if entry.suffix.lower() in VIDEOS]
    if videos:
        return _process("video", videos[0], output)
    return f"{folder} holds nothing to train on; give a folder with {READ}, or a video or photos for difix3d pose"


def _with_pictures(folder: Path) -> Iterator[Path]:
    for name in _PICTURE_FOLDERS:
        inside = os.walk(folder / name) if name else itertools.islice(os.walk(folder), 1)
        if any(is_picture(file) for _, _, files in inside for file in files):
            yield folder / name


def _process(kind: str, data: Path, output: Path) -> str:
    what = {
        "video": "is a video: it has no camera poses yet",
        "images": "has photos without camera poses",
        "polycam": "is a capture of Polycam",
    }[kind]
    run = command("difix3d", "pose", data, "--output", output)
    if kind == "polycam":
        run = command("ns-process-data", kind, "--data", data, "--output-dir", output)
    return f"{data} {what}; run `{run}`, then train with {command('--data', output)}"
