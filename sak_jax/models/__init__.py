"""The student's parts: layers, vision transformer, adapter paths, routers, heads."""

from flax import nnx

# Tree mode: modules are plain pytrees without shared parts, so jax.vmap, lax.scan and tree.map take them as they are.
nnx.set_graph_mode(False)
nnx.set_graph_updates(False)
