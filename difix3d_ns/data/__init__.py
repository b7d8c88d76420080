"""Making pairs a fixer learns from."""
