"""Pieces of work for which a device may have too little memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from difix3d_ns.errors import UserError, first_line
from difix3d_ns.io.device_memory import return_unused_memory
from difix3d_ns.views.pool import Pool


def with_memory(work: Callable[[], None], pool: Pool, remedy: str) -> None:
    """Run a piece of work; where memory runs out, once more without the views that the device holds.

    Args:
        work: may be begun again after it failed.
        pool: of the views.
        remedy: what needs less: "the device has no memory to ...".

    Raises:
        UserError: it runs out again; the message is ``remedy`` with torch's.
    """
    try:
        work()
        return
    except torch.cuda.OutOfMemoryError:
        pass
    pool.leave_device()
    return_unused_memory()  # outside of that clause the failed attempt's tensors are gone
    try:
        work()
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(f"{remedy} ({first_line(error)})") from error
