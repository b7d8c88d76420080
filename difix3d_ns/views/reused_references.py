"""References of neighbouring frames: the same ones as long as they serve, so that the picture does not jump."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.views.references import Candidate, Coverage, candidate_coverage, greedy_max_coverage

_EXCHANGE_GAIN = 0.02  # of what the references cover: what another one must add before it replaces a previous one
_PROMOTION_GAIN = 0.2  # by how much a reference must cover more than the one before it to be named first


def reuse_references(
    camera: Pinhole,
    depth: Tensor,
    alpha: Tensor,
    candidates: Sequence[Candidate],
    count: int,
    previous: Sequence[int] = (),
) -> list[int]:
    """Choose references, and keep those of the previous frame as far as they still serve.

    A previous reference stays unless it shows nothing any more, or another view in its place would cover 2 % more of
    the picture, counted as in ``choose_references``. A newcomer takes the position of the one it replaces. The
    order changes only where a later reference alone covers 20 % more than an earlier one.

    Args:
        camera, depth, alpha, candidates, count: see ``choose_references``.
        previous: positions in ``candidates`` of the references of the previous frame, best first; those that are no
            candidates any more are left out by the caller.

    Returns:
        At most ``count`` different positions in ``candidates``; those of ``choose_references`` without previous ones.

    Raises:
        IndexError: a previous position is not in ``candidates``.
    """
    if min(count, len(candidates)) <= 0:
        return []
    covered = candidate_coverage(camera, depth, alpha, candidates)
    alone = covered.coverage.sum(1)  # [K]
    kept = [k for k in dict.fromkeys(previous) if alone[k] > 0][:count]
    chosen = greedy_max_coverage(covered, count, kept)
    for _ in kept:  # each exchange gains, so there is an end; more at once is a jump anyway
        place, newcomer, gain = _best_exchange(covered, chosen)
        if gain <= _EXCHANGE_GAIN * _joint_coverage(covered, chosen):
            break
        chosen[place] = newcomer
    return _stable_order(chosen, alone) if kept else chosen


def _joint_coverage(covered: Coverage, chosen: Sequence[int]) -> float:
    """Number of pixels that the chosen references cover together."""
    return float((1 - (1 - covered.coverage[list(chosen)]).prod(0)).sum())


def _best_exchange(covered: Coverage, chosen: Sequence[int]) -> tuple[int, int, float]:
    """Find the position of ``chosen`` to give to another candidate, that candidate, and the gain in pixels."""
    best = (0, chosen[0], 0.0)
    for place, leaving in enumerate(chosen):
        others = [k for k in chosen if k != leaving]
        gain = covered.coverage @ (1 - covered.coverage[others]).prod(0) - covered.pose_penalty
        gain = gain - gain[leaving]
        gain[others] = -torch.inf
        newcomer = int(gain.argmax())
        if gain[newcomer] > best[2]:
            best = (place, newcomer, float(gain[newcomer]))
    return best


def _stable_order(chosen: list[int], alone: Tensor) -> list[int]:
    """Sort best first, but neighbours stay where they are while they are nearly equal."""
    order = list(chosen)
    for end in range(len(order), 1, -1):
        for i in range(end - 1):
            if alone[order[i + 1]] > (1 + _PROMOTION_GAIN) * alone[order[i]]:
                order[i], order[i + 1] = order[i + 1], order[i]
    return order
