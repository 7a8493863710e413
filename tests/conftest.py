import os
import tempfile

import jaxtyping
import pytest

# One cache of compiled programs for all tests and the processes they start: compiling dominates small tests.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "sak_jax_test_xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The shapes in the signatures are checked at every call, in tests alone.
CHECKED = ("tasks", "methods", "nn", "boundary")
jaxtyping.install_import_hook([f"sak_jax.{room}" for room in CHECKED], "beartype.beartype")

NOT_QUICK = (
    "import torch", "import timm", "import transformers", "open_clip", "subprocess", "runs.run(", "runs.start(",
    "multiprocessing", "Popen", "processes", "browser", "workers=1", "workers=2", "SAK_JAX_FUZZ_SECONDS",
)  # fmt: skip
"""Words in a test module by which it is known to need PyTorch, processes of its own, or long."""

COMPILES_MUCH = (
    "tests/methods/dune", "tests/methods/distillation", "tests/methods/sak/test_student",
    "tests/methods/sak/test_recipes", "tests/methods/sak/test_following", "tests/methods/foundation",
    "tests/engine/test_step", "tests/engine/test_loop", "tests/engine/test_planning", "tests/teachers",
    "tests/test_export", "tests/test_predict", "tests/test_hub", "tests/tools", "tests/data/sets",
    "tests/test_gcs", "tests/faults", "tests/golden", "tests/report/test_gather",
)  # fmt: skip
"""Modules whose programs take long to compile, or that read many files."""


def pytest_collection_modifyitems(items):
    """Marks as `quick` what needs neither PyTorch nor processes of its own, and compiles little."""
    known = {}
    for item in items:
        path = item.path
        if path not in known:
            name = str(path.relative_to(item.config.rootpath))
            text = path.read_text(encoding="utf-8")
            known[path] = not name.startswith(COMPILES_MUCH) and not any(word in text for word in NOT_QUICK)
        if known[path]:
            item.add_marker(pytest.mark.quick)
