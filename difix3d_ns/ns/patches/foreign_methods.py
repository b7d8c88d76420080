"""Methods that nerfstudio knows and that are not installed, listed without a look at the stack for each of them."""

from __future__ import annotations

import sys

from nerfstudio.configs import external_methods
from nerfstudio.configs.external_methods import ExternalMethodDummyTrainerConfig

_offer = ExternalMethodDummyTrainerConfig.__post_init__


def _offer_when_chosen(self: ExternalMethodDummyTrainerConfig) -> None:
    """Offer to install the method, unless nerfstudio makes its list: the caller of ``__init__``, two frames up."""
    if sys._getframe(2).f_code is not external_methods.get_external_methods.__code__:
        _offer(self)


def apply() -> None:
    """Replace the question of who makes the method."""
    ExternalMethodDummyTrainerConfig.__post_init__ = _offer_when_chosen  # type: ignore[method-assign]
