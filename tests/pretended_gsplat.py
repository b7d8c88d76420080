"""Functions of gsplat 1.4.0 that launch CUDA kernels, computed on the CPU by the package's rasterizer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from difix3d_ns.rasterization.compositor import Composite
from difix3d_ns.rasterization.projection import Limits, project
from difix3d_ns.rasterization.rasterize import rasterization as on_host

BACKEND = "gsplat.cuda._backend"
_HOMES = ("gsplat", "gsplat.rendering", "gsplat.cuda._wrapper")
_SIGMAS = 3.0


def rasterization(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    return on_host(*args, **kwargs)


def fully_fused_projection(
    means: Tensor,
    covars: Tensor | None,
    quats: Tensor | None,
    scales: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    eps2d: float = 0.3,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    packed: bool = False,
    sparse_grad: bool = False,
    calc_compensations: bool = False,
    camera_model: str = "pinhole",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    assert not packed and not sparse_grad and covars is None, "what the package does not ask for"
    limits = Limits(near_plane, far_plane, radius_clip, eps2d)
    *found, compensations = project(means, quats, scales, covars, viewmats, Ks, width, height, limits, camera_model)
    return (*found[:2], found[2], found[3], compensations if calc_compensations else None)


def isect_tiles(
    means2d: Tensor,
    radii: Tensor,
    depths: Tensor,
    tile_size: int,
    tile_width: int,
    tile_height: int,
    sort: bool = True,
    packed: bool = False,
    n_cameras: int | None = None,
    camera_ids: Tensor | None = None,
    gaussian_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Order visible Gaussians by camera and depth; the compositor finds their tiles itself."""
    assert sort and not packed, "what the package does not ask for"
    cameras, places = (radii > 0).nonzero(as_tuple=True)
    order = torch.argsort(depths[cameras, places], stable=True)
    order = order[torch.argsort(cameras[order], stable=True)]
    flat = (cameras * radii.shape[1] + places)[order]
    return (radii > 0).int(), cameras[order], flat.int()


def isect_offset_encode(isect_ids: Tensor, n_cameras: int, tile_width: int, tile_height: int) -> Tensor:
    return torch.zeros(n_cameras, tile_height, tile_width, dtype=torch.int32)


def rasterize_to_pixels(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: Tensor,
    flatten_ids: Tensor,
    backgrounds: Tensor | None = None,
    masks: Tensor | None = None,
    packed: bool = False,
    absgrad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Composite the Gaussians of ``flatten_ids``, front to back."""
    assert backgrounds is None and masks is None and not packed and not absgrad, "what the package does not ask for"
    cameras, count = means2d.shape[:2]
    flat = flatten_ids.long()
    depths = torch.zeros(cameras * count)
    depths[flat] = torch.arange(1, len(flat) + 1).float()
    radii = torch.zeros(cameras * count, dtype=torch.int32)
    radii[flat] = _radii(conics.reshape(-1, 3)[flat])
    rows = [count * camera for camera in range(cameras + 1)]
    return Composite.apply(
        means2d.reshape(-1, 2),
        conics.reshape(-1, 3),
        colors.reshape(cameras * count, -1),
        opacities.reshape(-1),
        depths,
        radii,
        rows,
        image_width,
        image_height,
        None,
    )


def _radii(conics: Tensor) -> Tensor:
    """Radii [M] in pixels of conics [M, 3], the inverse covariances."""
    a, b, c = conics.double().unbind(-1)
    smallest = (a + c) / 2 - (((a - c) / 2) ** 2 + b**2).sqrt()
    return (_SIGMAS / smallest.clamp_min(1e-12).sqrt()).ceil().int()


KERNELS = (rasterization, fully_fused_projection, isect_tiles, isect_offset_encode, rasterize_to_pixels)


def replacements() -> Iterator[tuple[ModuleType, str, Callable[..., Any]]]:
    """Yield (module, name there, function in its place), wherever gsplat or the package has one of them."""
    for home in map(importlib.import_module, _HOMES):
        for function in KERNELS:
            if hasattr(home, function.__name__):
                yield home, function.__name__, function
    yield importlib.import_module("difix3d_ns.ns.patches.splatfacto_cpu"), "_cuda_rasterization", rasterization


@contextmanager
def compiled() -> Iterator[None]:
    """Have a module of compiled kernels inside: importing the real one would compile them."""
    module = ModuleType(BACKEND)
    module._C = object()  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:  # mock.patch.dict would also forget what is imported meanwhile
        patch.setitem(sys.modules, BACKEND, module)
        yield
