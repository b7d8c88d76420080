"""Training a fixer."""
