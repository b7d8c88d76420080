"""``difix3d bench``: methods side by side on real captures, paired, resumable, on record."""
