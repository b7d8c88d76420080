"""Metrics and side-by-side runs."""
