"""One dataparser for all formats: nerfstudio's cameras of a described capture, centred before anything is float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from nerfstudio.cameras import camera_utils
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import (
    DataParser,
    DataParserConfig,
    DataparserOutputs,
    transform_poses_to_original_space,
)
from nerfstudio.data.dataparsers.blender_dataparser import Blender, BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser, ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGP, InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.utils.colors import get_color
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.ns.dataparsers.blender_files import TRAIN_FILE, read_blender
from difix3d_ns.ns.dataparsers.colmap_model import read_points as read_colmap_points
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene, Frame, Lens, PointsGiven
from difix3d_ns.ns.dataparsers.layouts import describe_colmap, find_layout, point_matches, read_layout
from difix3d_ns.ns.dataparsers.photo_orbit import SinglePhotoParserConfig, read_single_photo
from difix3d_ns.ns.dataparsers.picture_files import (
    TURN,
    choose_copy,
    read_header,
    reduction,
    unopened_picture,
    used_picture,
)
from difix3d_ns.ns.dataparsers.splits import Split, split_scene
from difix3d_ns.ns.dataparsers.transforms_file import read_transforms
from difix3d_ns.ns.held_out_photos import none_held_out
from difix3d_ns.ns.scene_checks import MAX_LOST_SPACINGS, check_pictures, check_scene, lost_spacings

PoseFrame = Literal["all", "train"]
_BLENDER_BOX = 1.5  # nerfstudio's


def _read_folder(config: NerfstudioDataParserConfig) -> DescribedScene:
    """Read a scene whose format is found from its files."""
    layout = find_layout(Path(config.data))
    if layout.kind == "transforms":
        assert layout.file is not None
        scene = read_transforms(layout.file, points=config.load_3D_points)
        return _with_colmap_points(scene) if config.load_3D_points else scene
    if layout.kind == "blender":
        return read_blender(layout.folder)
    return read_layout(layout, with_points=config.load_3D_points)


def _with_colmap_points(scene: DescribedScene) -> DescribedScene:
    """Take the points of the COLMAP model that ns-process-data leaves beside transforms.json, if it names none."""
    model, applied = scene.source.parent / "colmap/sparse/0", scene.applied_transform
    if scene.points is not None or applied is None or not model.is_dir():
        return scene
    points = read_colmap_points(model)
    if points is None:
        return scene
    placed = points.positions @ applied[:, :3].T + applied[:, 3]
    return replace(
        scene, points=PointsGiven(placed, points.colours), notes=[*scene.notes, f"Points are those of {model}."]
    )


def _read_instant_ngp(config: InstantNGPDataParserConfig) -> DescribedScene:
    return read_transforms(_existing(Path(config.data)), ordered=False)


def _read_blender(config: BlenderDataParserConfig) -> DescribedScene:
    data = Path(config.data)
    return read_blender(data.parent if data.name == TRAIN_FILE else data, ply=config.ply_path)


READERS: dict[type[DataParserConfig], tuple[type[DataParser], Callable[[Any], DescribedScene]]] = {
    NerfstudioDataParserConfig: (Nerfstudio, _read_folder),
    InstantNGPDataParserConfig: (InstantNGP, _read_instant_ngp),
    BlenderDataParserConfig: (Blender, _read_blender),
    ColmapDataParserConfig: (ColmapDataParser, describe_colmap),
    SinglePhotoParserConfig: (Nerfstudio, read_single_photo),
}
"""settings of nerfstudio's dataparsers: which class of its own reads them there, which function here"""


def describe(config: DataParserConfig) -> DescribedScene:
    """Read the capture that a dataparser's settings name.

    Args:
        config: of a kind in ``READERS``.

    Raises:
        UserError: it cannot be read, or not trained on; the message names file and frame, and the remedy.
    """
    if config.data is None:
        raise UserError("no scene given: add --data FOLDER (a folder with transforms.json and images)")
    scene = READERS[type(config)][1](config)
    check_scene(scene, getattr(config, "auto_scale_poses", False))
    return scene


def check_folder(data: Path) -> None:
    """Check that a folder, or a file with transforms, can be trained on as ``--data`` and evaluated.

    Raises:
        UserError: the message names file and frame, and the remedy.
    """
    config = NerfstudioDataParserConfig(data=data)
    scene = describe(config)
    if not split_scene(scene, config).test:
        raise none_held_out("and a benchmark needs some")
    check_pictures([choose_copy(frame.image, 1, _folder(scene)) for frame in scene.frames], data)


