"""How a prior teaches a splat."""
