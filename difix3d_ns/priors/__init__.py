"""2D knowledge, usable alone: one file is one prior."""
