"""`rooms`: procedural indoor scenes with exact labels, the data set that needs no download."""
