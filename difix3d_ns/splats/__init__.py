"""Additions to splatfacto that need no nerfstudio."""
