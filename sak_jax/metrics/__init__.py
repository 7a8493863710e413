"""Streaming metrics, one module a kind of task."""
