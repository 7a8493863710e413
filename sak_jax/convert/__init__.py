"""Checkpoints to and from other frameworks: one engine, one mapping table a foreign format."""
