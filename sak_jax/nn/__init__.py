"""Neural network parts that methods and teachers share: layers, vision transformer, heads, resizing."""
