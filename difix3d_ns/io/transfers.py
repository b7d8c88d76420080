"""Transfers of tensors from the CPU's memory to a device's."""

from __future__ import annotations

from dataclasses import Field, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


Whole = TypeVar("Whole", bound=_Dataclass)


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device; the CPU does not wait for its copy to a CUDA device.

    One that requires gradients is copied in the usual way, and waited for.
    """
    if values.device.type != "cpu" or torch.device(device).type != "cuda" or values.requires_grad:
        return values.to(device)
    # torch keeps the pinned memory until the copy is done; from other memory the copy itself would wait
    return values.pin_memory().to(device, non_blocking=True)


def moved(whole: Whole, device: torch.device | str, **others: Any) -> Whole:
    """Return a dataclass with those of its fields that are tensors on a device.

    Args:
        whole: what else it has, cameras among it, stays as it is.
        device: where to.
        others: fields with their new values.
    """
    values = {entry.name: getattr(whole, entry.name) for entry in fields(whole)}
    tensors = {name: sent(value, device) for name, value in values.items() if isinstance(value, Tensor)}
    return replace(whole, **tensors, **others)
