"""Mistakes a user can make and mend."""


class UserError(Exception):
    """Something the user can mend; the message names the file or flag and the remedy."""
