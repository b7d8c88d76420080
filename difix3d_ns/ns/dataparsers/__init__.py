"""Captures as they lie on disk: one file per format reads a description, one dataparser makes nerfstudio's cameras."""
