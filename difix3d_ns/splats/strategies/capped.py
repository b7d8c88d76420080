"""Densification within a budget of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from torch import Tensor


@dataclass
class CappedStrategy(DefaultStrategy):
    """gsplat's default densification that never exceeds ``max_gs_num`` by growth.

    Where the budget does not allow every candidate, those with the largest accumulated screen-space gradient grow.
    """

    max_gs_num: int | None = None
    counting: bool = True
    """whether the present step's gradients are accumulated"""

    def _update_state(self, params: Any, state: dict[str, Any], info: dict[str, Any], packed: bool = False) -> None:
        if self.counting or state["grad2d"] is None:
            super()._update_state(params, state, info, packed=packed)

    @torch.no_grad()
    def _grow_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> tuple[int, int]:
        if self.max_gs_num is not None:
            room = max(0, self.max_gs_num - len(params["means"]))
            mean_gradient: Tensor = state["grad2d"] / state["count"].clamp_min(1)  # [N]
            high = mean_gradient > self.grow_grad2d
            small = torch.exp(params["scales"]).amax(dim=-1) <= self.grow_scale3d * state["scene_scale"]
            split = high & ~small
            if step < self.refine_scale2d_stop_iter:
                split |= state["radii"] > self.grow_scale2d
            added = (high & small).int() + split.int()  # what is small but large on screen is duplicated and split
            if int(added.sum()) > room:
                order = torch.where(added > 0, mean_gradient, mean_gradient.new_tensor(-1.0)).argsort(descending=True)
                allowed = torch.zeros_like(high)
                allowed[order] = added[order].cumsum(dim=0) <= room
                state["grad2d"][~allowed] = 0
                if step < self.refine_scale2d_stop_iter:
                    # large on screen but not chosen: keep below the split threshold, and below the pruning one,
                    # which would otherwise delete what it may not split
                    state["radii"][~allowed] = state["radii"][~allowed].clamp(max=self.grow_scale2d)
        return super()._grow_gs(params, optimizers, state, step)
