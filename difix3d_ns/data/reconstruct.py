"""A small splat trainer for making pairs: sparse views in, an honest reconstruction with honest artefacts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

from difix3d_ns.data.capture import Capture
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resize import resized
from difix3d_ns.io.foreign_splats import SH_C0
from difix3d_ns.rasterization import median_depth, rasterization
from difix3d_ns.splats.strategies.capped import CappedStrategy

BACKGROUND = (0.1490, 0.1647, 0.2157)
"""Colour that splatfacto shows where nothing is, when it trains on random backgrounds."""

RasterizeMode = Literal["classic", "antialiased"]
_SH_DEGREE = 1


@dataclass(frozen=True)
class Splat:
    """Gaussians, post-activation."""

    means: Tensor  # [N, 3]
    quats: Tensor  # [N, 4] wxyz
    scales: Tensor  # [N, 3]
    opacities: Tensor  # [N]
    harmonics: Tensor  # [N, 4, 3]
    background: Tensor  # [3]
    mode: RasterizeMode = "classic"

    @torch.no_grad()
    def render(self, camera: Pinhole) -> tuple[Tensor, Tensor, Tensor]:
        """Image [H, W, 3] in [0, 1], median depth [H, W, 1] (0 where there is nothing), alpha [H, W, 1]."""
        shape = (self.means, self.quats, self.scales, self.opacities)
        view = (camera.world_to_camera[None], camera.intrinsics[None], camera.width, camera.height)
        image, alpha, _ = rasterization(
            *shape,
            self.harmonics,
            *view,
            sh_degree=_SH_DEGREE,
            packed=False,
            backgrounds=self.background[None],
            rasterize_mode=self.mode,
        )
        depth, _ = median_depth(*shape, *view, rasterize_mode=self.mode)
        return image[0].clamp(0, 1), depth[0], alpha[0]


@dataclass(frozen=True)
class Schedule:
    """Length and size of a reconstruction. Windows are shares of the steps: short runs densify as long ones do."""

    steps: int = 700
    max_gaussians: int = 15000
    refine_start: float = 0.1
    refine_stop: float = 0.65
    refinements: int = 10
    coarse: float = 0.25  # share of the steps at half resolution: large structure first
    mode: RasterizeMode = "classic"  # antialiased: the splat will be seen at other sizes than it is trained at


def reconstruct(
    capture: Capture,
    views: Sequence[int],
    schedule: Schedule | None = None,
    seed: int = 0,
    snapshots: Sequence[float] = (),
    on_step: Callable[[], None] = lambda: None,
) -> dict[float, Splat]:
    """Train a splat on some views of a capture.

    L1 + 0.2 (1 - SSIM), first-order harmonics, gsplat's default densification (Kerbl et al. 2023) without opacity
    resets, random backgrounds (the solid one of captures that have one).

    Args:
        capture: photographs, cameras, sparse points.
        views: which photographs to train on.
        schedule: how long.
        seed: order of the views, backgrounds, splits.
        snapshots: shares of the steps at which to keep a copy, e.g. 0.25.
        on_step: called after every step.

    Returns:
        The snapshots and, under 1.0, the finished splat.

    Raises:
        ValueError: fewer than two views or fewer than 10 points.
    """
    schedule = schedule or Schedule()
    if len(views) < 2 or len(capture.points) < 10:
        raise ValueError(f"{capture.name}: {len(views)} views and {len(capture.points)} points are too few")
    torch.manual_seed(seed)
    params, scale = _initial_gaussians(capture, views)
    rates = {"means": 6e-4 * scale, "scales": 1e-2, "quats": 2e-3, "opacities": 5e-2, "sh0": 1e-2, "shN": 1e-3}
    optimizers = {
        k: torch.optim.Adam([{"params": params[k], "lr": lr}], eps=1e-15, fused=True) for k, lr in rates.items()
    }
    strategy = CappedStrategy(
        refine_start_iter=int(schedule.refine_start * schedule.steps),
        refine_stop_iter=int(schedule.refine_stop * schedule.steps),
        refine_every=max(
            1, int((schedule.refine_stop - schedule.refine_start) * schedule.steps / schedule.refinements)
        ),
        reset_every=schedule.steps + 1,
        max_gs_num=schedule.max_gaussians,
    )
    state = strategy.initialize_state(scene_scale=scale)
    kept: dict[float, Splat] = {}
    due = {max(1, round(share * schedule.steps)): share for share in (*snapshots, 1.0)}
    order: list[int] = []
    for step in range(1, schedule.steps + 1):
        order = order or [views[i] for i in torch.randperm(len(views)).tolist()]
        index = order.pop()
        camera, truth = capture.cameras[index], capture.images[index]
        # Behind a masked object there is a solid background to learn; elsewhere a mask marks what nobody knows.
        mask = capture.masks[index] if capture.masks is not None and capture.background is None else None
        if step < schedule.coarse * schedule.steps:
            camera = camera.resized(camera.width // 2, camera.height // 2)
            truth = resized(truth, camera.height, camera.width)
            mask = None if mask is None else resized(mask, camera.height, camera.width)
        optimizers["means"].param_groups[0]["lr"] = rates["means"] * 0.02 ** (step / schedule.steps)
        image, _, info = rasterization(
            params["means"],
            params["quats"],
            params["scales"].exp(),
            params["opacities"].sigmoid(),
            torch.cat([params["sh0"], params["shN"]], 1),
            camera.world_to_camera[None],
            camera.intrinsics[None],
            camera.width,
            camera.height,
            sh_degree=0 if step < 0.2 * schedule.steps else _SH_DEGREE,
            packed=False,
            rasterize_mode=schedule.mode,
            backgrounds=(torch.rand(3) if capture.background is None else torch.tensor(capture.background))[None],
        )
        strategy.step_pre_backward(params, optimizers, state, step, info)
        rendered = image[0] if mask is None else image[0] * mask
        truth = truth if mask is None else truth * mask
        loss = (rendered - truth).abs().mean()
        loss = loss + 0.2 * (1 - _similarity(rendered, truth))
        loss.backward()
        strategy.step_post_backward(params, optimizers, state, step, info)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step in due:
            kept[due[step]] = _freeze(params, capture.background or BACKGROUND, schedule.mode)
        on_step()
    return kept


def _similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM (Wang et al. 2004) of two [H, W, 3] in [0, 1], over 7 x 7 box windows (10x cheaper than Gaussian ones)."""
    x, y = first.permute(2, 0, 1), second.permute(2, 0, 1)
    window = min(7, *x.shape[1:])
    means = F.avg_pool2d(torch.cat([x, y, x * x, y * y, x * y]), window, stride=2)
    mx, my, xx, yy, xy = means.view(5, 3, *means.shape[-2:])
    cross, power = mx * my, mx * mx + my * my
    structure = (2 * (xy - cross) + 9e-4) / (xx + yy - power + 9e-4)
    return ((2 * cross + 1e-4) / (power + 1e-4) * structure).mean()


