"""Losses on renders of a splat."""
