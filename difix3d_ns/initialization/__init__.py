"""Points a training starts from."""
