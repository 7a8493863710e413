"""Where the parameters of the published recipes lie: kept in `tests/golden`, so that a change shows in a diff.

`UPDATE_GOLDEN=1 python -m pytest tests/engine/test_placement.py` writes the files again.
"""

import functools
import json
import math
import os

import jax
import pytest
from jax.sharding import AbstractMesh

from sak_jax import methods, recipe
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from tests import runs

MESH = AbstractMesh((4, 4), meshes.BATCH_AXES)
RECIPES = [(name, size) for name in ("imagenet", "nyud") for size in ("base", "large")]


@functools.cache
def plan(name, size):
    config = recipe.load(f"{runs.ROOT}/configs/{name}.py:stem={size},teachers={size}")
    (stage,) = methods.get(config.method).stages(config)
    return states.plan(stage, MESH)


def specs(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): [axis or "" for axis in leaf.sharding.spec] for path, leaf in leaves}


def path_name(path):
    return meshes.path_name(path).removesuffix("/value")


@pytest.mark.parametrize(("name", "size"), RECIPES)
def test_parameters_lie_where_they_did(name, size):
    planned = plan(name, size)
    found = {"student": specs(planned.state.params), "teachers": specs(planned.frozen)}
    file = runs.ROOT / "tests" / "golden" / f"placement_{name}_{size}.json"
    rows = {
        part: {path: " x ".join(axis or "-" for axis in spec) for path, spec in found[part].items()} for part in found
    }
    text = json.dumps(rows, indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert file.read_text() == text
    # Adam's moments lie where their parameters do.
    moments = [spec for path, spec in specs(planned.state.opt_state).items() if "/mu/" in f"/{path}/"]
    assert moments == list(found["student"].values())


@pytest.mark.parametrize(("name", "size"), RECIPES)
def test_every_parameter_above_a_megabyte_is_sharded(name, size):
    planned = plan(name, size)
    trees = (planned.state.params, planned.state.opt_state, planned.frozen)
    large = [leaf for leaf in jax.tree.leaves(trees) if math.prod(leaf.shape) * leaf.dtype.itemsize > 2**20]
    assert len(large) > 50
    assert all("fsdp" in leaf.sharding.spec for leaf in large)
