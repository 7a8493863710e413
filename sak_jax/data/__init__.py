"""Tasks, transforms, the input pipeline, and one module a data set."""
