"""Cameras, warps and visibility; knows neither fixers nor training."""
