"""From photos or a video to a scene: COLMAP's structure from motion, through its Python package."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import count, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps
from rich.console import Console

from difix3d_ns.apps import photo_gps, photo_masks
from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import replacing, write_json, write_text
from difix3d_ns.io.images import open_picture, picture_errors, pictures_below, read_picture, write_picture
from difix3d_ns.io.progress import progress_bar
from difix3d_ns.io.video_frames import VIDEOS, is_video, write_frames

Lens = Literal["perspective", "fisheye", "pinhole"]
Matching = Literal["exhaustive", "sequential"]
Gps = Literal["auto", "no"]
CAMERA_MODELS: dict[Lens, str] = {"perspective": "OPENCV", "fisheye": "OPENCV_FISHEYE", "pinhole": "PINHOLE"}
MOST_EXHAUSTIVE = 120
"""photos up to which each is compared with each other"""
MIN_PHOTOS = 3
_NEIGHBOURS = 10  # photos before and after that one of a row is compared with, and those 16, 32, ... apart
_AS_THEY_ARE = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",)}
"""formats that COLMAP, nerfstudio and browsers read alike"""
RECORD = "colmap/photos.json"
_OURS = ("transforms.json", "images", "colmap")
"""files and folders of a scene that are written here, and replaced on request"""
_QUALITY = 97
_FOCAL = (0x920A, 0xA405)  # EXIF: focal length, the same for 35 mm film
_MAKE = (0x010F, 0x0110)  # EXIF: make, model
_INNER = 0x8769  # EXIF: where focal lengths are
_ORIGIN = ("latitude", "longitude", "altitude")
_MIN_FEATURES = 100  # of a photo; sharp ones of anything but plain walls have thousands

Failure = Literal["featureless", "apart", "weak"]
_REMEDIES: dict[Failure, tuple[str, str]] = {
    "featureless": (
        "too dark, blurred or plain, or masked but for a little",
        "Take them again, in more light and with a steady hand",
    ),
    "apart": (
        "they show nothing that the placed ones show",
        "Take photos from places in between, or pose them as a scene of their own",
    ),
    "weak": (
        "they show too little of what the placed ones show",
        "Take photos from places between them and the others",
    ),
}
"""why photos are not placed, and what to do"""


@dataclass(frozen=True)
class Posed:
    """Result of posing photos; names are those in the scene."""

    placed: list[str]
    missing: Mapping[str, Failure]
    pieces: list[int]  # photos of each piece that is connected in itself; the first, largest one is the scene
    gps: str = ""  # what became of the photos' GPS positions
    masked: int = 0  # photos with a mask

    def describe(self) -> str:
        """Return it for people, with what to do about missing photos."""
        count = len(self.placed) + len(self.missing)
        lines = [f"{len(self.placed)} of {count} photos are placed."]
        for failure, (reason, remedy) in _REMEDIES.items():
            if names := [name for name, why in self.missing.items() if why == failure]:
                lines.append(f"Not placed, {reason}: {', '.join(names)}. {remedy}, or train without them.")
        if self.masked:
            lines.append(f"{self.masked} of {count} photos have a mask; what is black there is not trained on.")
        if self.gps:
            lines.append(self.gps)
        if self.missing and len(self.pieces) > 1:
            lines.append(
                f"The photos fall into {len(self.pieces)} pieces that show nothing in common, of "
                f"{', '.join(map(str, self.pieces))} photos; the largest is the scene."
            )
        return "\n".join(lines)


def pose(
    photos: Path,
    output: Path,
    lens: Lens = "perspective",
    matching: Matching | None = None,
    frames: int = 120,
    long_side: int = 1600,
    force: bool = False,
    masks: Path | None = None,
    gps: Gps = "auto",
) -> Posed:
    """Find out where photos were taken, and write a scene that ns-train reads.

    Args:
        photos: folder of photos, perhaps in folders of their own, or a video.
        output: folder: ``images/``, ``transforms.json``, ``sparse_pc.ply`` and, in ``colmap/``, COLMAP's own files.
            Started again on the same photos it goes on where it stopped.
        lens: of the camera.
        matching: which photos are compared; None: each with each other up to ``MOST_EXHAUSTIVE`` photos, neighbours by
            name above and in a video.
        frames: of a video that are used, at most.
        long_side: pixels at which features are searched, at most.
        force: begin again and overwrite a scene that is there.
        masks: folder of masks, named as the photos; one mask for all photos or frames; or for a video, a folder or a
            video of masks, one for each frame. Black where nothing is to be used.
        gps: auto: metres and up by the positions in EXIF, if they suffice; no: as COLMAP has them.

    Raises:
        UserError: nothing was begun, since the input or the output is no good; or too few photos could be placed.
    """
    pycolmap = _pycolmap()
    _check(photos, output, frames, force, masks)
    console = Console(stderr=True)
    try:
        brought = _bring(photos, output, frames, console, masks)
        names = brought.names
        if len(names) < MIN_PHOTOS:
            raise UserError(f"{photos}: {len(names)} photos are too few; take at least {MIN_PHOTOS}, better 20 or more")
        matching = matching or ("sequential" if is_video(photos) or len(names) > MOST_EXHAUSTIVE else "exhaustive")
        database = output / "colmap" / "database.db"
        _find_features(pycolmap, database, output / "images", names, lens, long_side, console)
        _match(pycolmap, database, names, matching, console)
        model, pieces = _map(pycolmap, database, output, names, console)
        centres = {image.name: image.projection_center() for image in model.images.values() if image.has_pose}
        missing = _failures(pycolmap, database, names, centres)
        found = photo_gps.align(pycolmap, centres, brought.positions) if gps == "auto" else None
        if found is not None and found.transform is not None:
            model.transform(found.transform)
        sparse = output / "colmap" / "sparse" / "0"
        sparse.mkdir(parents=True)
        model.write(sparse)
        _write_scene(output, found)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error}") from error
    return Posed(sorted(centres), missing, pieces, found.message if found else "", brought.masked)


def _pycolmap() -> Any:
    try:
        import pycolmap
    except ImportError as error:
        raise UserError(f"COLMAP's Python package cannot be loaded ({error}): `pip install pycolmap`") from error
    pycolmap.logging.minloglevel = 3  # what matters is said here
    return pycolmap


def _check(photos: Path, output: Path, frames: int, force: bool, masks: Path | None) -> None:
    if not photos.exists():
        raise UserError(f"{photos} does not exist: give a folder of photos or a video")
    if photos.is_file() and not is_video(photos):
        raise UserError(f"{photos} is neither a folder of photos nor a video ({', '.join(sorted(VIDEOS))})")
    if masks is not None:
        photo_masks.check_masks(masks, photos if photos.is_file() else None)
    if masks is not None and any((output / name).resolve() in (masks / "-").resolve().parents for name in _OURS):
        raise UserError(f"--masks {masks} is a part of the scene that this command writes: copy it elsewhere first")
    if frames < MIN_PHOTOS:
        raise UserError(f"--frames {frames}: at least {MIN_PHOTOS} are needed")
    if output.resolve() in (photos.resolve(), *photos.resolve().parents):
        raise UserError(f"--output {output} holds the photos themselves: give another folder")
    if (output / "transforms.json").exists() and not force:
        raise UserError(f"--output {output} has a transforms.json already: give another folder, or --force")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output} is no folder that can be written: {error}") from error
    if not (output / RECORD).exists() and any((output / name).exists() for name in _OURS):
        raise UserError(f"--output {output} has files that this command did not write: give another folder")
    if force:
        for name in _OURS:
            path = output / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


class _Brought(NamedTuple):
    """Photos in the scene."""

    names: list[str]  # in order
    positions: dict[str, list[float]] = {}  # see ``photo_gps.read_position``, of those that have one
    masked: int = 0  # photos with a mask


def _bring(photos: Path, output: Path, frames: int, console: Console, masks: Path | None = None) -> _Brought:
    """Bring the photos and their masks to the scene, upright; what an earlier run brought of the same ones stays."""
    record, folder = output / RECORD, output / "images"
    video = is_video(photos)
    sources = [photos] if video else _pictures(photos, masks)
    masked = {} if masks is None or video else photo_masks.find_masks(masks, photos, sources)
    alone = masks is not None and (video or masks.is_file())  # all photos have one
    files = [*sources, *masked.values(), *(photo_masks.mask_files(masks) if video and masks is not None else ())]
    stamps = {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    about = {"sources": stamps, "frames": frames if video else 0, **({"mask": str(masks)} if alone else {})}
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    names = list(known.get("names", []))
    if known.get("about") == about and names and all((folder / name).is_file() for name in names):
        return _Brought(names, known.get("positions", {}), len(names) if alone else len(masked))
    if record.exists() and known.get("about") != about:
        raise UserError(f"--output {output} was begun with other photos or masks: give another folder, or --force")
    write_json(record, {"about": about, "names": []})  # a killed run is known as ours
    with progress_bar(console, counted=not video) as bar:
        task = bar.add_task("Reading photos", total=None if video else len(sources))

        def on_frame(done: int, total: int) -> None:
            bar.update(task, completed=done, total=max(total, done) or None)

        names, positions = [], {}
        if video:
            each = None if masks is None else (lambda: photo_masks.masks_of_frames(masks))
            written = write_frames(photos, folder, frames, on_frame, each, lambda name: output / _mask_of(name))
            names = [file.name for file in written]
        else:
            for file in sources:
                names.append(_copy(file, _name(file.relative_to(photos), names), folder))
                if masked:
                    photo_masks.bring_mask(masked.get(file), file, output / _mask_of(names[-1]), alone)
                if position := photo_gps.read_position(file):
                    positions[names[-1]] = list(position)
                bar.advance(task)
    write_json(record, {"about": about, "names": names, "positions": positions})
    return _Brought(names, positions, len(names) if alone else len(masked))


def _mask_of(name: str) -> Path:
    """Place of a photo's mask in the scene, as COLMAP expects it."""
    return Path(photo_masks.FOLDER) / f"{name}.png"


