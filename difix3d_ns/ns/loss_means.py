"""Running means of the losses, by what is learnt from."""

from __future__ import annotations

import nerfstudio.configs.base_config  # noqa: F401  (nerfstudio's writer cannot be imported before it)
import torch
from nerfstudio.utils import writer
from torch import Tensor

_EVERY = 10
"""steps between points of the curves, as nerfstudio's own"""
_MEMORY = 0.95
"""of the running means: some twenty steps"""


class LossMeans:
    """Running means, kept on the device until somebody reads them."""

    def __init__(self) -> None:
        self._means: dict[str, Tensor] = {}

    def follow(self, name: str, loss: Tensor) -> None:
        """Take in the loss of a step."""
        before = self._means.get(name, loss)
        self._means[name] = torch.lerp(loss, before, _MEMORY)

    def values(self) -> dict[str, float]:
        """Return the present means."""
        return {name: float(loss) for name, loss in self._means.items()}

    def write(self, step: int, force: bool = False) -> None:
        """Add a point to the curves, now and then."""
        if (step % _EVERY == 0 or force) and self._means and writer.is_initialized():
            writer.put_dict(name="Loss of", scalar_dict=self.values(), step=step)
