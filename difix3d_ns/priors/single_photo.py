"""Upscaling of one photograph by itself, without a splat between the rounds."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from difix3d_ns.priors.base import Upscaler


def upscale_alone(
    upscaler: Upscaler,
    low: Tensor,
    size: tuple[int, int],
    seed: int = 0,
    rounds: int | None = None,
    render: Tensor | None = None,
    on_round: Callable[[int], object] = lambda number: None,
) -> Tensor:
    """Go through the rounds of an upscaler with one photograph.

    Args:
        upscaler: of one photograph at a time.
        low: [h, w, 3] in [0, 1].
        size: height and width of the result.
        seed: of all random draws.
        rounds: how many; None: all.
        render: [H, W, 3] in [0, 1], what takes the place of a splat's render after each round; None: its result.
        on_round: called with the number of each round, from 0, before it.

    Returns:
        [H, W, 3] in [0, 1].
    """
    rounds = upscaler.rounds if rounds is None else rounds
    state = upscaler.start([low], [size], [seed])
    for number in range(rounds):
        on_round(number)
        while upscaler.steps_left(state):
            state = upscaler.step(state)
        (picture,) = upscaler.result(state)
        if number + 1 < rounds:
            state = upscaler.advance(state, [picture if render is None else render])
    return picture
