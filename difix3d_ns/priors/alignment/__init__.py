"""Bringing photographs into a view of the splat: depth corrected by matching, visibility, exposure, residual shifts."""
