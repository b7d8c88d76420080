"""A prior applied to finished renders."""
