"""Networks in ncnn's two files, a graph in text (.param) and its weights (.bin), run by torch.

Only what residual upscaling networks such as Real-ESRGAN's are made of: convolutions with or without a leaky ReLU,
concatenation, weighted sums, nearest-neighbour enlargement. Anything else is refused, not skipped. The format is that
of ncnn's "param and model file structure".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MAGIC = 7767517
_HALF, _FULL = 0x01306B47, 0
"""marks before weights: float16, float32"""
_LEAKY = 2

_KNOWN = {
    "Input": set[int](),
    "Split": set[int](),
    "Concat": {0},
    "Convolution": {0, 1, 4, 5, 6, 9, 10},
    "Eltwise": {0, 1},
    "BinaryOp": {0},
    "Interp": {0, 1, 2},
}
"""parameters that are understood, by kind of layer; others are refused, since they change the result"""


@dataclass(frozen=True)
class _Layer:
    kind: str
    name: str
    sources: Sequence[str]
    targets: Sequence[str]
    numbers: Mapping[int, Sequence[float]]

    def number(self, key: int, default: float) -> float:
        return self.numbers.get(key, (default,))[0]


class NcnnNet(nn.Module):
    """A network of ncnn, in float32 until it is cast.

    Args:
        param: the graph; it has one input and one output, "output".
        weights: its .bin.

    Raises:
        FileNotFoundError: a file is missing.
        RuntimeError: a file is damaged, they do not belong together, or the graph has what is not known here.
    """

    def __init__(self, param: Path, weights: Path) -> None:
        super().__init__()
        self._layers = _read_graph(param)
        content = np.fromfile(weights, dtype=np.uint8)
        place = 0
        self._convolutions: dict[str, nn.Conv2d] = {}
        for number, layer in enumerate(self._layers):
            if layer.kind == "Convolution":
                convolution, place = _read_convolution(layer, content, place, weights)
                self.add_module(str(number), convolution)
                self._convolutions[layer.name] = convolution
        if place != len(content):
            raise RuntimeError(f"{weights} does not belong to {param.name}: {len(content) - place} bytes are left over")

    @property
    def enlargement(self) -> int:
        """Number of times that the output is as high and as wide as the input."""
        factor = 1.0
        for layer in self._layers:
            factor *= layer.number(1, 1) if layer.kind == "Interp" else 1
        return int(factor)

    def forward(self, picture: Tensor) -> Tensor:
        """Run it on [B, C, H, W]."""
        maps: dict[str, Tensor] = {}
        for layer in self._layers:
            # A map is taken once (a "Split" makes more of it), so it is freed as soon as it can be.
            inputs = [maps.pop(name) for name in layer.sources]
            if layer.kind == "Input":
                outputs = [picture]
            elif layer.kind == "Split":
                outputs = inputs * len(layer.targets)
            else:
                outputs = [self._run(layer, inputs)]
            maps.update(zip(layer.targets, outputs, strict=True))
        return maps["output"]

    def _run(self, layer: _Layer, inputs: list[Tensor]) -> Tensor:
        if layer.kind == "Convolution":
            result: Tensor = self._convolutions[layer.name](inputs[0])
            leaky = layer.number(9, 0) == _LEAKY
            return F.leaky_relu(result, layer.number(10, 0), inplace=not torch.is_grad_enabled()) if leaky else result
        if layer.kind == "Concat":
            return torch.cat(inputs, 1)
        if layer.kind == "Interp":
            return F.interpolate(inputs[0], scale_factor=(layer.number(1, 1), layer.number(2, 1)), mode="nearest")
        if layer.kind == "BinaryOp":
            return inputs[0] + inputs[1]
        shares = layer.numbers.get(1, (1.0,) * len(inputs))
        total = inputs[0] * shares[0]
        for share, one in zip(shares[1:], inputs[1:], strict=True):
            total = torch.add(total, one, alpha=share)
        return total


def _read_graph(file: Path) -> list[_Layer]:
    try:
        lines = file.read_text(encoding="ascii").split("\n")
        if int(lines[0]) != _MAGIC:
            raise ValueError("it does not begin as one")
        layers = [_read_layer(line) for line in lines[2:] if line.strip()]
        if len(layers) != int(lines[1].split()[0]):
            raise ValueError(f"{len(layers)} of {lines[1].split()[0]} layers")
    except (ValueError, IndexError) as error:
        raise RuntimeError(f"{file} is no graph of ncnn, or damaged: {error}") from error
    made: set[str] = set()
    for layer in layers:
        unknown = sorted(layer.numbers.keys() - _KNOWN.get(layer.kind, set()))
        if layer.kind not in _KNOWN or unknown or not _is_plain(layer):
            raise RuntimeError(f"{file}: layer {layer.name} ({layer.kind}) is of no upscaling network known here")
        if not made.issuperset(layer.sources):
            raise RuntimeError(f"{file} is damaged: {layer.name} takes what no layer before it gives")
        made = made.difference(layer.sources).union(layer.targets)
    if made != {"output"}:
        raise RuntimeError(f"{file}: one output of the name output is expected, not {', '.join(sorted(made))}")
    return layers


def _read_layer(line: str) -> _Layer:
    kind, name, inputs, outputs, *rest = line.split()
    first, last = int(inputs), int(inputs) + int(outputs)
    numbers: dict[int, Sequence[float]] = {}
    for word in rest[last:]:
        key, _, value = word.partition("=")
        if int(key) <= -23300:  # an array, which begins with its length
            numbers[-23300 - int(key)] = [float(number) for number in value.split(",")[1:]]
        else:
            numbers[int(key)] = [float(value)]
    return _Layer(kind, name, rest[:first], rest[first:last], numbers)


def _is_plain(layer: _Layer) -> bool:
    """Return whether the numbers of a layer say what ``NcnnNet`` computes."""
    if layer.kind == "Convolution":
        same = layer.number(1, 1) == 2 * layer.number(4, 0) + 1
        return same and layer.number(5, 0) == 1 and layer.number(9, 0) in (0, _LEAKY)
    if layer.kind == "Interp":  # nearest
        factor = layer.number(1, 1)
        return layer.number(0, 0) == 1 and factor == layer.number(2, 1) and factor == int(factor)
    if layer.kind == "Eltwise":  # a sum
        return layer.number(0, 0) == 1 and len(layer.numbers.get(1, layer.sources)) == len(layer.sources)
    if layer.kind == "BinaryOp":  # a sum of two
        return layer.number(0, 0) == 0 and len(layer.sources) == 2
    return layer.number(0, 0) == 0  # of channels, where it joins


def _read_convolution(layer: _Layer, content: np.ndarray, place: int, file: Path) -> tuple[nn.Conv2d, int]:
    """The layer, and where the next one begins."""

    def take(count: int, kind: str) -> np.ndarray:
        nonlocal place
        size = count * np.dtype(kind).itemsize
        if place + size > len(content):
            raise RuntimeError(f"{file} is damaged or half copied: it ends within {layer.name}")
        taken, place = content[place : place + size].view(kind), place + size
        return taken

    outputs, kernel, count = (int(layer.number(key, 1)) for key in (0, 1, 6))
    inputs, surplus = divmod(count, outputs * kernel * kernel)
    mark = int(take(1, "<u4")[0])
    if surplus or mark not in (_HALF, _FULL):
        raise RuntimeError(f"{file} does not belong to its .param: {layer.name} has other weights")
    weight = take(count, "<f2" if mark == _HALF else "<f4")
    place += -place % 4
    bias = take(outputs, "<f4")
    with torch.device("meta"):
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    state = {
        "weight": torch.from_numpy(weight.astype(np.float32).reshape(outputs, inputs, kernel, kernel)),
        "bias": torch.from_numpy(bias.astype(np.float32)),
    }
    convolution.load_state_dict(state, assign=True)
    return convolution, place
