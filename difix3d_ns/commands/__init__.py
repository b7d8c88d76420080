"""Commands of ``difix3d`` by what they work on: one function each, whose docstring is its help and its page."""
