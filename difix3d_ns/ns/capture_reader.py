"""A nerfstudio dataset as a capture: whatever its dataparsers read, undistorted, at the size of training."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from scipy.ndimage import binary_closing, binary_dilation, binary_opening
from torch import Tensor

from difix3d_ns.data.capture import Capture
from difix3d_ns.data.scene_names import MESH
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import resized
from difix3d_ns.meshing.mesh_orbits import mesh_capture
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.dataparsers.scene_parser import SceneParser, take_over
from difix3d_ns.ns.photo_dataset import PhotoDataset
from difix3d_ns.ns.scene_checks import check_views, scene_errors
from difix3d_ns.ns.splat_frame import SplatFrame

_WHITE = (1.0, 1.0, 1.0)
_RANDOM_POINTS = 2000
_REMEMBERED = 16
"""photos that are kept after they were read: at 1600 px some 300 MB"""


class _Photograph(NamedTuple):
    """Undistorted and reduced."""

    camera: Pinhole
    image: Tensor  # [H, W, 3]
    mask: Tensor | None  # [H, W, 1]
    cut_out: bool  # an object with alpha, put before white


class ScenePhotos:
    """Photos of a dataset with their cameras, as ``read_dataset`` reads them, each when it is asked for.

    Args:
        path: see ``read_dataset``.
        long_side: pictures are reduced to this many pixels on their longer side, never enlarged.

    Raises:
        UserError: nothing nerfstudio reads is there, or its description cannot be used.
    """

    def __init__(self, path: Path, long_side: int) -> None:
        splits = _splits(_dataparser(path, None), path)
        datasets = {split: _dataset(outputs) for split, outputs in splits.items()}
        self._long_side = long_side
        self._places = [(dataset, index) for dataset in datasets.values() for index in range(len(dataset))]
        self.cameras = [to_pinhole(dataset.cameras[index]).within(long_side) for dataset, index in self._places]
        self.files = [Path(dataset.image_filenames[index]) for dataset, index in self._places]
        self.train = list(range(len(datasets["train"])))
        """numbers of the photos that are trained on"""
        self.points = _points(splits["train"])[0]
        """points [P, 3] that came with the scene, world; None if it has none"""
        self._read = functools.lru_cache(maxsize=_REMEMBERED)(self._photo)

    def __getitem__(self, index: int) -> PosedImage:
        """Read a photo, undistorted, with camera and mask.

        Raises:
            UserError: its file cannot be read.
        """
        return self._read(index)

    def _photo(self, index: int) -> PosedImage:
        found = _photograph(*self._places[index], self._long_side)
        return PosedImage(found.image, found.camera, mask=found.mask)


def read_dataset(
    path: Path,
    name: str,
    long_side: int,
    *,
    parser: str | None = None,
    hold_out: int = 4,
    white_background: bool = False,
) -> Capture:
    """Read a dataset as ns-train would see it: its dataparser's poses (oriented, centred, scaled) and its split.

    Args:
        path: a folder with ``transforms.json`` or such a file, a folder with a COLMAP model and ``images``, or what
            ``parser`` reads; a mesh if that is "mesh", or "mesh@30" for an orbit at 30 degrees.
        name: for the capture.
        long_side: pictures are reduced to this many pixels on their longer side, never enlarged.
        parser: a dataparser of nerfstudio by name, e.g. blender-data; None: by what is in the folder.
        hold_out: without test views, every so many-th training view is one; 0: none is.
        white_background: the pictures show an object before white: mask it.

    Raises:
        UserError: nothing nerfstudio reads is there, or something in it cannot be used.
    """
    kind, _, elevation = (parser or "").partition("@")
    if kind == MESH:
        return mesh_capture(path, name, long_side, float(elevation) if elevation else None)
    dataparser = _dataparser(path, parser)
    splits = _splits(dataparser, path)
    photographs: list[_Photograph] = []
    train: list[int] = []
    test: list[int] = []
    for split, outputs in splits.items():
        dataset = _dataset(outputs)
        for index in range(len(dataset)):
            (train if split == "train" else test).append(len(photographs))
            photographs.append(_photograph(dataset, index, long_side))
    notes: tuple[str, ...] = ()
    if not test and hold_out:
        test = train[hold_out // 2 :: hold_out]
        train = [i for i in train if i not in test]
        notes += (f"no test views: every {hold_out}th of {len(train) + len(test)} is held out (--hold-out)",)
    if len(train) < 2 or (hold_out and not test):
        raise UserError(f"{path} has {len(train)} training and {len(test)} other views, which is too few; add images")
    cameras, images = [p.camera for p in photographs], [p.image for p in photographs]
    masks: list[Tensor] | None = None
    if white_background:
        masks = [_object_mask(image) for image in images]
    elif any(p.mask is not None for p in photographs):
        masks = [torch.ones_like(p.image[..., :1]) if p.mask is None else p.mask for p in photographs]
    points, colours = _points(splits["train"])
    random_points = points is None or colours is None
    if points is None or colours is None:
        points, colours = _random_points([cameras[i] for i in train], [images[i] for i in train])
        notes += ("no sparse points: the splats start from random ones",)
    return Capture(
        name=name,
        cameras=cameras,
        images=images,
        points=points,
        colours=colours,
        train=train,
        test=test,
        masks=masks,
        background=_WHITE if white_background or photographs[0].cut_out else None,
        devices=_devices(splits, cameras),
        notes=notes,
        random_points=random_points,
        files=[Path(name) for outputs in splits.values() for name in outputs.image_filenames],
        to_original=SplatFrame.of(splits["train"]).to_original,
    )


def _dataparser(path: Path, name: str | None) -> DataParser:
    if name is not None:
        from nerfstudio.configs.dataparser_configs import all_dataparsers

        if name not in all_dataparsers:
            raise UserError(f"nerfstudio has no dataparser {name}: give one of {', '.join(sorted(all_dataparsers))}")
        config = copy.deepcopy(all_dataparsers[name])
        config.data = path
        take_over(config)
        return config.setup()
    if not path.exists():
        raise UserError(f"{path} does not exist: give procedural:N or a folder that nerfstudio reads")
    found = NerfstudioDataParserConfig(data=path, load_3D_points=True)
    take_over(found)
    return found.setup()


def _splits(parser: DataParser, path: Path) -> dict[str, DataparserOutputs]:
    """Training views and, where the dataparser has any, held-out ones."""
    found: dict[str, DataparserOutputs] = {"train": _parse(parser, path, "train")}
    check_views(found["train"], path, "train")
    for split in ("test", "val"):
        try:
            outputs = _parse(parser, path, split)
        except UserError:
            continue  # a dataset may name only one of the two, or none
        known = set(found["train"].image_filenames)
        if outputs.image_filenames and not known.intersection(outputs.image_filenames):
            check_views(outputs, path, split)
            return found | {split: outputs}
    return found


def _parse(parser: DataParser, path: Path, split: str) -> DataparserOutputs:
    with scene_errors(path, isinstance(parser, SceneParser)):
        return parser.get_dataparser_outputs(split)


def _dataset(outputs: DataparserOutputs) -> PhotoDataset:
    outputs.alpha_color = None  # alpha is used by ``_photograph``
    return PhotoDataset(outputs)


def _photograph(dataset: PhotoDataset, index: int, long_side: int) -> _Photograph:
    data: dict[str, Any] = dataset.get_data(index, image_type="uint8")
    image, pinhole = data["image"].numpy(), to_pinhole(dataset.cameras[index])
    values = torch.from_numpy(np.ascontiguousarray(image)).float() / 255
    found = data.get("mask")
    opacity = None if found is None else found.float()
    cut_out = values.shape[2] == 4
    if cut_out:
        alpha = values[..., 3:]
        values = values[..., :3] * alpha + (1 - alpha)  # before white
        opacity = alpha if opacity is None else alpha * opacity
    small = pinhole.within(long_side)
    size = (small.height, small.width)
    mask = None if opacity is None else resized(opacity, *size)
    return _Photograph(small, resized(values, *size), mask, cut_out)


def _points(outputs: DataparserOutputs) -> tuple[Tensor | None, Tensor | None]:
    xyz, rgb = outputs.metadata.get("points3D_xyz"), outputs.metadata.get("points3D_rgb")
    if xyz is None or rgb is None or len(xyz) < 10:
        return None, None
    return xyz.float(), rgb.float() / 255


def _random_points(cameras: list[Pinhole], images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Points [P, 3] along the rays of pixels, as far as scenes are, and the pixels' colours."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.stack([camera.position for camera in cameras])
    extent = float((centres - centres.mean(0)).norm(dim=1).max()) or 1.0
    points, colours = [], []
    for camera, image in zip(cameras, images, strict=True):
        count = -(-_RANDOM_POINTS // len(cameras))
        where = torch.rand(count, 2, generator=generator) * torch.tensor([camera.width, camera.height])
        depth = extent / (0.2 + 1.8 * torch.rand(count, 1, generator=generator))  # evenly in disparity
        rays = torch.cat([where, torch.ones(count, 1)], 1) @ camera.intrinsics.inverse().T
        points.append(rays * depth @ camera.camera_to_world[:3, :3].T + camera.position)
        column, row = where.long().unbind(1)
        colours.append(image[row.clamp(max=image.shape[0] - 1), column.clamp(max=image.shape[1] - 1)])
    return torch.cat(points), torch.cat(colours)


def _devices(splits: dict[str, DataparserOutputs], cameras: list[Pinhole]) -> list[int] | None:
    """Find the physical camera of each picture: same folder and same intrinsics; None if that is not known."""
    names = [path for outputs in splits.values() for path in outputs.image_filenames]
    keys = [
        (Path(path).parent, camera.width, camera.height, *camera.intrinsics.flatten().round(decimals=2).tolist())
        for path, camera in zip(names, cameras, strict=True)
    ]
    counts = Counter(keys)
    if len(counts) < 2 or min(counts.values()) < 3:  # one camera, or every picture calibrated by itself
        return None
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def _object_mask(image: Tensor) -> Tensor:  # [H, W, 1]
    """Mask of whatever is dark or coloured (a shadow on white is neither), without specks, small holes closed."""
    pixels = image.numpy()
    solid = (np.ptp(pixels, axis=-1) > 0.18) | (pixels.max(-1) < 0.6)
    solid = binary_closing(binary_opening(solid), iterations=2)
    return torch.from_numpy(binary_dilation(solid, iterations=1)).float()[..., None]
