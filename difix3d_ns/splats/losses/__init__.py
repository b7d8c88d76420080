"""Losses of a splat's render."""
