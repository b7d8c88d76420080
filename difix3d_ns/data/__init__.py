"""Making of pairs that a fixer learns from."""