def take_over(config: DataParserConfig, pose_frame: PoseFrame = "all") -> bool:
    """Have ``SceneParser`` read what nerfstudio's own dataparser would, if it can.

    Args:
        config: changed in place.
        pose_frame: see ``SceneParser``.

    Returns:
        Whether it does; other dataparsers are left as they are.

    Raises:
        UserError: a pose frame is given that another dataparser does not have.
    """
    theirs = READERS.get(type(config), (None,))[0]
    if config._target is theirs or (isinstance(config._target, type) and issubclass(config._target, SceneParser)):
        config._target = TrainFramedSceneParser if pose_frame == "train" else SceneParser
        return True
    if pose_frame == "train":
        raise UserError(
            "--pipeline.datamanager.pose-frame train: not with this dataparser, only with "
            "nerfstudio-data, colmap, instant-ngp-data and blender-data"
        )
    return False


class SceneOutputs(DataparserOutputs):
    """nerfstudio's outputs whose way back to original coordinates is in float64."""

    def transform_poses_to_original_space(
        self, poses: Tensor, camera_convention: Literal["opengl", "opencv"] = "opencv"
    ) -> Tensor:
        """Return poses [N, 3, 4] in the capture's original coordinates, float64."""
        return transform_poses_to_original_space(
            poses.double(), self.dataparser_transform.double(), self.dataparser_scale, camera_convention
        )


class Placement(NamedTuple):
    """The way from a capture's coordinates to those of training."""

    transform: np.ndarray  # [4, 4] float64, before scaling
    scale: float
    origin: np.ndarray  # [3] float64, subtracted first

    def poses(self, poses: np.ndarray) -> np.ndarray:
        """Place poses [N, 4, 4] float64."""
        placed = self.transform @ poses
        placed[:, :3, 3] *= self.scale
        return placed

    def points(self, points: np.ndarray) -> np.ndarray:
        """Place points [N, 3] float64."""
        return (points @ self.transform[:3, :3].T + self.transform[:3, 3]) * self.scale


@dataclass(frozen=True)
class _Photo:
    """A frame with the files and the lens it is trained with."""

    frame: Frame
    image: Path
    lens: Lens
    turned: bool  # whether EXIF says to turn it
    mask: Path | None
    depth: Path | None
    depth_confidence: Path | None


