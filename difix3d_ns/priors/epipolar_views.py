"""Views predicted from posed photographs by features gathered along epipolar lines (SparseFusion's EFT)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors.base import GeneratedView, State, ViewGenerator
from difix3d_ns.priors.eft import read_net
from difix3d_ns.priors.epipolar import LONG_SIDE, MAX_POINTS, Predictor
from difix3d_ns.priors.multiview import hinted_points
from difix3d_ns.priors.networks.eft_net import EpipolarNet

_KEPT = torch.float16
_OF_PHOTOGRAPHS = ("photo", "mask", "points")


class EpipolarViewGenerator(ViewGenerator):
    """``EpipolarNet`` behind the contract of ``ViewGenerator``: a camera a step; renders and noise change nothing.

    Args:
        net: the network.
        device: where it lives.
    """

    generative = False

    def __init__(self, net: EpipolarNet, device: torch.device) -> None:
        self._predictor = Predictor(net, device)
        self._device = device

    def start(
        self,
        photographs: Sequence[PosedImage],
        cameras: Sequence[Pinhole],
        renders: Sequence[Tensor] | None = None,
        noise: float = 1.0,
        seed: int = 0,
    ) -> State:
        if not photographs:
            raise ValueError("views are generated from photos: at least one is needed")
        small = [photograph.within(LONG_SIDE) for photograph in photographs]
        state: dict[str, Tensor] = {}
        for number, one in enumerate(small):
            state[f"photo/{number}"] = one.image.detach().cpu().to(_KEPT)
            if one.mask is not None:
                state[f"mask/{number}"] = one.mask.detach().cpu() > 0.5
        if (points := hinted_points(photographs, MAX_POINTS)) is not None:
            state["points"] = points.float().cpu()
        every = [*(one.pose for one in small), *cameras]
        return {
            **state,
            "camera_to_world": torch.stack([camera.camera_to_world.cpu().double() for camera in every]),
            "intrinsics": torch.stack([camera.intrinsics.cpu().double() for camera in every]),
            "sizes": torch.tensor([[camera.height, camera.width] for camera in every]),
            "photographs": torch.tensor(len(small)),
            "done": torch.tensor(0),
            **self._begun(renders, noise, seed),
        }

    def again(self, state: State, renders: Sequence[Tensor] | None = None, noise: float = 1.0, seed: int = 0) -> State:
        kept = {name: values for name, values in state.items() if name.partition("/")[0] not in self._of_a_draw}
        return {**kept, **self._begun(renders, noise, seed)}

    _of_a_draw: tuple[str, ...] = ()
    """entries of a state that come of its renders and noise"""

    def _begun(self, renders: Sequence[Tensor] | None, noise: float, seed: int) -> dict[str, Tensor]:
        """Part of a state that comes of the arguments besides photographs and cameras."""
        return {}

    def steps_left(self, state: State) -> int:
        return self._cameras(state) - int(state["done"])

    def step(self, state: State) -> State:
        return self._predicted(state)

    def result(self, state: State) -> list[GeneratedView]:
        return [self._view(state, number) for number in range(self._cameras(state))]

    @staticmethod
    def _cameras(state: State) -> int:
        return len(state["sizes"]) - int(state["photographs"])

    def _predicted(self, state: State) -> State:
        """The state with the prediction of one camera more."""
        number, photographs = int(state["done"]), int(state["photographs"])
        shown = [
            PosedImage(state[f"photo/{i}"].to(self._device).float(), _camera(state, i), mask=state.get(f"mask/{i}"))
            for i in range(photographs)
        ]
        found = self._predictor.predict(shown, _camera(state, photographs + number), state.get("points"))
        made = {
            f"{name}/{number}": values.cpu().to(_KEPT)
            for name, values in (
                ("image", found.image),
                ("confidence", found.confidence),
                ("visible", found.visible),
                ("known", found.known),
                ("hidden", found.hidden),
            )
        }
        following = {**state, **made, f"depth/{number}": found.depth.cpu(), "done": state["done"] + 1}
        if number + 1 < self._cameras(state):
            return following
        # nothing is predicted from the photographs any more
        return {name: values for name, values in following.items() if name.partition("/")[0] not in _OF_PHOTOGRAPHS}

    def _view(self, state: State, number: int) -> GeneratedView:
        image, confidence, visible, depth = (
            state[f"{name}/{number}"].float() for name in ("image", "confidence", "visible", "depth")
        )
        return GeneratedView(image, confidence, visible, depth)


def _camera(state: State, index: int) -> Pinhole:
    height, width = state["sizes"][index].tolist()
    return Pinhole(state["camera_to_world"][index], state["intrinsics"][index], width, height)


def load(
    weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> EpipolarViewGenerator:
    """Read it from a .safetensors file with its .json beside it; arguments and errors as of ``eft.load``."""
    return EpipolarViewGenerator(read_net(weights).to(device), torch.device(device))
