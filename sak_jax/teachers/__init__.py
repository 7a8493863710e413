"""Frozen foundation models: the registry, the committee, one file an architecture family."""
