"""Every seam of nerfstudio, and nothing else."""

from difix3d_ns.ns.patches import apply

apply()
