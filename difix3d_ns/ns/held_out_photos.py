"""Captures of which no photo is held out: what cannot be done with them, and how to hold some out."""

from __future__ import annotations

from difix3d_ns.errors import UserError

HOLD_SOME_OUT = (
    "To hold some out, list them under val_filenames (and the others under train_filenames) in transforms.json and "
    "train again; of ten photos and more every eighth is held out by itself. Of a single photo none can be: there is "
    "nothing to compare the sides with that it does not show."
)


def none_held_out(consequence: str) -> UserError:
    """Return the error for what needs held-out photos."""
    return UserError(f"No photo was held out of training, {consequence}. {HOLD_SOME_OUT}")
