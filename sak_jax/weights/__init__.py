"""Weights of other frameworks: one engine of rules, file formats, one table of names a publisher."""
