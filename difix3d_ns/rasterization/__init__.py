"""Gaussians to image and gradients on a CPU, behind gsplat's signature."""