def _pictures(folder: Path, masks: Path | None = None) -> list[Path]:
    found = pictures_below(folder)
    if masks is not None:
        found = [path for path in found if masks.resolve() not in (path.resolve(), *path.resolve().parents)]
    if not found:
        raise UserError(f"{folder} has no photos (files named .jpg, .png or another ending Pillow knows)")
    return found


def _name(file: Path, taken: Sequence[str]) -> str:
    """Name of a photo in the scene, relative to its images: without blanks, and an ending that everybody reads."""
    ending = next((suffix for suffix in _AS_THEY_ARE.values() if file.suffix.lower() in suffix), None)
    stem = re.sub(r"\s+", "_", file.with_suffix("").as_posix())
    names = (f"{stem}{'' if number == 1 else f'_{number}'}{file.suffix if ending else '.png'}" for number in count(1))
    return next(name for name in names if name not in taken)


def _copy(file: Path, name: str, folder: Path) -> str:
    """Copy a photo as it is if everybody reads it so; else turn it upright or convert it. Returns its name."""
    upright: Image.Image | None = None
    with open_picture(file, decode=False) as picture, picture_errors(file):
        endings = _AS_THEY_ARE.get(picture.format or "", ())
        plain = picture.mode in ("RGB", "RGBA", "L") and file.suffix.lower() in endings
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
        if plain and turned and picture.format == "JPEG":
            upright = ImageOps.exif_transpose(picture)
    if upright is not None:
        keep: dict[str, Any] = {"exif": upright.getexif(), "icc_profile": upright.info.get("icc_profile")}
        with replacing(folder / name) as part:
            upright.save(part, quality=_QUALITY, subsampling=0, **keep)
        return name
    if plain and not turned:
        with replacing(folder / name) as part:
            shutil.copyfile(file, part)
    else:
        write_picture(folder / name, read_picture(file))
    return name


