"""The plugin's part of nerfstudio's viewer."""
