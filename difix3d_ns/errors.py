"""Mistakes a user can make and correct."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can correct; the message names the file or flag and the remedy."""
