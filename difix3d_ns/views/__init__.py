"""Poses, targets, references, the pool and the schedule of rounds; knows neither diffusion nor nerfstudio's trainer."""
