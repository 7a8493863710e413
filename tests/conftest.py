import os
import tempfile

import jaxtyping

# One cache of compiled programs for all tests and the processes they start: compiling dominates small tests.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "sak_jax_test_xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The shapes in the signatures are checked at every call, in tests alone.
CHECKED = ("tasks", "methods", "nn", "boundary")
jaxtyping.install_import_hook([f"sak_jax.{room}" for room in CHECKED], "beartype.beartype")
