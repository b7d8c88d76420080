"""Networks of diffusers from the entries of a JSON."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def construct(kind: Callable[..., Any], config: Mapping[str, Any]) -> Any:
    """Construct ``kind`` from those entries of a JSON that it knows; names of classes and others mean nothing."""
    known = inspect.signature(kind).parameters
    return kind(**{key: value for key, value in config.items() if key in known})
