"""Training a prior."""
