"""A mesh of a splat: its depth at the photographs and between them, fused, cleaned and coloured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import psutil
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.orbits import converging, hemisphere
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.spacing import evenly_spaced
from difix3d_ns.meshing.cleaning import SMOOTHING, closed, inside, simplified, smoothed, without_specks, without_unseen
from difix3d_ns.meshing.depth_view import DepthView, depth_view
from difix3d_ns.meshing.extent import PHOTOS, pixel_size, seen_box
from difix3d_ns.meshing.painting import Occlusion, Points, colours
from difix3d_ns.meshing.photo_counts import unseen_share
from difix3d_ns.meshing.texture import Charts, painted, unwrapped
from difix3d_ns.meshing.volume import Box, Volume, needed_bytes
from difix3d_ns.views.protocols import Render, Scene
from difix3d_ns.views.targets import auto_targets

LONG_SIDE = 800
"""pixels of a depth map, at most"""
MAX_VIEWS = 120
"""photographs whose depth is used, evenly chosen"""
MIN_VOXELS, MAX_VOXELS = 64, 384
"""along the longest side, where nobody says how many: one for each pixel of the photographs"""
TEXTURED_FACES = 20_000
"""of a mesh that gets a texture, where nobody says how many: 40,000 take three times as long to lay flat"""
BETWEEN_CONFIDENCE = 0.5
"""of depth between the photographs, against 1 at them"""
_ROOM_PHOTOS = 2  # that see a face of a room or facade, at least
_SHARE_OF_MEMORY = 0.8
_RENDERS = 32  # at photographs, for the colours of what these do not show

Progress = Callable[[str, int, int], None]
"""called with what is done, how much of it is, and how much there is"""


class SurfaceRenderer(Protocol):
    """The splat, and where its surface is."""

    def render(self, camera: Pinhole) -> Render:
        """Render what is seen from a camera."""
        ...

    def surface_depth(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Render (depth [H, W, 1] along z of the surface, 0 where there is none; accumulated opacity [H, W, 1])."""
        ...


@dataclass(frozen=True)
class MeshOptions:
    """Settings of a mesh."""

    between: int = 16  # cameras between the photographs
    voxels: int | None = None  # along the longest side; None: one for each pixel of the photographs
    box: Box | None = None  # what is meshed, in ``turn``'s coordinates; None: what ``PHOTOS`` photographs see
    turn: np.ndarray | None = None  # [4, 4] from the splat's coordinates to the box's; None: they are the same
    seen_by: int | None = None  # photographs that see a face, at least; None: 0 of an object, 2 elsewhere
    faces: int | None = None  # at most; None: all, or ``TEXTURED_FACES`` of a mesh with a texture
    smoothing: int = SMOOTHING
    close: bool = False  # close holes
    texture: int = 0  # side of the picture in pixels; 0: vertices have colours


@dataclass(frozen=True)
class SplatMesh:
    """A mesh and what is known of it."""

    mesh: trimesh.Trimesh  # without colours; cut along the seams of its texture if it has one
    colours: np.ndarray  # [V, 3] uint8 of its vertices
    counts: np.ndarray  # [V] int32: photographs that show each vertex
    parts: int
    unseen: float  # share of the area that no photograph shows
    picture: np.ndarray | None = None  # [S, S, 3] uint8
    places: np.ndarray | None = None  # [V, 2] in the picture


class _Photographs(Sequence[PosedImage]):
    """The photographs of a scene, each made when it is asked for: all at once are gigabytes."""

    def __init__(self, scene: Scene, numbers: Sequence[int]) -> None:
        self._scene, self._numbers = scene, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:  # of a number; slices are nobody's
        return self._scene.photo(self._numbers[index])


