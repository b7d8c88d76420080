"""Upscaling of photographs in rounds, one bounded piece at a time, and the state that each has in between."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from difix3d_ns.guidance.upscaled_photos import EnlargedPhotos
from difix3d_ns.priors.base import State, Upscaler
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.protocols import Renderer
from difix3d_ns.views.store import STATE

_SEED = 1_000_003  # between the noise of two photographs lie the draws of all rounds


@dataclass(frozen=True)
class Upscaled:
    """Photographs that were upscaled together: one, unless the upscaler is joint."""

    indices: Sequence[int]
    pictures: Sequence[Tensor]  # [H, W, 3] each
    renders: Sequence[Tensor | None]  # [H, W, 3] that the upscaler was shown
    seconds: float  # of each photograph


class PhotoUpscaling:
    """Upscaler of all photographs of a scene, round by round.

    A unit is what has one state: a photograph, or all of them if the upscaler is joint. States are kept in the pool.

    Args:
        upscaler: which.
        photos: and their cameras.
        renderer: of the splat that the upscaler is shown.
        pool: of the states.
        order: of the photographs along their path.
        seed: of all noise.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        photos: EnlargedPhotos,
        renderer: Renderer,
        pool: Pool,
        order: Sequence[int],
        seed: int,
    ) -> None:
        self._upscaler, self._photos, self._renderer, self._pool, self._seed = upscaler, photos, renderer, pool, seed
        self._units = [list(order)] if upscaler.joint else [[index] for index in order]
        self._waiting: list[int] = []  # units that are not upscaled yet in this round
        self._state: State | None = None  # of the first of them
        self._renders: list[Tensor] = []  # that its state is made with
        self._seconds = 0.0

    @property
    def left(self) -> int:
        """Number of photographs that are not upscaled yet in this round."""
        return sum(len(self._units[unit]) for unit in self._waiting)

    def begin(self) -> None:
        """Begin a round with all photographs."""
        self._waiting = list(range(len(self._units)))

    def piece(self, result: int, last: bool, from_renders: bool, feedback: bool) -> Upscaled | None:
        """Do one piece for the first unit that waits; it waits until ``finish``.

        Args:
            result: which of its results, from 0, the upscaler makes.
            last: whether it is its last, after which no state is needed.
            from_renders: whether the splat's renders are its beginning, also of what has no state.
            feedback: whether the splat's renders take the place of the last result, or that itself.

        Returns:
            The unit's photographs, upscaled; None if another piece is needed first.
        """
        started = time.perf_counter()
        unit, state = self._waiting[0], self._state
        if state is None:
            state = self._new_state(unit, result, from_renders, feedback)
        elif self._upscaler.steps_left(state):
            state = self._upscaler.step(state)
        self._state = state
        if state is None or self._upscaler.steps_left(state):
            self._seconds += time.perf_counter() - started
            return None
        indices = self._units[unit]
        renders: Sequence[Tensor | None] = self._renders or [None] * len(indices)
        pictures = self._upscaler.result(state)
        self._store(unit, {} if last else state)
        seconds = (self._seconds + time.perf_counter() - started) / len(indices)
        return Upscaled(indices, pictures, renders, seconds)

    def finish(self) -> None:
        """Go on to the next unit, once what was made of this one is kept."""
        del self._waiting[0]
        self._state, self._renders, self._seconds = None, [], 0.0

    def _new_state(self, unit: int, result: int, from_renders: bool, feedback: bool) -> State | None:
        """Return the state that this round begins with; None as long as renders are missing."""
        indices, before = self._units[unit], self._stored(unit) if result else None
        if before is not None and not feedback:
            return self._upscaler.advance(before, self._upscaler.result(before))
        if from_renders and len(self._renders) < len(indices):
            index = indices[len(self._renders)]
            render = self._renderer.render(self._photos.camera(index, optimised=True), photo=index).image
            self._renders.append(render if len(indices) == 1 else render.cpu())
            if len(self._renders) < len(indices):
                return None
        if before is not None:
            return self._upscaler.advance(before, self._renders)
        return self._upscaler.start(
            [self._photos.low(index) for index in indices],
            [self._photos.high_size(index) for index in indices],
            [self._seed * _SEED + index for index in indices],
            self._renders if from_renders else None,  # after the first result: its state was lost with its file
        )

    def _key(self, unit: int) -> str:
        return f"{STATE}/{self._units[unit][0]:04d}"

    def _store(self, unit: int, state: State) -> None:
        self._pool.put_state(self._key(unit), state)

    def _stored(self, unit: int) -> State | None:
        return self._pool.stored_state(self._key(unit))

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs, and put the state of the unit that is begun into the pool."""
        if self._state is not None:
            self._store(self._waiting[0], self._state)
        return {"seed": self._seed, "waiting": list(self._waiting), "begun": self._state is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken; the pool holds again what it held."""
        self._seed, self._waiting = state["seed"], list(state["waiting"])
        self._state = self._stored(self._waiting[0]) if state["begun"] else None
