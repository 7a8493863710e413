"""Neural network parts that methods and teachers share: layers, vision transformer, heads, resizing."""

from flax import nnx

# Tree mode: modules are plain pytrees without shared parts, so jax.vmap, lax.scan and tree.map take them as they are.
nnx.set_graph_mode(False)
nnx.set_graph_updates(False)
