"""Mistakes a user can make and mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend; the message names the file or flag and the remedy."""