def _camera_of(file: Path) -> tuple[Any, ...]:
    """Values that photos of one camera at one focal length share."""
    with Image.open(file) as picture:
        exif = picture.getexif()
        inner = exif.get_ifd(_INNER)
        return (*picture.size, *(str(exif.get(tag)) for tag in _MAKE), *(str(inner.get(tag)) for tag in _FOCAL))


def _find_features(
    pycolmap: Any, database: Path, folder: Path, names: Sequence[str], lens: Lens, long_side: int, console: Console
) -> None:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name in names:
        groups.setdefault(_camera_of(folder / name), []).append(name)
    options, reader = pycolmap.FeatureExtractionOptions(), pycolmap.ImageReaderOptions()
    options.max_image_size, options.use_gpu = long_side, False
    if (masks := folder.parent / photo_masks.FOLDER).is_dir():
        reader.mask_path = masks
    reader.camera_model = CAMERA_MODELS[lens]
    with pycolmap.Database.open(database) as opened:
        known = {image.name: image.camera_id for image in opened.read_all_images()}
    at_once = os.cpu_count() or 1
    with progress_bar(console, counted=True) as bar:
        task = bar.add_task("Finding features", total=len(names), completed=len(known))
        for members in groups.values():
            camera = next((known[name] for name in members if name in known), -1)
            left = [name for name in members if name not in known]
            while left:
                some = left[: at_once if camera >= 0 else 1]
                reader.existing_camera_id = camera
                pycolmap.extract_features(
                    database,
                    folder,
                    image_names=some,
                    camera_mode=pycolmap.CameraMode.SINGLE,
                    reader_options=reader,
                    extraction_options=options,
                    device=pycolmap.Device.cpu,
                )
                if camera < 0:
                    with pycolmap.Database.open(database) as opened:
                        image = opened.read_image_with_name(some[0])
                    camera = -1 if image is None else image.camera_id
                del left[: len(some)]
                bar.advance(task, len(some))


