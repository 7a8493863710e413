"""Methods: what a recipe can train, one folder each."""
