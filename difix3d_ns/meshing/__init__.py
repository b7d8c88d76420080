"""Surfaces of splats: depth of many views fused into a mesh, which the photographs colour."""
