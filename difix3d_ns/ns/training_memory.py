"""Memory that a training takes on a CUDA device, by picture size and number of Gaussians."""

from __future__ import annotations

from difix3d_ns.ns.reference_views import MAX_PLANE_BYTES
from difix3d_ns.priors.embedded import memory_of_call

GAUSSIAN_BYTES = 4 * 4 * 59 + 2 * 270
"""59 numbers of 4 bytes (mean 3, scale 3, rotation 4, opacity 1, colour 3, spherical harmonics 45), each with its
gradient and two moments; and what gsplat 1.4.0 holds of each while it rasterizes, by reading, with gradients"""
LOSS_BYTES = 280
"""of the losses for each pixel, forward and backward: of benchmarks/memory.py, rounded up"""
PHOTO_BYTES = 3
"""of a cached photograph for each pixel"""
CONTEXT_BYTES = 2**29
"""of CUDA, its libraries and their kernels; an estimate"""


def memory_needed(width: int, height: int, photographs: int, gaussians: int, rounds: bool = True) -> int:
    """Return the bytes that a training takes at its peak with the embedded fixer.

    Args:
        width, height: of its photographs, as they are trained on.
        photographs: how many; all are cached.
        gaussians: how many there are in the end.
        rounds: whether pseudo-views are made.
    """
    pixels = width * height
    kept = CONTEXT_BYTES + gaussians * GAUSSIAN_BYTES + photographs * pixels * PHOTO_BYTES
    losses = pixels * LOSS_BYTES
    if not rounds:
        return kept + losses
    planes = min(MAX_PLANE_BYTES, photographs * pixels * 4)
    # where there is more, several views are made together, which is faster
    return kept + planes + max(losses, memory_of_call(width, height))
