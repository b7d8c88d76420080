"""How fast the Difix fixer is at full size, against the plain pipeline of the official README.

    python benchmarks/fixer.py [--compile] [--output docs/fixer_speed.md]

The architecture is Stable Diffusion 2.1's with Difix's skips, at random: the same work as the published weights. Three
ways to repair pictures, timed in one run:

- plain float32 and plain float16: as the official README runs it: picture by picture, the text encoder each time, every
  view encoded and decoded, a sample of the posterior;
- ours: bfloat16, channels-last (on CUDA), the prompt's embedding cached, references encoded once, only the target
  decoded, a batch together, compiled if asked.

Prints a Markdown table: milliseconds per picture, how many times faster than plain float32, peak memory, and the share
of the measured bfloat16 peak of matrix products that our arithmetic reaches. Without CUDA pictures have a sixteenth of
the sides, plain float16 is left out, and the table says so.
"""

from __future__ import annotations

import functools
import itertools
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from difix3d_ns.priors.base import FixRequest, PosedImage
from difix3d_ns.priors.difix import DifixFixer
from difix3d_ns.priors.networks.difix_net import TIMESTEP, DifixNet
from difix3d_ns.priors.networks.precision import fast_dtype

SIZES = ((576, 1024), (1088, 1920))
UNET: dict[str, Any] = {  # stabilityai/sd-turbo, as Stable Diffusion 2.1
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
SCHEDULER: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TEXT: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "projection_dim": 512,
    "vocab_size": 49408,
    "hidden_act": "gelu",
}


@dataclass
class Timing:
    """Of one picture."""

    seconds: float
    memory: float | None  # GiB at most, on CUDA


class Plain:
    """The official README's pipeline: everything for every picture."""

    def __init__(self, network: DifixNet, text: nn.Module):
        self.network = network
        self.text = text
        self.tokens = torch.full((1, 77), 7, device=network.prompt.device)

    @torch.no_grad()
    def __call__(self, views: Tensor) -> Tensor:
        """[V, 3, H, W] in [-1, 1], the target first -> [3, H, W]."""
        network = self.network
        prompt = self.text(self.tokens).last_hidden_state.expand(len(views), -1, -1)
        latents, kept = network.encode(network.pad(views))
        noise = 1e-6 * torch.randn_like(latents)  # the posterior's sample, of which the network gives the mode
        latents = latents + noise
        prediction = network.unet(
            latents,
            torch.tensor(TIMESTEP, device=views.device),
            encoder_hidden_states=prompt,
            cross_attention_kwargs={"views": len(views)},
        ).sample
        return network.decode(network._clean(latents, prediction), kept)[0].float().clamp(-1, 1)


REFERENCES = ("none", "new", "cached")
"""of a picture: none, one that comes for the first time, one that other pictures had"""


