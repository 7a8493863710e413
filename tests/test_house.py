"""How the package is built: which room may know of which, and where the config ends."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import runs

PACKAGE = runs.ROOT / "sak_jax"

ROOMS = ("engine", "methods", "tasks", "boundary", "nn", "teachers", "weights", "data", "report", "benchmark")

MAY_KNOW = {
    "boundary": set(),
    "weights": {"nn"},  # The tables follow the architectures' configs.
    "nn": set(),
    "tasks": {"boundary"},
    "engine": {"nn"},  # `nn.placement`: where activations lie.
    "data": {"tasks", "boundary"},
    "teachers": {"nn", "weights"},
    "report": {"tasks", "data", "engine", "nn"},
    "methods": {"engine", "nn", "teachers", "tasks", "weights", "data"},
    "benchmark": {"engine", "nn", "tasks", "methods"},
}
"""Which rooms a room may import from, besides itself and the ground floor (errors, paths, keys, normalisation)."""

UPSTAIRS = {"main", "run", "predict", "recipe", "recipe_files", "cli"}
WITH_CONFIG = {"main", "run", "predict", "recipe", "recipe_files", "cli"}


def modules(room):
    return sorted((PACKAGE / room).rglob("*.py"))


def imported(path):
    """Names of modules of the package that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("sak_jax.")}


@pytest.mark.parametrize("room", MAY_KNOW)
def test_a_room_knows_only_those_below_it(room):
    known = MAY_KNOW[room] | {room}
    for path in modules(room):
        for name in imported(path):
            other = name.split(".")[1]
            assert other not in ROOMS or other in known, f"{path} imports {name}"
            assert room in ("methods", "report", "benchmark") or other not in UPSTAIRS, f"{path} imports {name}"


def test_every_room_has_its_place():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(ROOMS)


def test_the_config_ends_at_run_recipe_and_methods():
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in WITH_CONFIG | {"methods"}:
            text = path.read_text()
            assert "ConfigDict" not in text and "ml_collections" not in text, path


def test_files_are_short():
    for folder in ("sak_jax", "tools", "configs"):
        for path in sorted((runs.ROOT / folder).rglob("*.py")):
            assert len(path.read_text().splitlines()) <= 330, path


def run(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_changes_nothing_for_the_users_own_code():
    run(
        "import sak_jax, sak_jax.predict, sak_jax.methods.sak.stages\n"
        "from flax import nnx\n"
        "import jax.numpy as jnp\n"
        "class Tied(nnx.Module):\n"
        "    def __init__(self):\n"
        "        self.first = nnx.Param(jnp.ones(3))\n"
        "        self.second = self.first\n"
        "graph, state = nnx.split(Tied())\n"
        "assert len(nnx.to_flat_state(state)) == 1\n"
        "tied = nnx.merge(graph, state)\n"
        "assert tied.first is tied.second\n"
    )


@pytest.mark.parametrize(
    "module", ["sak_jax", "sak_jax.cli", "sak_jax.recipe", "sak_jax.main", "sak_jax.boundary.score"]
)
def test_what_reads_a_command_line_or_scores_boundaries_does_without_jax(module):
    run(f"import sys, {module}\nassert 'jax' not in sys.modules and 'flax' not in sys.modules")


def test_no_two_files_of_one_name_in_one_folder_tree_hide_each_other():
    assert not list(PACKAGE.rglob("utils.py")) and Path(PACKAGE / "engine" / "stage.py").exists()


def test_the_files_that_are_to_be_touched_are_there():
    table = (runs.ROOT / "docs/extending.md").read_text().split("Before there were methods")[0]
    named = re.findall(r"`([a-z_]+/[a-z_*/]*(?:\.py)?)`", table)
    assert len(named) > 10
    for name in named:
        assert list(runs.ROOT.glob(name)) or list(PACKAGE.glob(name)), name
    tables = re.findall(r"`(_?[A-Z]{2,})` (?:in|of)\s`([a-z_/]+\.py)`", table)
    assert len(tables) > 4
    for variable, name in tables:
        assert re.search(rf"^{variable}\b", (PACKAGE / name).read_text(), re.MULTILINE), (variable, name)
