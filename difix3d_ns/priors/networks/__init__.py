"""Networks of the fixers; plain modules that know tensors only."""