def main(
    output: Path | None = None,
    compile: bool = False,
    repeats: int = 10,
    shrink: int | None = None,
    device: str | None = None,
) -> None:
    """Measure and print.

    Args:
        output: file to write the table to as well.
        compile: compile ours with torch.compile before it is timed.
        repeats: runs timed per case; the median counts.
        shrink: divide the sides of pictures by this (unset: 1 on cuda, 16 elsewhere).
        device: cuda or cpu (unset: cuda if there is one).
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.startswith("cuda")
    shrink = shrink or (1 if cuda else 16)
    repeats = repeats if cuda else 1
    dtype = torch.bfloat16 if cuda else fast_dtype("cpu")
    name = torch.cuda.get_device_name(device) if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    peak, precision = matmul_peak(device, dtype), str(dtype).removeprefix("torch.")
    lines = [f"Measured on {name}, torch {torch.__version__}, {'compiled' if compile else 'not compiled'}; "]
    lines[0] += f"{precision} matrix products reach {peak / 1e12:.2f} TFLOP/s there."
    if shrink > 1:
        lines.append(
            f"**Scaled down**: there is no CUDA device, so pictures have 1/{shrink} of the sides they are named after "
            f"and times say nothing about a GPU; the networks are full size, ours in {precision}; each case ran once."
        )
    lines += ["", "| size | reference | batch | " + " | ".join(COLUMNS) + " |", "|---" * (3 + len(COLUMNS)) + "|"]
    print("\n".join(lines), flush=True)
    network = full_size(device)
    plain32 = time_plain(network, shrink, repeats, torch.float32)
    plain16 = time_plain(network, shrink, repeats, torch.float16) if cuda else {}
    network = network.to(dtype).to(memory_format=torch.channels_last if cuda else torch.preserve_format)
    fixer = DifixFixer(network, compile=compile)
    for size, reference, batch in itertools.product(SIZES, REFERENCES, (1, 4)):
        count, pixels = int(reference != "none"), (size[0] // shrink, size[1] // shrink)
        ours = time_ours(fixer, pixels, reference, batch, repeats, device)
        share = flops(pixels, reference, batch) / ours.seconds / peak
        slow, half = plain32[size, count], plain16.get((size, count))
        memory = [f"{t.memory:.1f}" if t is not None and t.memory is not None else "-" for t in (slow, half, ours)]
        lines.append(
            f"| {pixels[0]}x{pixels[1]} | {reference} | {batch} | {1e3 * slow.seconds:.0f} | "
            f"{f'{1e3 * half.seconds:.0f}' if half else '-'} | {1e3 * ours.seconds:.0f} | "
            f"{slow.seconds / ours.seconds:.1f}x | {f'{half.seconds / ours.seconds:.1f}x' if half else '-'} | "
            f"{' / '.join(memory)} | {100 * share:.0f} % |"
        )
        print(lines[-1], flush=True)
    if output is not None:
        output.write_text("\n".join(lines) + "\n")


COLUMNS = (
    "plain float32, ms per picture",
    "plain float16, ms",
    "ours, ms",
    "float32 / ours",
    "float16 / ours",
    "peak memory float32 / float16 / ours, GiB",
    "of the peak",
)


def full_size(device: str) -> DifixNet:
    """Full-size networks with random weights that keep activations near one."""
    with torch.device("meta"):
        network = DifixNet(UNET, VAE, SCHEDULER, torch.zeros(77, 1024))
    network = network.to_empty(device=device)
    randomise(network)
    return network.eval()


def randomise(module: nn.Module) -> None:
    """Normal weights by fan-in, ones for normalisation, zeros for biases: a fraction of the time of the default."""
    with torch.no_grad():
        for name, weight in [*module.named_parameters(), *module.named_buffers()]:
            if weight.dim() > 1:
                weight.normal_(0, 0.7 / math.sqrt(weight[0].numel())) if weight.is_floating_point() else weight.zero_()
            elif weight.is_floating_point():
                weight.fill_(0.0 if name.endswith("bias") else 1.0)


def time_plain(
    network: DifixNet, shrink: int, repeats: int, dtype: torch.dtype
) -> dict[tuple[tuple[int, int], int], Timing]:
    """By size and number of references. It has no batches: four pictures take four times as long as one."""
    from transformers import CLIPTextConfig, CLIPTextModel

    device = network.prompt.device
    with torch.device("meta"):
        text = CLIPTextModel(CLIPTextConfig(**TEXT))
    text = text.to_empty(device=device)
    randomise(text)
    with torch.no_grad():
        text.embeddings.position_ids.copy_(torch.arange(77))
    plain = Plain(network.to(dtype), text.to(dtype).eval())
    timings = {}
    for size, count in itertools.product(SIZES, (0, 1)):
        views = torch.rand(1 + count, 3, size[0] // shrink, size[1] // shrink, device=device, dtype=dtype)
        timings[size, count] = measure(functools.partial(plain, views), repeats, device)
    return timings


def time_ours(
    fixer: DifixFixer, size: tuple[int, int], reference: str, batch: int, repeats: int, device: str
) -> Timing:
    """All pictures of a batch share their reference, as frames of a scene do."""
    pictures = [torch.rand(*size, 3, device=device) for _ in range(batch)]
    photograph = torch.rand(*size, 3, device=device)

    def run() -> None:
        shown = {"none": [], "new": [PosedImage(photograph.clone())], "cached": [PosedImage(photograph)]}[reference]
        fixer.fix([FixRequest(picture, shown) for picture in pictures])

    whole = measure(run, repeats, torch.device(device))
    return Timing(whole.seconds / batch, whole.memory)


def measure(run: Callable[[], object], repeats: int, device: torch.device) -> Timing:
    """The median after warming up."""
    cuda = device.type == "cuda"
    for _ in range(3 if cuda else 1):
        run()
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None
    return Timing(sorted(times)[len(times) // 2], memory)


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product."""
    side = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    timing = measure(lambda: a @ b, 20, torch.device(device))
    return 2 * side**3 / timing.seconds


def flops(size: tuple[int, int], reference: str, batch: int) -> float:
    """Operations for one picture of a batch that shares its reference."""
    total = 0.0
    with torch.device("meta"), torch.no_grad():
        network = DifixNet(UNET, VAE, SCHEDULER, torch.zeros(77, 1024))
        picture = network.pad(torch.zeros(1, 3, *size))
        with FlopCounterMode(display=False) as counter:
            latent, kept = network.encode(picture)
            views = 1 if reference == "none" else 2
            network.decode(network.denoise(latent[:, None].expand(-1, views, -1, -1, -1)), kept)
        total += counter.get_total_flops()
        if reference == "new":
            with FlopCounterMode(display=False) as counter:
                network.encode(picture, keep=False)
            total += counter.get_total_flops() / batch
    return total


if __name__ == "__main__":
    tyro.cli(main)
