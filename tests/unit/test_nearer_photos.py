"""Detail for a photograph of a wall from one that was taken nearer to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resampling import resample
from difix3d_ns.guidance.nearer_photos import NearerPhotos
from difix3d_ns.guidance.upscaled_photos import EnlargedPhotos
from difix3d_ns.priors.blend import BlendFixer
from difix3d_ns.views.protocols import Render
from tests.unit.test_detail_confidence import SIZE, wall

FACTOR = 2


class _Wall:
    """Scene, renderer and references at once: photographs of a wall at half the size of what ``wall`` gives."""

    device = torch.device("cpu")

    def __init__(self, distances: Sequence[float]) -> None:
        texture = torch.rand(3, 160, 160, generator=torch.Generator().manual_seed(2))
        self.seen = [wall(texture, 0.0, distance) for distance in distances]

    def __len__(self) -> int:
        return len(self.seen)

    def unoptimized_camera(self, index: int) -> Pinhole:
        return self.seen[index][0].resized(SIZE // FACTOR, SIZE // FACTOR)

    camera = unoptimized_camera

    def photo(self, index: int) -> PosedImage:
        picture = self.seen[index][1].permute(2, 0, 1)[None]
        low = resample(picture, SIZE // FACTOR, SIZE // FACTOR)[0].permute(1, 2, 0).clamp(0, 1)
        return PosedImage(low, self.camera(index))

    def used(self, index: int) -> None:
        return None

    alpha = used

    def render(self, camera: Pinhole, depth: bool = False, photo: int | None = None) -> Render:
        index = min(range(len(self)), key=lambda i: float((self.camera(i).position - camera.position).norm()))
        far = self.seen[index][2]
        return Render(self.seen[index][1], torch.ones_like(far), far)

    def select(self, camera: Pinhole, render: Render, count: int, keep: Sequence[int] = ()) -> list[int]:
        return list(range(len(self)))

    def view(self, index: int) -> PosedImage:
        far = self.seen[index][2][::FACTOR, ::FACTOR]
        return replace(self.photo(index), depth=far, alpha=torch.ones_like(far))


def _error(scene: _Wall, picture: Tensor, index: int) -> float:
    middle = slice(SIZE // 3, -SIZE // 3)  # that the nearer photograph shows whole
    return float((picture - scene.seen[index][1])[middle, middle].square().mean())


def _picture(scene: _Wall, index: int) -> Tensor:
    photos = EnlargedPhotos(scene, FACTOR)  # type: ignore[arg-type]
    return NearerPhotos(photos, scene, scene, BlendFixer()).picture(index, len(scene))  # type: ignore[arg-type]


def test_a_nearer_photograph_gives_its_detail() -> None:
    alone, beside = _Wall([4.0]), _Wall([4.0, 2.0])
    plain, helped = _picture(alone, 0), _picture(beside, 0)
    assert _error(beside, helped, 0) < 0.7 * _error(alone, plain, 0)
    low = beside.photo(0).image
    reduced = resample(helped.permute(2, 0, 1)[None], *low.shape[:2])[0].permute(1, 2, 0)
    assert float((reduced - low).square().mean().sqrt()) < 1.5 / 255


def test_a_photograph_from_further_away_changes_nothing() -> None:
    alone, beside = _Wall([2.0]), _Wall([2.0, 4.0])
    assert torch.equal(_picture(alone, 0), _picture(beside, 0))