def pairs_of(names: Sequence[str], matching: Matching) -> list[tuple[str, str]]:
    """Pairs of photos to compare, the later one first; neighbours are by place, some of them far apart for loops."""
    if matching == "exhaustive":
        return [(names[later], names[earlier]) for later in range(len(names)) for earlier in range(later)]
    apart = [*range(1, _NEIGHBOURS + 1), *(2**power for power in range(4, 1 + int(math.log2(max(2, len(names))))))]
    return [(names[later], names[later - step]) for later in range(len(names)) for step in apart if later >= step]


def _match(pycolmap: Any, database: Path, names: Sequence[str], matching: Matching, console: Console) -> None:
    options, pairing = pycolmap.FeatureMatchingOptions(), pycolmap.ImportedPairingOptions()
    options.use_gpu = False
    listed = database.with_name("pairs.txt")
    pairing.match_list_path = listed
    pairs = pairs_of(names, matching)
    with progress_bar(console) as bar:
        task = bar.add_task("Comparing photos", total=len(pairs))
        for _, row in groupby(pairs, key=itemgetter(0)):
            lines = [f"{first} {second}\n" for first, second in row]
            write_text(listed, "".join(lines))
            pycolmap.match_image_pairs(
                database, matching_options=options, pairing_options=pairing, device=pycolmap.Device.cpu
            )
            bar.advance(task, len(lines))
    listed.unlink(missing_ok=True)


def _map(pycolmap: Any, database: Path, output: Path, names: Sequence[str], console: Console) -> tuple[Any, list[int]]:
    """Place the photos. Returns the largest piece, and the number of photos in each."""
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = 0
    sparse = database.with_name("sparse")
    shutil.rmtree(sparse, ignore_errors=True)
    sparse.mkdir(parents=True)
    with progress_bar(console, counted=True) as bar:
        task = bar.add_task("Placing photos", total=len(names))
        found = pycolmap.incremental_mapping(
            database,
            output / "images",
            sparse,
            options=options,
            initial_image_pair_callback=lambda: bar.update(task, completed=2),
            next_image_callback=lambda: bar.advance(task),
        )
    if not found:
        raise UserError(
            f"none of the {len(names)} photos could be placed: take sharp ones, from different places instead of "
            "turning on the spot, and each with at least half of what the one before shows"
        )
    order = sorted(found, key=lambda key: -found[key].num_reg_images())
    shutil.rmtree(sparse)
    return found[order[0]], [found[key].num_reg_images() for key in order]


def _failures(pycolmap: Any, database: Path, names: Sequence[str], placed: Mapping[str, Any]) -> dict[str, Failure]:
    """Reasons why photos are not placed, by name."""
    with pycolmap.Database.open(database) as opened:
        images = {image.image_id: image.name for image in opened.read_all_images()}
        features = {name: opened.num_keypoints_for_image(number) for number, name in images.items()}
        pairs, counts = opened.read_two_view_geometry_num_inliers()
    beside: set[str] = set()  # photos that show something of what placed ones show
    for pair, inliers in zip(pairs, counts, strict=True):
        one, other = (images[number] for number in pycolmap.pair_id_to_image_pair(pair))
        if inliers:
            beside |= {one} if other in placed else set()
            beside |= {other} if one in placed else set()
    return {
        name: "featureless" if features.get(name, 0) < _MIN_FEATURES else "weak" if name in beside else "apart"
        for name in names
        if name not in placed
    }


def _write_scene(output: Path, gps: photo_gps.GpsAlignment | None) -> None:
    """Write what nerfstudio reads, every eighth photo held out if there are enough."""
    from nerfstudio.process_data.colmap_utils import colmap_to_json
    from nerfstudio.utils.rich_utils import CONSOLE

    from difix3d_ns.ns.dataparsers.splits import ALL_TRAIN, INTERVAL

    placed = gps is not None and gps.transform is not None
    with CONSOLE.capture(), redirect_stdout(StringIO()):
        colmap_to_json(output / "colmap" / "sparse" / "0", output, keep_original_world_coordinate=placed)
    path = output / "transforms.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    meta["frames"].sort(key=lambda frame: frame["file_path"])
    files = [frame["file_path"] for frame in meta["frames"]]
    held_out = files[::INTERVAL] if len(files) > ALL_TRAIN else []
    trained = [file for file in files if file not in set(held_out)]
    meta |= {"train_filenames": trained, "val_filenames": held_out, "test_filenames": held_out}
    for frame in meta["frames"]:
        mask = _mask_of(Path(frame["file_path"]).relative_to("images").as_posix())
        if (output / mask).is_file():
            frame["mask_path"] = mask.as_posix()
    if gps is not None and placed:
        meta["applied_transform"] = np.eye(4)[:3].tolist()  # without it, readers expect that axes were exchanged
        meta |= {"orientation_override": "none", "gps_origin": dict(zip(_ORIGIN, gps.origin, strict=True))}
    write_text(path, json.dumps(meta, indent=1))
