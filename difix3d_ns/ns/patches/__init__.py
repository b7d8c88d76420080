"""Force applied to nerfstudio, torch and Python."""
