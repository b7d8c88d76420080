"""A tiny network of Real-ESRGAN's kind, random: in torch, and as the two files of ncnn that the package has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.priors.realesrgan import MODEL

FEATURES, GROWTH = 6, 4


class TinyNet:
    """One dense block between two convolutions, then two enlargements."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.layers: dict[str, tuple[Tensor, Tensor]] = {}
        for name, inputs, outputs in (
            ("first", 3, FEATURES),
            *((f"dense{i}", FEATURES + i * GROWTH, GROWTH if i < 4 else FEATURES) for i in range(5)),
            *((name, FEATURES, FEATURES) for name in ("body", "up1", "up2", "fine")),
            ("last", FEATURES, 3),
        ):
            weight = torch.randn((outputs, inputs, 3, 3), generator=self.generator) / (9 * inputs) ** 0.5
            self.layers[name] = weight.half().float(), 0.1 * torch.randn(outputs, generator=self.generator)

    def __call__(self, picture: Tensor) -> Tensor:
        first = self._conv("first", picture)
        known = [first]
        for i in range(4):
            known.append(F.leaky_relu(self._conv(f"dense{i}", torch.cat(known, 1)), 0.2))
        block = self._conv("dense4", torch.cat(known, 1)) * 0.2 + first
        hidden = first + self._conv("body", block)
        for name in ("up1", "up2"):
            hidden = hidden.repeat_interleave(2, 2).repeat_interleave(2, 3)
            hidden = F.leaky_relu(self._conv(name, hidden), 0.2)
        return self._conv("last", F.leaky_relu(self._conv("fine", hidden), 0.2))

    def _conv(self, name: str, hidden: Tensor) -> Tensor:
        return F.conv2d(hidden, *self.layers[name], padding=1)

    def write(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        lines = ["Input in 0 1 data", self._line("first", "data", "a", leaky=False), "Split s0 1 3 a a0 a1 a2"]
        lines += ["Split s1 1 5 a0 d00 d01 d02 d03 d04"]
        for i in range(4):
            joined = " ".join(f"d{j}{i}" for j in range(i + 1))
            source = joined
            if i:
                lines.append(f"Concat c{i} {i + 1} 1 {joined} c{i}")
                source = f"c{i}"
            lines.append(self._line(f"dense{i}", source, f"e{i}"))
            lines.append(f"Split t{i} 1 {4 - i} e{i} " + " ".join(f"d{i + 1}{j}" for j in range(i + 1, 5)))
        lines.append("Concat c4 5 1 " + " ".join(f"d{j}4" for j in range(5)) + " c4")
        lines.append(self._line("dense4", "c4", "f", leaky=False))
        lines.append("Eltwise add 2 1 f a1 g 0=1 -23301=2,2.000000e-01,1.000000e+00")
        lines.append(self._line("body", "g", "h", leaky=False))
        lines.append("BinaryOp plus 2 1 a2 h i")
        for name, source, target in (("up1", "i", "k"), ("up2", "k", "l")):
            lines.append(f"Interp x{name} 1 1 {source} x{name} 0=1 1=2.000000e+00 2=2.000000e+00")
            lines.append(self._line(name, f"x{name}", target))
        lines += [self._line("fine", "l", "m"), self._line("last", "m", "output", leaky=False)]
        (folder / f"{MODEL}.param").write_text("\n".join(["7767517", f"{len(lines)} 99", *lines, ""]))
        content = b""
        for weight, bias in self.layers.values():
            values = weight.numpy().astype("<f2").tobytes()
            content += np.uint32(0x01306B47).tobytes() + values + b"\0" * (-len(values) % 4)
            content += bias.numpy().astype("<f4").tobytes()
        (folder / f"{MODEL}.bin").write_bytes(content)
        return folder

    def _line(self, name: str, source: str, target: str, leaky: bool = True) -> str:
        outputs, inputs = self.layers[name][0].shape[:2]
        end = " 9=2 -23310=1,2.000000e-01" if leaky else ""
        return f"Convolution {name} 1 1 {source} {target} 0={outputs} 1=3 4=1 5=1 6={outputs * inputs * 9}{end}"