class SceneParser(DataParser):
    """Cameras of any capture that can be described, in nerfstudio's frame (up, centre, scale).

    Args:
        config: of a kind in ``READERS``; all its fields count.
    """

    pose_frame: PoseFrame = "all"
    """poses by which up, centre and scale are found: all, as nerfstudio does, or those of training"""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self._scene: DescribedScene | None = None
        self._split: Split | None = None

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        if self._scene is None:
            self._scene = describe(self.config)
        if self._split is None:
            self._split = split_scene(self._scene, self.config)
        scene, config = self._scene, self.config
        placement = self._place(scene, self._split)
        factor = self._factor(scene, self._split)
        ratio = self._trained_ratio(scene, self._split, factor) if split != "train" else None
        photos = [_photo(scene.frames[index], factor, _folder(scene), ratio) for index in self._split.of(split)]
        if split == "train":
            _log(scene, self._split, photos)
        made = set(scene.generated)
        metadata: dict[str, Any] = {
            "generated": [photo.frame.name in made for photo in photos],
            "generated_about": scene.generated_about,
            "depth_filenames": _files([photo.depth for photo in photos]),
            "depth_confidence_filenames": _files([photo.depth_confidence for photo in photos]),
            "depth_unit_scale_factor": _depth_unit(scene, config),
            "mask_color": getattr(config, "mask_color", None),
            "origin": placement.origin,
        }
        if scene.points is not None:
            points = placement.points(scene.points.positions) * scene.applied_scale
            metadata["points3D_xyz"] = torch.from_numpy(points.astype(np.float32))
            metadata["points3D_rgb"] = torch.from_numpy(scene.points.colours)
            if getattr(config, "max_2D_matches_per_3D_point", 0):
                metadata |= point_matches(cast(ColmapDataParserConfig, config), factor)
        return SceneOutputs(
            image_filenames=[photo.image for photo in photos],
            cameras=_cameras(photos, placement),
            alpha_color=_background(scene, config),
            scene_box=SceneBox(aabb=_box(scene, config) * torch.tensor([[-1.0] * 3, [1.0] * 3])),
            mask_filenames=_files([photo.mask for photo in photos]),
            dataparser_scale=placement.scale * scene.applied_scale,
            dataparser_transform=_from_original(scene, placement),
            metadata=metadata,
        )

    def _place(self, scene: DescribedScene, split: Split) -> Placement:
        """Find the frame of training.

        Raises:
            UserError: coordinates stay so far from the origin that float32 loses the poses.
        """
        indices = split.train if self.pose_frame == "train" and split.train else range(len(scene.frames))
        poses = np.stack([scene.frames[index].pose for index in indices])
        config = self.config
        center: Any = getattr(config, "center_method", "none")
        positions = poses[:, :3, 3]
        origin = np.zeros(3)
        if center != "none" or (not hasattr(config, "center_method") and _far(positions) > MAX_LOST_SPACINGS):
            origin = positions.mean(0)
        elif (lost := _far(positions)) > MAX_LOST_SPACINGS:
            raise UserError(
                f"--center-method none: the camera positions of {scene.source} are so far from the origin "
                f"({np.abs(positions).max():.0f}) that float32 would round them by {lost:.2g} camera spacings; "
                "leave the flag away, or give --center-method poses"
            )
        centred = poses.copy()
        centred[:, :3, 3] -= origin
        _, found = camera_utils.auto_orient_and_center_poses(
            torch.from_numpy(centred.astype(np.float32)),
            method=cast(Any, scene.orientation or getattr(config, "orientation_method", "none")),
            center_method=center,
        )
        transform = np.eye(4)
        transform[:3] = found.double().numpy()
        transform[:3, 3] -= transform[:3, :3] @ origin
        scale = float(getattr(config, "scale_factor", 1.0))
        if isinstance(config, InstantNGPDataParserConfig):
            scale = config.scene_scale
        if getattr(config, "auto_scale_poses", False):
            size = np.abs((transform @ poses)[:, :3, 3]).max()
            if size == 0:
                raise UserError(f"{scene.source}: all training cameras are at one place; add images from other places")
            scale /= float(size)
        return Placement(transform, scale, origin)

    def _trained_ratio(self, scene: DescribedScene, split: Split, factor: int) -> tuple[float, float] | None:
        """Return a training photo's size over that stated; None if there is none, or all are trained on."""
        held_out = {*split.val, *split.test} - {*split.train}
        if not split.train or not held_out:
            return None
        frame = scene.frames[split.train[0]]
        lens = used_picture(frame, factor, _folder(scene)).lens
        return lens.width / frame.lens.width, lens.height / frame.lens.height

    def _factor(self, scene: DescribedScene, split: Split) -> int:
        """Find the factor by which photos are reduced: the flag's, else the scene's, else nerfstudio's."""
        given = getattr(self.config, "downscale_factor", None)
        if given is not None:
            if given < 1:
                raise UserError(f"--downscale-factor {given}: 1 or more is needed")
            return int(given)
        if scene.factor is not None:
            return scene.factor
        lenses = [scene.frames[index].lens for index in split.train or range(len(scene.frames))]
        return reduction(max(max(lens.width, lens.height) for lens in lenses))


class TrainFramedSceneParser(SceneParser):
    """The same in a frame (up, centre, scale) found from the training poses alone."""

    pose_frame: PoseFrame = "train"


def _transforms_path(data: Path) -> Path:
    return data if data.suffix == ".json" else data / "transforms.json"


def _existing(data: Path) -> Path:
    if not data.exists():
        raise UserError(f"--data {data} does not exist; give a folder with transforms.json and images")
    path = _transforms_path(data)
    if not path.is_file():
        hint = f"run `difix3d pose {data} --output SCENE` first and train on SCENE"
        if (data / "colmap" / "sparse").exists() or (data / "sparse").exists():
            hint = f"read the COLMAP model: end the command with `--data {data} colmap`"
        raise UserError(f"{path} is missing: {hint}")
    return path


def _folder(scene: DescribedScene) -> Path:
    return scene.source if scene.source.is_dir() else scene.source.parent


def _far(positions: np.ndarray) -> float:
    return lost_spacings(positions, float(np.abs(positions).max()))


