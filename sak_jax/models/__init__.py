"""The student's parts: layers, vision transformer, adapter paths, routers, heads."""
