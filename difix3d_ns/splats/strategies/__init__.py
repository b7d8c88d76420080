"""How Gaussians multiply."""
