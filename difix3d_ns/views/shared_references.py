"""References of neighbouring frames: the same ones as long as they serve, so that the picture does not jump."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.views.references import Candidate, Usefulness, choose_most_useful, usefulness

_EXCHANGE = 0.02  # of what the references show: what another one must add before it takes the place of a former one
_PROMOTE = 0.2  # by how much a reference must show more than the one before it to be named first


def share_references(
    camera: Pinhole,
    depth: Tensor,
    alpha: Tensor,
    candidates: Sequence[Candidate],
    count: int,
    former: Sequence[int] = (),
) -> list[int]:
    """The references of the frame before as far as they still serve, completed by ``choose_references``.

    A former reference stays unless it shows nothing any more, or another view in its place would show 2 % more of
    the picture, counted as in ``choose_references``. A newcomer takes the position of the one it replaces. The
    order changes only where a later reference alone shows 20 % more than an earlier one.

    Args:
        camera, depth, alpha, candidates, count: see ``choose_references``.
        former: positions in ``candidates`` of the references of the frame before, most useful first; those that are
            no candidates any more are left out by the caller.

    Returns:
        At most ``count`` different positions in ``candidates``; those of ``choose_references`` without former ones.

    Raises:
        IndexError: a former position is not in ``candidates``.
    """
    if min(count, len(candidates)) <= 0:
        return []
    useful = usefulness(camera, depth, alpha, candidates)
    alone = useful.worth.sum(1)  # [K]
    kept = [k for k in dict.fromkeys(former) if alone[k] > 0][:count]
    chosen = choose_most_useful(useful, count, kept)
    for _ in kept:  # each exchange gains, so there is an end; more at once is a jump anyway
        place, newcomer, gain = _best_exchange(useful, chosen)
        if gain <= _EXCHANGE * _shown(useful, chosen):
            break
        chosen[place] = newcomer
    return _in_order(chosen, alone) if kept else chosen


def _shown(useful: Usefulness, chosen: Sequence[int]) -> float:
    """Pixels that the references settle together."""
    return float((1 - (1 - useful.worth[list(chosen)]).prod(0)).sum())


def _best_exchange(useful: Usefulness, chosen: Sequence[int]) -> tuple[int, int, float]:
    """Which position of ``chosen`` to give to which candidate, and how many pixels that gains."""
    best = (0, chosen[0], 0.0)
    for place, leaving in enumerate(chosen):
        others = [k for k in chosen if k != leaving]
        gain = useful.worth @ (1 - useful.worth[others]).prod(0) - useful.penalty
        gain = gain - gain[leaving]
        gain[others] = -torch.inf
        newcomer = int(gain.argmax())
        if gain[newcomer] > best[2]:
            best = (place, newcomer, float(gain[newcomer]))
    return best


def _in_order(chosen: list[int], alone: Tensor) -> list[int]:
    """Most useful first, but neighbours stay where they are while they are nearly equal."""
    order = list(chosen)
    for end in range(len(order), 1, -1):
        for i in range(end - 1):
            if alone[order[i + 1]] > (1 + _PROMOTE) * alone[order[i]]:
                order[i], order[i + 1] = order[i + 1], order[i]
    return order
