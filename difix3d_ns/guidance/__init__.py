"""Guidance: how a prior teaches a splat."""
