"""Densification as Markov chain Monte Carlo, on any device (Kheradmand et al. 2024, arXiv:2404.09591).

gsplat's own strategy of that name calls CUDA kernels; the same steps are written here from the paper's equations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from gsplat.strategy import MCMCStrategy
from gsplat.strategy.ops import _update_param_with_optimizer
from gsplat.utils import normalized_quat_to_rotmat
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

OPACITY_REG = 0.01
SCALE_REG = 0.01
"""the paper's weights of mean opacity and mean scale in the loss: what nothing needs fades and is moved elsewhere"""

INITIAL_OPACITY = 0.5
INITIAL_SCALE = 0.1
"""as in the paper's code and gsplat's preset, the latter in distances to the nearest points: relocation draws by
opacity, so all begin well above the minimum, and a copy never shrinks what began too large"""

_MAX_COPIES = 51  # the paper's bound on the Gaussians that replace one
_MIN_GROWTH = 30.0  # times: enough to get from a sparse point cloud to a budget also in a short training


def compute_relocation(opacities: Tensor, scales: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and size of co-located Gaussians that together look like one (equation 9 of the paper).

    Args:
        opacities: [N] of the one, in (0, 1).
        scales: [N, 3] of the one, positive.
        copies: [N] integers; how many co-located ones take its place, itself included; at most 51 count.

    Returns:
        (opacities [N], scales [N, 3]) of each of the copies.
    """
    count = copies.clamp(1, _MAX_COPIES).double()[:, None]  # [N, 1]
    old = opacities.double()[:, None]
    new = 1 - (1 - old) ** (1 / count)
    # the paper's double sum; its inner binomials add up to C(count, k), which leaves one alternating sum
    k = torch.arange(1, _MAX_COPIES + 1, device=opacities.device, dtype=torch.float64)  # [51]
    binomials = torch.exp(torch.lgamma(count + 1) - torch.lgamma(k + 1) - torch.lgamma((count - k).clamp_min(0) + 1))
    terms = binomials * new**k / k.sqrt() * torch.where(k % 2 == 1, 1.0, -1.0)
    shrink = old / terms.where(k <= count, torch.zeros_like(terms)).sum(dim=1, keepdim=True)
    return new[:, 0].to(opacities.dtype), (scales.double() * shrink).to(scales.dtype)


@dataclass
class DeviceFreeMCMCStrategy(MCMCStrategy):
    """gsplat's MCMC strategy with its steps in torch; it moves and adds Gaussians, and deletes none."""

    growth: float = 0.05
    """share of Gaussians added at each refinement, up to ``cap_max``"""

    absgrad: ClassVar[bool] = False  # read by splatfacto

    def initialize_state(self) -> dict[str, Any]:
        """Return an empty state: nothing outlives a step."""
        return {}

    @torch.no_grad()
    def step_post_backward(  # type: ignore[override]
        self,
        params: Any,
        optimizers: Mapping[str, torch.optim.Optimizer],
        state: dict[str, Any],
        step: int,
        info: dict[str, Any],
        lr: float,
    ) -> None:
        """Refine if it is due, then add noise to the positions of transparent Gaussians.

        Args:
            params: splatfacto's parameters: means [N, 3], quats [N, 4], log-scales [N, 3], opacity logits [N, 1], ...
            optimizers: one for each of them, by the same names.
            state: unused.
            step: of the training.
            info: unused.
            lr: present learning rate of the means.
        """
        if self.refine_start_iter < step < self.refine_stop_iter and step % self.refine_every == 0:
            self._relocate(params, optimizers)
            self._add(params, optimizers)
        self._inject_noise(params, lr)

    def _relocate(self, params: Any, optimizers: Any) -> None:
        opacities = torch.sigmoid(params["opacities"]).flatten()
        alive = opacities > self.min_opacity
        dead = (~alive).nonzero().flatten()
        if len(dead) == 0 or not alive.any():
            return
        sources = _multinomial_sample(torch.where(alive, opacities, torch.zeros_like(opacities)), len(dead))
        self._copy(params, optimizers, sources, dead)

    def _add(self, params: Any, optimizers: Any) -> None:
        present = len(params["means"])
        count = min(self.cap_max, math.ceil(present * (1 + self.growth))) - present
        opacities = torch.sigmoid(params["opacities"]).flatten().nan_to_num(0)
        if count <= 0 or not (opacities > 0).any():
            return
        self._copy(params, optimizers, _multinomial_sample(opacities, count), None)

    def _copy(self, params: Any, optimizers: Any, sources: Tensor, dead: Tensor | None) -> None:
        """Split Gaussians: their copies take the places of the dead ones, or are appended if there are none."""
        new = self._split(params, sources)

        def copy(name: str, parameter: Tensor) -> Tensor:
            values = parameter.detach().clone()
            if name in new:
                values[sources] = new[name]
            if dead is None:
                values = torch.cat([values, values[sources]])
            else:
                values[dead] = values[sources]
            return torch.nn.Parameter(values, requires_grad=parameter.requires_grad)

        def reset(_: str, moment: Tensor) -> Tensor:  # both ends: neither gradient history fits the new place
            moment[sources] = 0
            if dead is None:
                return torch.cat([moment, moment.new_zeros(len(sources), *moment.shape[1:])])
            moment[dead] = 0
            return moment

        _update_param_with_optimizer(copy, reset, params, optimizers)

    def _split(self, params: Any, sources: Tensor) -> dict[str, Tensor]:
        """Opacity logits and log-scales of the copies that replace each of ``sources``."""
        opacities = torch.sigmoid(params["opacities"]).flatten()[sources]
        copies = torch.bincount(sources)[sources] + 1
        new, scales = compute_relocation(opacities, torch.exp(params["scales"][sources]), copies)
        new = new.clamp(self.min_opacity, 1 - torch.finfo(new.dtype).eps)
        return {"opacities": torch.logit(new).reshape(-1, *params["opacities"].shape[1:]), "scales": torch.log(scales)}

    def _inject_noise(self, params: Any, lr: float) -> None:
        opacities = torch.sigmoid(params["opacities"]).flatten()
        loose = torch.sigmoid(-100 * (opacities - self.min_opacity))  # [N]; the paper's k and t
        axes = normalized_quat_to_rotmat(torch.nn.functional.normalize(params["quats"], dim=-1))  # [N, 3, 3]
        noise = torch.randn_like(params["means"]) * (lr * self.noise_lr * loose)[:, None]
        variances = torch.exp(2 * params["scales"])
        params["means"].add_(torch.einsum("nij,nj,nkj,nk->ni", axes, variances, axes, noise))


def _multinomial_sample(weights: Tensor, count: int) -> Tensor:
    """Draw indices [count] in proportion to ``weights``, with replacement."""
    if len(weights) <= 2**24:
        return torch.multinomial(weights, count, replacement=True)
    total = weights.double().cumsum(0)  # multinomial takes no more categories than that
    return torch.searchsorted(total, torch.rand(count, device=weights.device, dtype=total.dtype) * total[-1])


class RefinementSteps(Protocol):
    """Splatfacto's settings of when to densify, by splatfacto's names."""

    @property
    def warmup_length(self) -> int | None: ...  # the first step

    @property
    def stop_split_at(self) -> int | None: ...  # the last

    @property
    def refine_every(self) -> int | None: ...


def build_mcmc(config: RefinementSteps, cap: int | None) -> DeviceFreeMCMCStrategy:
    """Build the strategy from a model's settings.

    Args:
        config: with its settings in steps filled in.
        cap: maximum number of Gaussians growth may reach; None for the million of the paper.
    """
    assert config.warmup_length is not None and config.stop_split_at is not None and config.refine_every
    refinements = max(1, (config.stop_split_at - config.warmup_length) // config.refine_every)
    settings = {} if cap is None else {"cap_max": cap}
    return DeviceFreeMCMCStrategy(
        refine_start_iter=config.warmup_length,
        refine_stop_iter=config.stop_split_at,
        refine_every=config.refine_every,
        growth=max(0.05, _MIN_GROWTH ** (1 / refinements) - 1),
        **settings,
    )


def regularization(
    opacity_logits: Tensor, log_scales: Tensor, opacity_reg: float = OPACITY_REG, scale_reg: float = SCALE_REG
) -> dict[str, Tensor]:
    """Compute the paper's two loss terms.

    Args:
        opacity_logits: [N, 1].
        log_scales: [N, 3].
        opacity_reg: weight of the mean opacity.
        scale_reg: weight of the mean scale.
    """
    return {
        "mcmc_opacity": opacity_reg * torch.sigmoid(opacity_logits).mean(),
        "mcmc_scale": scale_reg * torch.exp(log_scales).mean(),
    }
