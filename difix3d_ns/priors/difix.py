"""The published Difix weights, or others of the same architecture, from a folder or the Hugging Face hub."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from torch import Tensor

from difix3d_ns.io.device_memory import free_memory, return_unused_memory
from difix3d_ns.priors.base import Fixer, FixRequest, FixResult, without_masked
from difix3d_ns.priors.blend import visible_in_any, warp_request
from difix3d_ns.priors.networks.difix_net import DifixNet
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.priors.networks.tiling import Tiling
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.published.folder import read_network, trained_references

MAX_PIXELS = 2**23
"""pixels the autoencoder takes whole: beyond, its widest feature map has more elements than 32 bits count"""
MAX_PIXELS_ON_CPU = 2**20
"""the same on the CPU, for its memory's sake: 5 GiB at full size in float32"""


MAX_LATENTS = 256
"""latents of references in the cache, the least recently shown dropped first: 0.3 MiB each at 1088x1920 in bfloat16"""


class _Parts(NamedTuple):
    """Three parts of the network, plain or compiled."""

    encode: Callable[..., Any]
    denoise: Callable[..., Any]
    decode: Callable[..., Any]


class DifixFixer(Fixer):
    """Difix behind the contract of ``Fixer``: references are shown unaligned, as in the paper.

    Pictures are padded right and bottom, by repeating their edge, to what the network needs. A reference of another
    size is resized with its aspect kept until it fits the padded picture, and padded; nobody attends to its padding.
    Its latent is kept, so frames that show the same photograph encode it once, whichever tensor it comes in.

    The confidence is where the references see the splat, as for the blend; without geometry it is 0. So it is where
    the picture is not finite: such pixels are taken as black.

    A model that was trained without references never mixed views: it ignores them, as the official pipeline does with
    nvidia/difix, and its confidence is 0.

    Args:
        network: the model.
        batch: pictures of one size repaired together.
        compile: compile the three parts for each size when it first comes; goes on without, with a notice, on failure.
        trained_references: photographs that the model was shown beside each picture in training.
    """

    generative = True
    trained_references: int = 1

    def __init__(self, network: DifixNet, batch: int = 4, compile: bool = False, trained_references: int = 1):
        self.network = network.eval().requires_grad_(False)
        self.trained_references = trained_references
        self.batch = batch
        self._latents: OrderedDict[tuple[object, ...], tuple[Tensor, tuple[int, int]]] = OrderedDict()
        self._eager = _Parts(network.encode, network.denoise, network.decode)
        self._parts = self._eager
        if compile:
            self._parts = _Parts(*(torch.compile(part, dynamic=False) for part in self._eager))
        self._compiled_for: set[tuple[object, ...]] = set()

    def describe(self, references: int) -> str:
        """Sentence on what the model was trained with (see ``Fixer``)."""
        trained = self.trained_references
        if trained == 0:
            ignored = "they are ignored, as in the official pipeline" if references else "it is shown none"
            return f"this Difix model was trained without reference photos: {ignored}"
        if references > trained:
            return (
                f"this Difix model was trained with {trained} reference photo{'s' * (trained > 1)} beside each picture "
                f"and is shown {references}"
            )
        return ""

    @torch.no_grad()
    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch (contract of ``Fixer``); requests of one size and number of references run together.

        Raises:
            torch.cuda.OutOfMemoryError: the device has too little memory, even for one picture in tiles.
        """
        if self.trained_references == 0:
            requests = [replace(request, references=()) for request in requests]
        requests = [
            replace(request, references=[without_masked(reference) for reference in request.references])
            for request in requests
        ]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault((*request.image.shape[:2], len(request.references)), []).append(index)
        results: dict[int, FixResult] = {}
        for (height, width, _), members in groups.items():
            together = max(1, min(self.batch, self._max_pixels() // (height * width)))
            for start in range(0, len(members), together):
                chunk = members[start : start + together]
                pictures = self._run_within_memory([requests[i] for i in chunk])
                results.update({i: _result(requests[i], picture) for i, picture in zip(chunk, pictures, strict=True)})
        return [results[i] for i in range(len(requests))]

    def _run_within_memory(self, requests: list[FixRequest]) -> list[Tensor]:
        """Repaired pictures [3, H, W] in [-1, 1]; when memory runs out, once more one by one and in tiles."""
        height, width = requests[0].image.shape[:2]
        try:
            return list(self._run_checked(requests, Tiling() if height * width > self._max_pixels() else None))
        except torch.cuda.OutOfMemoryError:
            pass  # outside of this clause the failed attempt's tensors are gone
        _notice(f"out of memory with {len(requests)} pictures of {width}x{height} at once; again in smaller pieces")
        return_unused_memory()
        try:
            smaller = Tiling(2**16, offload_device=torch.device("cpu"))
            return [picture for request in requests for picture in self._run_checked([request], smaller)]
        except torch.cuda.OutOfMemoryError as error:
            raise torch.cuda.OutOfMemoryError(
                f"a picture of {width}x{height} with {len(requests[0].references)} references does not fit into the "
                "device's memory, even in tiles: use fewer references, bfloat16, smaller pictures or the cpu"
            ) from error

    def _run_checked(self, requests: list[FixRequest], tiling: Tiling | None) -> Tensor:
        pictures = self._forward_compiled(requests, tiling)
        if not bool(pictures.isfinite().all()):
            precision = str(next(self.network.parameters()).dtype).removeprefix("torch.")
            raise RuntimeError(f"the Difix network gives no finite numbers in {precision}; use bfloat16 or float32")
        return pictures

    def _forward_compiled(self, requests: list[FixRequest], tiling: Tiling | None) -> Tensor:
        height, width = requests[0].image.shape[:2]
        parts = self._eager if tiling is not None else self._parts
        size = (len(requests), height, width, *(r.image.shape for request in requests for r in request.references))
        if parts is self._eager or size in self._compiled_for:
            return self._forward(parts, requests, tiling)
        columns = SpinnerColumn(), TextColumn("Compiling {task.description}"), BarColumn(), TimeElapsedColumn()
        try:
            with Progress(*columns, console=Console(stderr=True)) as progress:
                progress.console.print("Compiling the fixer for this size, once; it may take minutes", highlight=False)
                task = progress.add_task(f"for {len(requests)} of {width}x{height}", total=3)
                result = self._forward(parts, requests, tiling, lambda: progress.advance(task))
            self._compiled_for.add(size)
            return result
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler stumbles over, the plain network works
            _notice(f"torch.compile failed, going on without it: {' '.join(str(error).split()[:40])}")
            self._parts = self._eager
        return self._forward(self._parts, requests, tiling)

    def _forward(
        self,
        parts: _Parts,
        requests: list[FixRequest],
        tiling: Tiling | None,
        step: Callable[[], object] = lambda: None,
    ) -> Tensor:
        """Repaired pictures [B, 3, H, W] in [-1, 1]; ``step`` is called after each of the three parts."""
        height, width = requests[0].image.shape[:2]
        pictures = self.network.pad(torch.stack([self._picture(request.image) for request in requests]))
        latents, kept = parts.encode(pictures, tiling=tiling)
        rows, columns = latents.shape[-2:]
        views, filled = [latents], [torch.tensor([[rows, columns]] * len(requests))]
        for references in zip(*(request.references for request in requests), strict=True):
            shown = [self._reference(r.image, (height, width), pictures.shape[-2:], parts, tiling) for r in references]
            views.append(torch.stack([latent for latent, _ in shown]))
            filled.append(torch.tensor([size for _, size in shown]))
        step()
        masks = self.network.masks(torch.stack(filled, 1), (rows, columns))
        if masks is not None:
            masks = {tokens: mask.to(latents.device) for tokens, mask in masks.items()}
        clean = parts.denoise(torch.stack(views, 1), masks)
        step()
        out = parts.decode(clean, kept, tiling=tiling)[..., :height, :width].float()
        step()
        return out

    def _picture(self, image: Tensor) -> Tensor:
        """Convert [H, W, 3] in [0, 1] to [3, H, W] in [-1, 1] where the network is, finite."""
        place = next(self.network.parameters())
        picture = image.to(place.device, torch.float32).permute(2, 0, 1).nan_to_num(0.0, 0.0, 0.0)
        return (picture.clamp(0, 1) * 2 - 1).to(place.dtype).contiguous()

    def _reference(
        self, image: Tensor, size: tuple[int, int], grid: Sequence[int], parts: _Parts, tiling: Tiling | None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Latent [c, h, w] of a reference, and the number of its rows and columns that show the photograph."""
        alike = tuple(image.shape[:2]) == size  # padded as the picture is, not resized
        key = (_fingerprint(image), *image.shape[:2], *grid, alike)
        if key not in self._latents:
            picture = self._picture(image)[None]
            shown = (int(grid[0]), int(grid[1]))
            if alike:
                picture = self.network.pad(picture)
            else:
                picture, shown = fit(picture, shown)
            latent = parts.encode(picture, keep=False, tiling=tiling)[0][0]
            multiple = self.network.multiple
            self._latents[key] = latent, (-(-shown[0] // multiple), -(-shown[1] // multiple))
            if len(self._latents) > MAX_LATENTS:
                self._latents.popitem(last=False)
        self._latents.move_to_end(key)
        return self._latents[key]

    def _max_pixels(self) -> int:
        """Number of pixels the autoencoder can take whole."""
        first = next(self.network.parameters())
        free = free_memory(first.device)
        if free is None:
            return MAX_PIXELS_ON_CPU
        widest = max(self.network.vae.config.block_out_channels[:2])  # channels at the picture's own resolution
        return min(MAX_PIXELS, free // (6 * widest * first.element_size()))  # up to six such maps live at once


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    compile: bool = False,
) -> DifixFixer:
    """Read Difix weights.

    Args:
        weights: a folder in diffusers' layout (a copy of nvidia/difix_ref or nvidia/difix, or what ``difix3d convert``
            wrote), or a hub id, which downloads.
        device: where the networks live.
        dtype: their precision; None for ``fast_dtype``.
        compile: see ``DifixFixer``.

    Raises:
        FileNotFoundError: no folder given, or a file is missing from it.
        RuntimeError: keys are missing or left over, or a file is damaged.
    """
    if weights is None:
        raise FileNotFoundError(
            "the fixer 'difix' has no weights of its own: give --pipeline.guidance.fixer.weights nvidia/difix_ref, "
            "nvidia/difix (5 GB, non-commercial licence) or a local copy, or use "
            "--pipeline.guidance.fixer.name embedded"
        )
    if hub.is_hub_id(weights):
        folder = hub.download(weights)
        network = read_network(folder, lambda: hub.download(weights, hub.TEXT))
    else:
        folder = Path(weights).expanduser()
        network = read_network(folder)
    kind = torch.device(device).type
    network = network.to(device=device, dtype=dtype or fast_dtype(kind))
    if kind == "cuda":  # on the CPU group normalisation loses digits in this order: 0.01 at 539x959 in float32
        network = network.to(memory_format=torch.channels_last)
    return DifixFixer(network, compile=compile, trained_references=trained_references(folder))


def fit(picture: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Resize with the aspect kept until it fits, and pad right and bottom by repeating the edge.

    Args:
        picture: [1, 3, H_k, W_k] in [-1, 1].
        grid: height and width to fill.

    Returns:
        [1, 3, *grid] and the height and width that are not padding.
    """
    scale = min(grid[0] / picture.shape[2], grid[1] / picture.shape[3])
    height, width = (max(1, min(full, round(side * scale))) for full, side in zip(grid, picture.shape[2:], strict=True))
    if (height, width) != tuple(picture.shape[2:]):
        resized = F.interpolate(picture.float(), (height, width), mode="bilinear", antialias=True, align_corners=False)
        picture = resized.to(picture.dtype)
    return F.pad(picture, (0, grid[1] - width, 0, grid[0] - height), mode="replicate"), (height, width)


def _fingerprint(image: Tensor) -> int:
    """Hash of the exact pixels: their bits times odd numbers, summed modulo 2^64, in whatever order a device sums."""
    bits = image.float().contiguous().view(torch.int32).flatten().long()
    places = torch.arange(len(bits), device=image.device) * 0x5851F42D4C957F2D
    return int(((bits + places) * (places | 1)).sum())


def _result(request: FixRequest, picture: Tensor) -> FixResult:
    image = (picture.to(request.image.device) / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).contiguous()
    confidence = visible_in_any(warp_request(request).visibility).float()
    return FixResult(image, confidence * request.image.isfinite().all(-1, keepdim=True))


def _notice(text: str) -> None:
    Console(stderr=True).print(f"[yellow]{text}[/yellow]", highlight=False)
