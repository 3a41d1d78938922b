"""Data sets: loaders, k-core, splits, description, and the catalogue's own search."""
