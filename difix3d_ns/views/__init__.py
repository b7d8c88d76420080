"""Training views, the pool, poses, references and records; knows neither diffusion nor nerfstudio."""
