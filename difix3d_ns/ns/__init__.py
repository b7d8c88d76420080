"""Every seam of nerfstudio, and nothing else."""
