"""Diffusion-fixed Gaussian splatting for nerfstudio."""

__version__ = "0.1.0"
