"""Protocols of papers: scenes of a published data set, split and sized as published, for the benchmark."""
