"""Folders of a training, beside nerfstudio_models/, whose every file nerfstudio takes for a checkpoint."""

POOL_FOLDER = "pseudo_views"
"""the pool"""
RECORDS_FOLDER = "made_views"
"""records of made views, pictures for people"""
DEPTHS_FOLDER = "photo_depths"
"""records of the depth of photographs, pictures for people"""
