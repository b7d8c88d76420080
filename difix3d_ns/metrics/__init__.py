"""Pictures in, numbers out."""
