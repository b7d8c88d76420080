"""Splatfacto's hard-wired settings: CUDA, made to follow the tensors' device, and the near plane.

CUDA tensors still go to the originals; CPU tensors go to ours, and gsplat's CUDA backend is never touched for them.
A camera may stay on the CPU in both cases: its two matrices follow the Gaussians.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models import splatfacto
from torch import Tensor

from difix3d_ns.io.transfers import sent

_cuda_rasterization = splatfacto.rasterization


_near_plane: ContextVar[float | None] = ContextVar("near_plane", default=None)
_near_sphere: ContextVar[float] = ContextVar("near_sphere", default=0.0)


@contextmanager
def near_plane(depth: float) -> Iterator[None]:
    """Let splatfacto draw no Gaussian nearer than ``depth`` meanwhile, scene units; by itself it has a fixed 0.01."""
    token = _near_plane.set(depth)
    try:
        yield
    finally:
        _near_plane.reset(token)


@contextmanager
def near_sphere(distance: float) -> Iterator[None]:
    """Let splatfacto draw no Gaussian whose centre is nearer to the camera than ``distance`` meanwhile, scene units.

    Faces of a panorama look in different directions from one place: by depth, one would show what the next one cuts.
    """
    token = _near_sphere.set(distance)
    try:
        yield
    finally:
        _near_sphere.reset(token)


def _rasterization(means: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    kwargs.update({name: sent(kwargs[name], means.device) for name in ("viewmats", "Ks")})
    if (depth := _near_plane.get()) is not None:
        kwargs["near_plane"] = depth
    if distance := _near_sphere.get():
        rotation, shift = kwargs["viewmats"][0, :3, :3], kwargs["viewmats"][0, :3, 3]
        far = (means + rotation.T @ shift).norm(dim=-1) >= distance
        kwargs["opacities"] = kwargs["opacities"] * far
    if means.is_cuda:
        return _cuda_rasterization(means, *args, **kwargs)
    from difix3d_ns.rasterization import rasterization

    return rasterization(means, *args, **kwargs)


def _viewmat(camera_to_world: Tensor) -> Tensor:  # [C, 3, 4] OpenGL -> [C, 4, 4] OpenCV world-to-camera
    # nerfstudio's own is compiled by torch.compile: a C++ compiler, Triton and half a minute for three small products
    rotation = torch.cat([camera_to_world[:, :3, :1], -camera_to_world[:, :3, 1:3]], dim=-1).transpose(1, 2)
    top = torch.cat([rotation, -rotation @ camera_to_world[:, :3, 3:4]], dim=-1)
    bottom = torch.zeros_like(top[:, :1])
    bottom[..., 3] = 1
    return torch.cat([top, bottom], dim=1)


def apply() -> None:
    """Swap two names in ``nerfstudio.models.splatfacto``: the rasterizer and the camera matrix helper."""
    splatfacto.rasterization = _rasterization
    splatfacto.get_viewmat = _viewmat


class _StaysOnCpu(Tensor):
    """A tensor whose ``.cuda()`` does nothing."""

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return self.as_subclass(Tensor)


def keep_on_cpu(camera: Cameras) -> Cameras:
    """A shallow copy of ``camera`` whose intrinsics survive splatfacto's ``.cuda()``, which waits, or fails."""
    camera = copy.copy(camera)
    # on the instance: splatfacto rescales it and asks again
    vars(camera)["get_intrinsics_matrices"] = lambda: Cameras.get_intrinsics_matrices(camera).as_subclass(_StaysOnCpu)
    return camera