def _photo(frame: Frame, factor: int, folder: Path, ratio: tuple[float, float] | None = None) -> _Photo:
    used = used_picture(frame, factor, folder) if ratio is None else unopened_picture(frame, factor, folder, ratio)
    masks, depths = (
        [None if file is None else choose_copy(file, factor, folder, prefix) for file in files]
        for prefix, files in (("masks", [frame.mask]), ("depths", [frame.depth, frame.depth_confidence]))
    )
    return _Photo(frame, used.path, used.lens, used.turned, masks[0], depths[0], depths[1])


def _files(paths: list[Path | None]) -> Any:  # nerfstudio knows no None among them
    return paths if any(path is not None for path in paths) else None


def _cameras(photos: list[_Photo], placement: Placement) -> Cameras:
    poses = placement.poses(np.array([photo.frame.pose for photo in photos]).reshape(-1, 4, 4))
    lenses = [photo.lens for photo in photos]

    def column(values: list[Any], kind: torch.dtype = torch.float32) -> Tensor:  # [N, 1]
        return torch.tensor(values, dtype=kind).reshape(-1, 1)

    metadata: dict[str, Any] = {}
    if any(lens.crop_radius is not None for lens in lenses):
        metadata["fisheye_crop_radius"] = column([lens.crop_radius or float("nan") for lens in lenses])
    width = len(lenses[0].distortion) if lenses else 6
    return Cameras(
        camera_to_worlds=torch.from_numpy(poses[:, :3].astype(np.float32)),
        fx=column([lens.fx for lens in lenses]),
        fy=column([lens.fy for lens in lenses]),
        cx=column([lens.cx for lens in lenses]),
        cy=column([lens.cy for lens in lenses]),
        width=column([lens.width for lens in lenses], torch.int64),
        height=column([lens.height for lens in lenses], torch.int64),
        distortion_params=torch.tensor([lens.distortion for lens in lenses], dtype=torch.float32).reshape(-1, width),
        camera_type=column([lens.camera_type.value for lens in lenses], torch.int64),
        metadata=metadata,
    )


def _from_original(scene: DescribedScene, placement: Placement) -> Tensor:  # [3, 4] float64
    transform = placement.transform
    if scene.applied_transform is not None:
        applied = np.eye(4)
        applied[:3] = scene.applied_transform
        transform = transform @ applied
    return torch.from_numpy(transform[:3].copy())


def _depth_unit(scene: DescribedScene, config: Any) -> float:
    given = getattr(config, "depth_unit_scale_factor", None)
    return scene.depth_unit if given is None or given == DescribedScene.depth_unit else float(given)


def _background(scene: DescribedScene, config: Any) -> Tensor | None:
    colour = config.alpha_color if isinstance(config, BlenderDataParserConfig) else scene.background
    return None if colour is None else get_color(colour)


def _box(scene: DescribedScene, config: Any) -> float:
    """Half the side of the cube that nerfstudio takes for the scene."""
    if isinstance(config, BlenderDataParserConfig):
        return _BLENDER_BOX
    if isinstance(config, InstantNGPDataParserConfig):
        return scene.box or 0.5
    return float(getattr(config, "scene_scale", 1.0))


def _log(scene: DescribedScene, split: Split, photos: list[_Photo]) -> None:
    about = [scene.generated_about] if scene.generated_about else []
    for note in [*about, *scene.notes, *([split.note] if split.note else []), *_size_notes(photos)]:
        CONSOLE.log(note)


def _size_notes(photos: list[_Photo]) -> list[str]:
    reduced = [photo for photo in photos if photo.lens.width != photo.frame.lens.width]
    notes = []
    if tagged := [photo.image for photo in photos if photo.turned]:
        notes.append(
            f"{len(tagged)} photos, e.g. {tagged[0].name}, have an EXIF tag that turns them; they are trained on as "
            f"stored, as COLMAP reads them. If their poses were found on turned pictures, turn the pixels: {TURN}"
        )
    if reduced:
        photo = max(reduced, key=lambda one: one.lens.width * one.lens.height)
        stated, used = photo.frame.lens, photo.lens
        where = f"from {photo.image.parent.name}" if photo.image != photo.frame.image else "reduced in memory"
        if photo.image == photo.frame.image and photo.image.is_file():
            where = where if read_header(photo.image).size != (used.width, used.height) else "the size of the files"
        notes.append(
            f"Photos are trained on at {used.width} x {used.height} pixels ({where}) where the scene states "
            f"{stated.width} x {stated.height}; --downscale-factor 1 after the dataparser's name trains on these"
        )
    return notes
