"""Requests to a fixer for pictures that come as files: by matched features, from a scene, or from a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.poses import camera_spacing, pose_distances, stack_poses
from difix3d_ns.geometry.resize import resized
from difix3d_ns.initialization.estimated_depths import LONG_SIDE, estimate_depths
from difix3d_ns.io.file_names import distinct_names
from difix3d_ns.io.images import read_picture
from difix3d_ns.io.recently_used import RecentlyUsed
from difix3d_ns.priors.alignment.plane_alignment import Features, features_of, request_on_a_plane
from difix3d_ns.priors.base import FixRequest

_REFERENCE_SIDE = 1600  # pixels that a photo is reduced to before it is matched
_REMEMBERED = 2**30
"""bytes of photos that are kept: 28 of 12 megapixels, or the features of about 90"""
MAX_CANDIDATES = 12
"""photos of a folder that are compared with a picture: those nearest by name"""
_NEIGHBOURS = 6  # photos of a scene by which a picture's depth is found
_ASPECT = 0.02  # relative difference of sides' ratios up to which a picture has the photo's field of view


class NothingShared(UserError):
    """No reference shows what a picture shows."""


class Views(Protocol):
    """Knowledge of pictures: their cameras, and photos that show the same."""

    def request(self, source: Path, image: Tensor) -> FixRequest:
        """Describe a picture to a fixer.

        Args:
            source: its file.
            image: [H, W, 3] in [0, 1].

        Raises:
            UserError: nothing is known of it; the message says what to give.
        """
        ...


@dataclass(frozen=True)
class _Photo:
    """A photograph as its file has it."""

    key: str  # path of the file
    pixels: Tensor  # [H, W, 3] uint8, or uint16 of a file of 16 bits, on the CPU

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    @classmethod
    def read(cls, path: Path) -> _Photo:
        picture = read_picture(path)
        kind = torch.uint16 if picture.deep else torch.uint8
        return cls(str(path), (picture.image * torch.iinfo(kind).max).round().to(kind))

    def image(self, device: str) -> Tensor:
        return self.pixels.to(device).float() / torch.iinfo(self.pixels.dtype).max


@dataclass(frozen=True)
class _FoundFeatures:
    """Features of a photograph, as they were found."""

    key: str  # path of the file
    features: Features

    @property
    def nbytes(self) -> int:
        found = self.features
        arrays = (found.image, found.grey, found.points, found.descriptors)
        return sum(array.nbytes for array in arrays if array is not None)


class UnalignedViews:
    """Photos as they are, for fixers that need no more.

    Args:
        choose: photos to show with a picture, by its file.
        device: of the pictures.
    """

    def __init__(self, choose: Callable[[Path], Sequence[Path]], device: str) -> None:
        self._choose, self._device = choose, device
        self._photos: RecentlyUsed[_Photo] = RecentlyUsed()

    def request(self, source: Path, image: Tensor) -> FixRequest:
        """See ``Views``."""
        return FixRequest(image, [PosedImage(self._read(path)) for path in self._choose(source)])

    def _read(self, path: Path) -> Tensor:
        photo = self._photos.get(str(path))
        if photo is None:
            photo = _Photo.read(path)
            self._photos.add(photo, _REMEMBERED)
        return photo.image(self._device)


class MatchedViews:
    """Photos aligned by their features with a picture of which no camera is known.

    Args:
        choose: photos that may show the same as a picture, by its file.
        count: photos used at most: those with most features in common.
    """

    def __init__(self, choose: Callable[[Path], Sequence[Path]], count: int) -> None:
        self._choose, self._count = choose, count
        self._found: RecentlyUsed[_FoundFeatures] = RecentlyUsed()

    def request(self, source: Path, image: Tensor) -> FixRequest:
        """See ``Views``."""
        photos = [self._features(path) for path in self._choose(source)]
        request = request_on_a_plane(image, features_of(image), photos, self._count)
        if not request.references:
            raise NothingShared(
                "no reference photo shows the same: too few of their features agree. Give photos taken from nearer by "
                "(--reference), or the cameras (--scene or --config)"
            )
        return request

    def _features(self, path: Path) -> Features:
        found = self._found.get(str(path))
        if found is None:
            found = _FoundFeatures(str(path), features_of(read_picture(path).image, _REFERENCE_SIDE))
            self._found.add(found, _REMEMBERED)
        return found.features


class SceneViews:
    """A scene's cameras; depth is estimated from the picture and the photos around it, which alone are read.

    Args:
        scene: what ns-train reads.
        count: photos shown at most.
        device: of the pictures and of the network that estimates depth.

    Raises:
        UserError: the scene cannot be read.
    """

    def __init__(self, scene: Path, count: int, device: str) -> None:
        from difix3d_ns.ns.capture_reader import ScenePhotos
        from difix3d_ns.priors.registry import load_depth

        self._scene = ScenePhotos(scene, _REFERENCE_SIDE)
        self._names = distinct_names(self._scene.files)
        self._count, self._device = count, device
        self._prior = load_depth("multiview", None, device)

    def request(self, source: Path, image: Tensor) -> FixRequest:
        """See ``Views``."""
        index = _index_of(source, self._names, "--scene")
        camera = _at_size(self._scene.cameras[index], image, source)
        photos = [self._scene[other].to(self._device) for other in self._nearest(camera, index)]
        posed = [PosedImage(image, camera), *photos]
        maps = estimate_depths([photo.within(LONG_SIDE) for photo in posed], self._scene.points, self._prior)
        known = [_with_depth(photo, found.depth) for photo, found in zip(posed, maps, strict=True)]
        return FixRequest(image, known[1 : 1 + self._count], camera, known[0].depth, known[0].alpha)

    def _nearest(self, camera: Pinhole, own: int) -> list[int]:
        """Training photos around a camera, but for the one that the picture is of: that would be copied."""
        train = [index for index in self._scene.train if index != own]
        if not train:
            raise NothingShared("the scene has no other photo that is trained on: give more photos")
        poses = stack_poses([self._scene.cameras[index] for index in train])
        distances = pose_distances(stack_poses([camera]), poses, camera_spacing(poses))[0]
        return [train[place] for place in distances.argsort(stable=True)[:_NEIGHBOURS].tolist()]


class TrainingViews:
    """Cameras and the splat of a finished training, for renders that are named after its photos.

    Args:
        config: the training's config.yml.
        count: photos shown at most.
        device: of the splat and of renders.

    Raises:
        UserError: it cannot be loaded.
    """

    def __init__(self, config: Path, count: int, device: str) -> None:
        from difix3d_ns.apps.export_splat import load_pipeline
        from difix3d_ns.ns.reference_views import ReferenceViews

        pipeline: Any = load_pipeline(config, device)
        self._renderer, self._count = pipeline.renderer, count
        self._references = ReferenceViews(pipeline.scene, pipeline.renderer)
        held_out = pipeline.datamanager.eval_dataset
        files = [*pipeline.datamanager.train_dataset.image_filenames, *(held_out.image_filenames if held_out else [])]
        self._names = distinct_names(files)
        self._cameras = [*pipeline.scene.cameras(), *pipeline.scene.evaluation_cameras()]

    @torch.no_grad()
    def request(self, source: Path, image: Tensor) -> FixRequest:
        """See ``Views``."""
        own = _index_of(source, self._names, "--config")
        camera = _at_size(self._cameras[own], image, source)
        render = self._renderer.render(camera, depth=True)
        # the photo that a picture is of would be copied
        chosen = [index for index in self._references.select(camera, render, self._count + 1) if index != own]
        views = [self._references.view(index) for index in chosen[: self._count]]
        return FixRequest(image, views, camera, render.depth, render.alpha).to(image.device)


def _index_of(source: Path, names: Sequence[str], flag: str) -> int:
    """Find the photo that a picture is named after, with its folders where names are equal."""
    found = [index for index, name in enumerate(names) if Path(name).stem == source.stem]
    if len(found) > 1:
        folders = {*source.absolute().parent.parts}
        found = [index for index in found if {*Path(names[index]).parent.parts} <= folders] or found
    if len({names[index] for index in found}) != 1:
        what = "several photos are" if found else "no photo is"
        raise UserError(
            f"{flag}: {what} named {source.stem}, so its camera is not known; name pictures as the photos are named "
            "(ns-render dataset does), or give --reference"
        )
    return found[0]


def _at_size(camera: Pinhole, image: Tensor, source: Path) -> Pinhole:
    height, width = image.shape[:2]
    if abs(width * camera.height / (height * camera.width) - 1) > _ASPECT:
        raise UserError(
            f"{source.name} has {width} x {height} pixels, its photo {camera.width} x {camera.height}: it must show "
            "the same field of view"
        )
    return camera.resized(width, height)


def _with_depth(photo: PosedImage, depth: Tensor) -> PosedImage:
    """A picture with its depth at its own size, opaque where that is known."""
    depth = resized(depth, photo.pose.height, photo.pose.width, "nearest-exact")
    return replace(photo, depth=depth, alpha=(depth > 0).to(depth))
