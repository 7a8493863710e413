"""Distil a committee of vision foundation models into one dense multi-task student."""
