"""What the plugin adds to nerfstudio's viewer."""
