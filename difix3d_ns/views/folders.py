"""Folders of a training, beside nerfstudio_models/, whose every file nerfstudio takes for a checkpoint."""

POOL_FOLDER = "pseudo_views"
"""the pool"""
RECORDS_FOLDER = "fixes"
"""pictures of what each fix did"""
