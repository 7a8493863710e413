import functools
import importlib.util
import os
import tempfile

# Read when JAX is imported, here and by the processes that tests start. Compiling dominates small tests: there is one
# cache of compiled programs for all of them, and machine code is not optimised but for `OPTIMISED` modules.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "sak_jax_test_xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import jaxtyping
import optax
import pytest
from flax import nnx
from jax._src import compiler

# The shapes in the signatures are checked at every call, in tests alone.
CHECKED = ("tasks", "methods", "nn", "boundary")
jaxtyping.install_import_hook([f"sak_jax.{room}" for room in CHECKED], "beartype.beartype")

# No dtype is promoted unless the code says so: int32 x float32 or bfloat16 x float32 is an error, in tests alone.
jax.config.update("jax_numpy_dtype_promotion", "strict")


def standard(function):
    """The function under JAX's standard rules of promotion."""

    @functools.wraps(function)
    def promoting(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return promoting


def standard_schedule(create):
    return functools.wraps(create)(lambda *args, **kwargs: standard(create(*args, **kwargs)))


# What other libraries do that strict promotion refuses.
jnp.promote_types = standard(jnp.promote_types)  # Asks which dtype holds both; JAX's attention and flax's norms do.
jax.nn.dot_product_attention = standard(jax.nn.dot_product_attention)  # The same, by another name in newer versions.
nnx.LayerNorm.__call__ = standard(nnx.LayerNorm.__call__)  # Half precision with float32 statistics.
optax.tree.bias_correction = standard(optax.tree.bias_correction)  # Adam's `decay ** count`, a float and an int32.
optax.warmup_cosine_decay_schedule = standard_schedule(optax.warmup_cosine_decay_schedule)  # The same.

from sak_jax import data, methods, tasks  # noqa: E402  (after the hook and the patches)
from sak_jax.teachers import registry  # noqa: E402
from tests import runs  # noqa: E402

NOT_QUICK = (
    "import torch", "import timm", "import transformers", "open_clip", "subprocess", "runs.run(", "runs.start(",
    "multiprocessing", "Popen", "processes", "browser", "workers=1", "workers=2", "SAK_JAX_FUZZ_SECONDS",
)  # fmt: skip
"""Words in a test module by which it is known to need PyTorch, processes of its own, or long."""

COMPILES_MUCH = (
    "tests/methods/dune", "tests/methods/distillation", "tests/methods/sak/test_student",
    "tests/methods/sak/test_recipes", "tests/methods/sak/test_following", "tests/methods/sak/test_options",
    "tests/methods/sak/test_start", "tests/methods/sak/test_training_reference", "tests/methods/test_promotion",
    "tests/benchmark", "tests/methods/foundation",
    "tests/engine/test_step", "tests/engine/test_loop", "tests/engine/test_planning", "tests/teachers",
    "tests/test_export", "tests/test_predict", "tests/test_hub", "tests/tools", "tests/data/sets",
    "tests/test_gcs", "tests/faults", "tests/golden", "tests/report/test_gather",
)  # fmt: skip
"""Modules whose programs take long to compile, or that read many files."""


@pytest.fixture(autouse=True, scope="module")
def own_parts():
    """Takes back what a module has registered: data sets, kinds, methods and teachers."""
    registries = (data.DATASETS, tasks.KINDS, methods.METHODS, registry.TEACHERS)
    kept = [dict(known) for known in registries]
    yield
    for known, before in zip(registries, kept, strict=True):
        known.clear()
        known.update(before)


OPTIMISED = (
    "tests/teachers", "tests/test_predict_published", "tests/methods/sak/test_published",
    "tests/methods/sak/test_training_reference", "tests/methods/dune/test_teachers",
    "tests/methods/dune/test_student", "tests/methods/dune/test_training_reference",
)  # fmt: skip
"""Modules that compute more than they compile, or whose tolerances are those of optimised code."""


@pytest.fixture(autouse=True, scope="module")
def optimised(request):
    """Has XLA optimise the machine code of `OPTIMISED` modules."""
    wanted = str(request.path.relative_to(request.config.rootpath)).startswith(OPTIMISED)
    if wanted:
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    if wanted:
        jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")


PARITY = (
    "import torch", "from torch", "import timm", "from timm", "import transformers", "import open_clip", "sak.cases",
)  # fmt: skip


def compiling_quickly(get_options):
    """XLA's options, with those of `runs.QUICKLY_COMPILED` where machine code is not optimised."""

    @functools.wraps(get_options)
    def options(*args, env_options_overrides=None, **kwargs):
        quick = runs.QUICKLY_COMPILED if compiler._DISABLE_MOST_OPTIMIZATIONS.value else {}
        return get_options(*args, env_options_overrides=quick | dict(env_options_overrides or {}), **kwargs)

    return options


compiler.get_compile_options = compiling_quickly(compiler.get_compile_options)


def pytest_ignore_collect(collection_path):
    """Leaves out what compares with PyTorch where that is not installed (the extra `parity`)."""
    if importlib.util.find_spec("torch"):
        return None
    if collection_path.name == "teachers":
        return True
    if collection_path.suffix == ".py":
        return any(words in collection_path.read_text(encoding="utf-8") for words in PARITY) or None
    return None


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # xdist's order by number of tests would have the longest ones last.
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Marks as `quick` what needs neither PyTorch nor processes of its own, and compiles little; it comes last.

    What starts whole runs comes first, so that workers which share the tests end together.
    """
    known, starts = {}, {}
    for item in items:
        path = item.path
        if path not in known:
            name = str(path.relative_to(item.config.rootpath))
            text = path.read_text(encoding="utf-8")
            known[path] = not name.startswith(COMPILES_MUCH) and not any(word in text for word in NOT_QUICK)
            starts[path] = "tests import runs" in text
        if known[path]:
            item.add_marker(pytest.mark.quick)
    items.sort(key=lambda item: (not starts[item.path], known[item.path]))