def mesh_of_splat(scene: Scene, renderer: SurfaceRenderer, options: MeshOptions, progress: Progress) -> SplatMesh:
    """Make a mesh of a splat.

    Args:
        scene: its photographs.
        renderer: the splat.
        options: see there.
        progress: told after each piece.

    Raises:
        UserError: nothing is left, or there is too little memory.
    """
    chosen = evenly_spaced(len(scene), MAX_VIEWS)
    cameras = [scene.camera(index) for index in chosen]
    views = []
    for number, index in enumerate(chosen):
        views.append(_depth(renderer, cameras[number], scene.mask(index)))
        progress("Depth at the photos", number + 1, len(chosen))
    box = _extent(views, options)
    voxels = options.voxels or int(np.clip(box.size.max() / pixel_size(views, box), MIN_VOXELS, MAX_VOXELS))
    _check_memory(box, voxels)
    between = _cameras_between(scene, cameras, options.between)
    mesh = _fused(views, renderer, between, box, voxels, progress)
    photos = _Photographs(scene, range(len(scene)))
    taken = _Photographs(scene, [index for index in range(len(scene)) if not scene.generated(index)])
    mesh = _cleaned(mesh, photos, options, cameras)
    rendered = [*cameras[:: -(-len(cameras) // _RENDERS)], *between]
    return _coloured(mesh, photos, taken, renderer, rendered, options, progress)


def _depth(
    renderer: SurfaceRenderer, camera: Pinhole, mask: Tensor | None = None, confidence: float = 1.0
) -> DepthView:
    small = camera.within(LONG_SIDE)
    depth, alpha = renderer.surface_depth(small)
    if mask is not None:
        mask = resized(mask, small.height, small.width)
    return depth_view(small, depth, alpha, mask, confidence)


def _extent(views: Sequence[DepthView], options: MeshOptions) -> Box:
    """The box of what is meshed, in the splat's coordinates."""
    if options.box is not None:
        if options.turn is None:
            return options.box
        # the box along our axes around a turned one
        corners = np.stack(np.meshgrid(*zip(options.box.low, options.box.high, strict=True)), -1).reshape(-1, 3)
        corners = trimesh.transform_points(corners, np.linalg.inv(options.turn))
        return Box(corners.min(0), corners.max(0))
    box = seen_box(views)
    if box is None:
        raise UserError(
            f"nothing is seen by {min(PHOTOS, len(views))} photos, so that it is not known what to mesh; give --crop, "
            "the least x y z and the greatest"
        )
    return box


def _check_memory(box: Box, voxels: int) -> None:
    needed, free = needed_bytes(box, voxels), psutil.virtual_memory().available
    if needed > _SHARE_OF_MEMORY * free:
        fitting = int(voxels * (_SHARE_OF_MEMORY * free / needed) ** (1 / 3))
        raise UserError(
            f"--voxels {voxels} needs {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; give --voxels "
            f"{max(fitting, 1)}, or a smaller --crop"
        )


def _cameras_between(scene: Scene, cameras: Sequence[Pinhole], count: int) -> list[Pinhole]:
    """Cameras between the photographs'; around an object whose photographs are far apart, around it."""
    if count == 0 or len(cameras) < 2:
        return []
    try:
        found = auto_targets(cameras, scene.points(), count, beyond=0.0)
        if not found and converging(cameras):
            found = hemisphere(cameras, count)
    except ValueError:  # there is no room between them
        return []
    return found


def _fused(
    views: Sequence[DepthView],
    renderer: SurfaceRenderer,
    between: Sequence[Pinhole],
    box: Box,
    voxels: int,
    progress: Progress,
) -> trimesh.Trimesh:
    volume, total = Volume(box, voxels), len(views) + len(between)
    for number in range(total):
        if number < len(views):
            volume.add(views[number])
        else:
            volume.add(_depth(renderer, between[number - len(views)], confidence=BETWEEN_CONFIDENCE))
        progress("Depth fused", number + 1, total)
    return volume.surface()


def _cleaned(
    mesh: trimesh.Trimesh, photos: Sequence[PosedImage], options: MeshOptions, cameras: Sequence[Pinhole]
) -> trimesh.Trimesh:
    """The mesh as it stays."""
    if options.box is not None:
        mesh = inside(mesh, options.box, options.turn)
    mesh, _ = without_specks(mesh)
    mesh = smoothed(mesh, options.smoothing)
    seen_by = options.seen_by
    if seen_by is None:
        seen_by = 0 if converging(cameras) else min(_ROOM_PHOTOS, max(1, len(photos) // 3))
    if seen_by and len(mesh.faces):
        counts = Occlusion(mesh).count(_corners(mesh), photos)
        mesh, _ = without_specks(without_unseen(mesh, counts, seen_by))
    if options.close and len(mesh.faces):
        mesh = closed(mesh)
    faces = options.faces or (TEXTURED_FACES if options.texture else None)
    if faces:
        mesh = simplified(mesh, faces)
    if not len(mesh.faces):
        raise UserError(
            "the mesh is empty: "
            + (
                "--crop holds no surface; its numbers are in the coordinates of --frame"
                if options.box is not None
                else f"no surface is seen by {seen_by} photos; give --seen-by 1"
                if seen_by > 1
                else "the splat has no surface where the photos look; train it longer"
            )
        )
    return mesh


def _corners(mesh: trimesh.Trimesh) -> Points:
    return Points(np.asarray(mesh.vertices), np.asarray(mesh.vertex_normals))


def _coloured(
    mesh: trimesh.Trimesh,
    photos: Sequence[PosedImage],
    taken: Sequence[PosedImage],  # those that no generator made
    renderer: SurfaceRenderer,
    rendered: Sequence[Pinhole],
    options: MeshOptions,
    progress: Progress,
) -> SplatMesh:
    occlusion, corners = Occlusion(mesh), _corners(mesh)
    counts = occlusion.count(corners, taken)
    progress("Photos that see each face", 1, 1)
    renders = []
    for number, camera in enumerate(rendered):
        small = camera.within(LONG_SIDE)
        renders.append(PosedImage(renderer.render(small).image, small))
        progress("Colours", number + 1, len(rendered))
    of_vertices = _fetched(corners, photos, renders, occlusion)
    _, parts = without_specks(mesh, 0.0)
    found = SplatMesh(mesh, _bytes(of_vertices), counts, parts, unseen_share(mesh, counts))
    if not options.texture:
        return found
    charts = unwrapped(mesh, options.texture)
    progress("Texture laid flat", 1, 1)
    picture = painted(charts, _fetched(charts.points, photos, renders, occlusion))
    progress("Texture painted", 1, 1)
    return _textured(found, charts, picture)


def _textured(found: SplatMesh, charts: Charts, picture: np.ndarray) -> SplatMesh:
    return replace(
        found,
        mesh=charts.mesh,
        colours=found.colours[charts.origin],
        counts=found.counts[charts.origin],
        picture=picture,
        places=charts.places,
    )


def _fetched(
    points: Points, photos: Sequence[PosedImage], renders: Sequence[PosedImage], occlusion: Occlusion
) -> np.ndarray:
    """Colours [N, 3] in [0, 1]: of photographs, where none shows a point of renders, else of the nearest point."""
    base, known = colours(points, renders, occlusion)
    base = _spread(points.positions, base, known > 0)
    shown, weight = colours(points, photos, occlusion, base)
    return np.where(weight[:, None] > 0, shown, base)


def _spread(positions: np.ndarray, values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Give points whose colour is not known that of the nearest one; grey if none is known."""
    if known.all():
        return values
    if not known.any():
        return np.full_like(values, 0.5)
    _, nearest = cKDTree(positions[known]).query(positions[~known])
    values = values.copy()
    values[~known] = values[known][nearest]
    return values


def _bytes(values: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.round(values * 255).astype(np.uint8)
    return rounded
