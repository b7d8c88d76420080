"""Poses nobody photographed: targets, progress, references, the pool and its schedule."""