def _initial_gaussians(capture: Capture, views: Sequence[int]) -> tuple[torch.nn.ParameterDict, float]:
    """Gaussians at the sparse points, and the scale: extent of the cameras or half of their distance to the points."""
    centres = torch.stack([capture.cameras[i].position for i in views])
    spread = (centres - centres.mean(0)).norm(dim=1).max()
    distance = torch.cdist(capture.points, centres).median()
    scale = float(torch.maximum(spread, 0.5 * distance))
    near, _ = cKDTree(capture.points.numpy()).query(capture.points.numpy(), k=4)
    size = torch.from_numpy(near[:, 1:]).float().mean(1, keepdim=True).clamp(1e-4 * scale, 0.1 * scale)
    n = len(capture.points)
    values = {
        "means": capture.points.clone(),
        "scales": size.log().repeat(1, 3),
        "quats": F.normalize(torch.randn(n, 4), dim=1),
        "opacities": torch.full((n,), 0.3).logit(),
        "sh0": ((capture.colours - 0.5) / SH_C0)[:, None],
        "shN": torch.zeros(n, (_SH_DEGREE + 1) ** 2 - 1, 3),
    }
    return torch.nn.ParameterDict({k: torch.nn.Parameter(v.contiguous()) for k, v in values.items()}), scale


def _freeze(params: torch.nn.ParameterDict, background: Sequence[float], mode: RasterizeMode) -> Splat:
    copy = {k: v.detach().clone() for k, v in params.items()}
    return Splat(
        means=copy["means"],
        quats=F.normalize(copy["quats"], dim=1),
        scales=copy["scales"].exp(),
        opacities=copy["opacities"].sigmoid(),
        harmonics=torch.cat([copy["sh0"], copy["shN"]], 1),
        background=torch.tensor(background),
        mode=mode,
    )
