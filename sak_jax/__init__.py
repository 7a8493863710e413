"""Distil a committee of vision foundation models into one dense multi-task student."""

import importlib

_EXPORTS = {
    "build": "sak_jax.predict",
    "load": "sak_jax.hub",
    "from_pretrained": "sak_jax.hub",
    "save_pretrained": "sak_jax.hub",
    "push_to_hub": "sak_jax.hub",
    "Outputs": "sak_jax.methods.sak.student",
    "load_pytorch_state": "sak_jax.methods.sak.pytorch",
    "pytorch_state": "sak_jax.methods.sak.pytorch",
}


def __getattr__(name: str):
    # JAX is imported when it is first needed, so that `import sak_jax` costs nothing.
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'sak_jax' has no attribute {name!r}")
