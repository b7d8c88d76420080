"""Messages and curves of a training in nerfstudio's console and event writers."""

from __future__ import annotations

import nerfstudio.configs.base_config  # noqa: F401  (nerfstudio's writer cannot be imported before it)
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.io.run import Tracker


class LogTracker(Tracker):
    """nerfstudio's own, where they are set up."""

    def log(self, message: str) -> None:
        CONSOLE.log(message)

    def image(self, name: str, picture: Tensor, step: int) -> None:
        if writer.is_initialized():
            writer.put_image(name=name, image=picture, step=step)

    def scalar(self, name: str, value: float, step: int) -> None:
        if writer.is_initialized():
            writer.put_scalar(name=name, scalar=value, step=step)
