"""Services that ``--vis`` may send training curves to: whether they are ready, known before anything is done."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec

from difix3d_ns.errors import UserError
from difix3d_ns.ns.patches import excepthook

_OFFLINE = ("offline", "disabled", "dryrun")


def check_curve_service(vis: str) -> None:
    """Raise a UserError if the service is not installed or nobody is logged in.

    Args:
        vis: nerfstudio's ``--vis``.
    """
    other = "or use --vis viewer+tensorboard"
    if "comet" in vis:
        if find_spec("comet_ml") is None:
            raise UserError(f"--vis {vis}: comet_ml is not installed: pip install comet_ml, {other}")
        comet_ml = import_module("comet_ml")
        if not comet_ml.get_config("comet.api_key"):
            raise UserError(f"--vis {vis}: Comet has no key: run `comet login`, set COMET_API_KEY, {other}")
    if "wandb" in vis:
        if find_spec("wandb") is None:
            raise UserError(f"--vis {vis}: wandb is not installed: pip install wandb, {other}")
        wandb = import_module("wandb")
        asks = sys.stdin is not None and sys.stdin.isatty()  # for the key
        mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode  # which `wandb offline` sets
        if mode not in _OFFLINE and not asks and not wandb.api.api_key:
            excepthook.apply()  # before wandb's own, which prints a traceback of everything
            raise UserError(
                f"--vis {vis}: nobody is logged in to Weights & Biases: run `wandb login`, set WANDB_MODE=offline to "
                f"keep the curves here, {other}"
            )
