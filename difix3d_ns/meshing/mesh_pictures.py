"""Pictures of a mesh from any camera, by rays, without a graphics card or a display."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.meshing.painting import rays_against

_RAYS = 2  # along each side of a pixel


class MeshPictures:
    """A mesh with its colours, ready to be rendered as it is, without light.

    Args:
        mesh: with a texture or with colours of vertices; grey if it has neither.
        background: colour [3] in [0, 1] where nothing is.
    """

    def __init__(self, mesh: trimesh.Trimesh, background: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        self._rays = rays_against(np.asarray(mesh.vertices), np.asarray(mesh.faces))
        self._faces = np.asarray(mesh.faces)
        self._background = torch.tensor(background)
        self._texture: Tensor | None = None  # [3, S, S]
        look: Any = mesh.visual
        picture = _picture_of(look)
        if picture is not None:
            self._texture = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
            self._values = torch.from_numpy(np.array(look.uv)).float()
        else:
            if isinstance(look, trimesh.visual.TextureVisuals):  # of one colour
                look = look.to_color()
            self._values = torch.from_numpy(np.array(look.vertex_colors)[:, :3]).float() / 255

    def render(self, camera: Pinhole) -> Tensor:
        """Render [H, W, 3] in [0, 1] from a camera, with four rays to a pixel."""
        return self._shaded(camera)[0]

    def render_maps(self, camera: Pinhole) -> tuple[Tensor, Tensor, Tensor]:
        """Render as ``render`` does, with depth and coverage.

        Returns:
            Image [H, W, 3]; depth [H, W, 1] along z in the middle of each pixel, 0 where nothing is; share [H, W, 1]
            of a pixel's rays that meet the mesh.
        """
        image, shown = self._shaded(camera)
        at = camera.to("cpu", torch.float32)
        depth = torch.from_numpy(self._cast(at)["t_hit"].numpy()).view(at.height, at.width, 1)
        alpha = F.avg_pool2d(shown.view(1, 1, at.height * _RAYS, -1).float(), _RAYS)[0].permute(1, 2, 0)
        return image, depth.where(depth.isfinite(), 0.0), alpha

    def _cast(self, camera: Pinhole) -> Any:
        """Hits of a ray through the middle of each pixel; their distance is along z."""
        ends = unproject(torch.ones(camera.height, camera.width, 1), camera)
        rays = torch.cat([camera.position.expand_as(ends), ends - camera.position], -1)
        return self._rays.cast_rays(rays.view(-1, 6).numpy())

    def _shaded(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Image, and whether each of its rays, [_RAYS^2 H W], meets the mesh."""
        large = camera.to("cpu", torch.float32).resized(camera.width * _RAYS, camera.height * _RAYS)
        hits = self._cast(large)
        shown = torch.from_numpy(hits["t_hit"].numpy()).isfinite()
        face = hits["primitive_ids"].numpy().astype(np.int64)[shown.numpy()]
        second, third = torch.from_numpy(hits["primitive_uvs"].numpy())[shown].unbind(-1)
        shares = torch.stack([1 - second - third, second, third], 1)[..., None]
        values = (self._values[torch.from_numpy(self._faces[face])] * shares).sum(1)
        image = self._background.repeat(len(shown), 1)
        image[shown] = values if self._texture is None else self._of_texture(values)
        planes = image.view(1, large.height, large.width, 3).permute(0, 3, 1, 2)
        return F.avg_pool2d(planes, _RAYS)[0].permute(1, 2, 0), shown

    def _of_texture(self, places: Tensor) -> Tensor:
        """Colours [N, 3] of the texture at places [N, 2]: right, up."""
        assert self._texture is not None
        grid = places * torch.tensor([2.0, -2.0]) + torch.tensor([-1.0, 1.0])
        found = F.grid_sample(self._texture[None], grid[None, None], padding_mode="border", align_corners=False)
        return found[0, :, 0].T


def _picture_of(look: Any) -> np.ndarray | None:
    """The texture [S, S, 3] uint8 of a mesh's visual; None if it has none."""
    if not isinstance(look, trimesh.visual.TextureVisuals) or look.uv is None:
        return None
    material: Any = look.material
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    return None if image is None else np.array(image.convert("RGB"))
