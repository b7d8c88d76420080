"""Densification strategies."""
