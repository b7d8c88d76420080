"""The default fixer: align, blend, one step of diffusion; small, permissively licensed and part of the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.io.device_memory import free_memory, run_in_chunks
from difix3d_ns.priors.alignment.aligned_references import MAX_REFERENCES, Aligned, align
from difix3d_ns.priors.base import DEFAULT_REFERENCES, Fixer, FixRequest, FixResult, finite
from difix3d_ns.priors.blend import visible_in_any
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.priors.networks.stages import EmbeddedChain
from difix3d_ns.priors.networks.weight_files import find_weights, read_weights

WEIGHTS = Path(__file__).parent / "weights" / "embedded.safetensors"

# Peaks of one call for each pixel, beside its requests: of benchmarks/memory.py, rounded up.
ALIGNER_BYTES = 1300
"""of the aligner, whose features are float32: one view after the other"""
NETWORK_VALUES = 300
"""numbers of the networks for each view; they have their own precision"""


def memory_of_call(width: int, height: int, views: int = 1, element_size: int = 2) -> int:
    """Return the peak in bytes of repairing some views together, beside the requests.

    Args:
        width, height: of the pictures.
        views: how many.
        element_size: bytes of a number of the networks: 2 in bfloat16, 4 in float32.
    """
    return width * height * max(ALIGNER_BYTES, views * element_size * NETWORK_VALUES)


def confidence(result: Tensor, aligned: Aligned) -> Tensor:
    """Confidence that at least one reference shows a pixel and agrees with the result there.

    Args:
        result: [3, H, W] in [0, 1], the repaired picture.
        aligned: the references it leans on.

    Returns:
        [1, H, W] in [0, 1], 0 where nothing is visible.
    """
    error = (aligned.warps - result).abs().mean(1, keepdim=True)
    error = F.avg_pool2d(error, 5, stride=1, padding=2, count_include_pad=False)
    agreement = (1.5 - error / 0.15).clamp(0, 1)
    return visible_in_any(aligned.visibility * agreement)


class EmbeddedFixer(Fixer):
    """``EmbeddedChain`` behind the contract of ``Fixer``.

    Args:
        chain: the networks.
        diffusion: False leaves out the diffusion model: to measure its gain, or to save most of the time.
    """

    trained_references = MAX_REFERENCES
    default_references = DEFAULT_REFERENCES
    generative = False  # the gate of its diffusion model is closed where no reference sees anything
    aligns = True

    def __init__(self, chain: EmbeddedChain, diffusion: bool = True):
        self.chain = chain.eval().requires_grad_(False)
        self.diffusion = diffusion

    @torch.no_grad()
    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch (contract of ``Fixer``); requests of one size and number of references run together.

        Raises:
            torch.cuda.OutOfMemoryError: one picture alone does not fit.
        """
        sizes: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(requests):
            sizes.setdefault((*request.image.shape[:2],), []).append(index)
        results: dict[int, FixResult] = {}
        for (height, width), members in sizes.items():
            try:
                together = self._together(len(members), width, height)
                made = run_in_chunks(self._fix, [requests[i] for i in members], together)
            except torch.cuda.OutOfMemoryError as error:
                raise torch.cuda.OutOfMemoryError(
                    f"a picture of {width}x{height} does not fit into the device's memory; it takes some "
                    f"{memory_of_call(width, height) / 2**30:.1f} GiB beside what is there: use smaller pictures"
                ) from error
            results.update(zip(members, made, strict=True))
        return [results[i] for i in range(len(requests))]

    def _together(self, count: int, width: int, height: int) -> int:
        """Number of ``count`` pictures that the device has memory for at once, at least 1."""
        place = next(self.chain.blend.parameters())
        free = free_memory(place.device)
        if free is None:
            return count
        fitting = (n for n in range(count, 1, -1) if memory_of_call(width, height, n, place.element_size()) <= free)
        return next(fitting, 1)

    def _fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair pictures of one size, on the device of the networks; results are where the requests are."""
        homes = [request.image.device for request in requests]
        device = next(self.chain.parameters()).device
        requests = [request.to(device) for request in requests]
        shown = [request.image.isfinite().all(-1, keepdim=True) for request in requests]  # [H, W, 1]
        requests = [finite(request) for request in requests]
        aligned = [self._align(request) for request in requests]
        groups: dict[int, list[int]] = {}
        for index, found in enumerate(aligned):
            groups.setdefault(len(found.warps), []).append(index)
        results: dict[int, FixResult] = {}
        for members in groups.values():
            pictures = self._run([requests[i] for i in members], [aligned[i] for i in members])
            for i, picture in zip(members, pictures, strict=True):
                found = aligned[i]
                seen = confidence(picture, found) if len(found.warps) else torch.zeros_like(picture[:1])
                # Where no reference shows the surface, references cannot have found its depth.
                matched = found.matched * visible_in_any(found.visibility)
                picture, seen, matched = (values.permute(1, 2, 0).contiguous() for values in (picture, seen, matched))
                results[i] = FixResult(picture, seen * shown[i], found.depth, matched).to(homes[i])
        return [results[i] for i in range(len(requests))]

    def _align(self, request: FixRequest) -> Aligned:
        known = (request.camera, request.image, request.depth, request.alpha)
        return align(self.chain.align, *known, request.references)

    def _run(self, requests: list[FixRequest], aligned: list[Aligned]) -> list[Tensor]:
        """Repaired pictures [3, H, W] float32."""
        images = torch.stack([request.image.permute(2, 0, 1) for request in requests])
        if len(aligned[0].warps) == 0:  # no reference: nothing is changed
            return list(images.float().clamp(0, 1))
        alphas = torch.stack([request.alpha.permute(2, 0, 1) for request in requests if request.alpha is not None])
        out = self.chain(
            images.float(),
            alphas.float(),
            torch.stack([found.warps for found in aligned]).float(),
            torch.stack([found.visibility for found in aligned]).float(),
            diffusion=self.diffusion,
        )
        return list(out.image.clamp(0, 1))


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    diffusion: bool = True,
) -> EmbeddedFixer:
    """Read the chain from a .safetensors file with its .json beside it.

    Args:
        weights: such a file, a folder with one ("weights.safetensors", as ``difix3d train-prior`` writes), or None or
            "embedded" for the package's own.
        device: where the networks live.
        dtype: their precision; None for ``fast_dtype``: bfloat16 halves the time where the processor has it.
        diffusion: see ``EmbeddedFixer``.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: it cannot be read or does not fit.
    """
    own = weights in (None, "embedded")
    path = find_weights(WEIGHTS if own else str(weights), "embedded", "fixer", "embedded")
    chain = read_weights(
        path,
        _chain,
        "fixer",
        "--pipeline.guidance.fixer.weights a folder written by `difix3d train-prior`",
    )
    chain = chain.to(device).cast_networks(dtype or fast_dtype(torch.device(device).type))
    return EmbeddedFixer(chain.to(memory_format=torch.channels_last), diffusion)


def _chain(config: dict[str, Any], tensors: Mapping[str, Tensor]) -> EmbeddedChain:
    if missing := sorted({"align", "blend", "difix"} - set(config)):
        raise ValueError(f"it lacks {', '.join(missing)}: an aligner alone, or made by an earlier version")
    chain = EmbeddedChain(config)
    chain.load_state_dict(tensors, strict=True)
    return chain
