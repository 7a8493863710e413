"""What the published recipes' steps exchange, compiled for eight simulated devices: parameters alone, nothing else.

`tests/golden/collectives_*.json` keep it as one compiler for CPUs has it, so that a change shows in a diff.
`UPDATE_GOLDEN=1 python -m pytest tests/engine/test_collectives.py` writes the files again.
"""

import json
import os
import re
import subprocess
import sys

import jax
import pytest

from sak_jax import methods, recipe
from sak_jax.engine import hlo
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from tests import runs

DEVICES, FSDP = 8, 4
BATCH = 2 * DEVICES
"""So that every activation has two rows on a device, by which it is told from a parameter."""
TOKENS = 5
"""At most so many tokens of a teacher have no place in the image."""
RECIPES = [(name, size) for name in ("imagenet", "nyud") for size in ("base", "large")]


def compiled(name: str, size: str) -> dict:
    """Collectives by kind, and the shapes of those that are moved about or gathered but belong to no parameter.

    Run in a process with eight devices.
    """
    config = recipe.load(f"{runs.ROOT}/configs/{name}.py:stem={size},teachers={size}")
    config.batch_size, config.mesh.fsdp = BATCH, FSDP
    (stage,) = methods.get(config.method).stages(config)
    plan = states.plan(stage, meshes.make_mesh(-1, FSDP))
    # Made but never run: the machine's code needs no optimising.
    options = {"xla_backend_optimization_level": 0}
    text = plan.jitted().lower(plan.state, plan.frozen, plan.batch).compile(compiler_options=options).as_text()
    program = hlo.Program(text)
    parameters = [leaf.shape for leaf in jax.tree.leaves((plan.state, plan.frozen)) if len(leaf.shape)]
    strange = []
    for exchange in program.exchanges(DEVICES):
        moved = exchange.kind in ("all-to-all", "collective-permute")
        shapes = [] if exchange.kind == "all-reduce" else dimensions(exchange.shape)
        if moved or not all(any(holds(whole, part) for whole in parameters) for part in shapes):
            strange.append(f"{exchange.kind} {exchange.shape}")
    found = {kind: {"count": all_.count, "bytes": all_.bytes} for kind, all_ in program.collectives(DEVICES).items()}
    return {"collectives": found, "strange": strange}


def dimensions(shape: str) -> list[tuple[int, ...]]:
    return [tuple(int(size) for size in sizes.split(",") if size) for sizes in re.findall(r"\w\[([\d,]*)\]", shape)]


def holds(whole: tuple[int, ...], part: tuple[int, ...]) -> bool:
    """Whether `part` is the array `whole`, or a layer of it; its axes in any order, position embeddings without those
    of tokens that have no place in the image."""
    part = sorted(size for size in part if size > 1)
    layers = (sorted(size for size in whole[stacked:] if size > 1) for stacked in range(min(3, len(whole))))
    return any(len(layer) == len(part) and _all_but_tokens(layer, part) for layer in layers)


def _all_but_tokens(layer: list[int], part: list[int]) -> bool:
    differing = [(one, other) for one, other in zip(layer, part, strict=True) if one != other]
    if len(differing) != 1:
        return not differing
    one, other = differing[0]
    return other > 64 and 0 < one - other <= TOKENS  # So many are tokens, and neither layers nor rows.


def test_parts_of_parameters_are_told_from_activations():
    assert holds((12, 768, 3072), (1, 768, 3072)) and holds((12, 768, 3072), (12, 768, 3072))
    assert holds((4, 3, 3, 64, 64), (3, 64, 3, 64)) and holds((1, 577, 768), (576, 768))
    assert not holds((12, 768, 3072), (8, 768, 3072)) and not holds((768,), (8, 577, 768))
    assert not holds((1, 577, 768), (2, 577, 768)) and not holds((1, 577, 768), (2, 288, 768))


@pytest.mark.parametrize(("name", "size"), RECIPES)
def test_steps_exchange_parameters_and_what_they_did(name, size):
    code = f"import json; from tests.engine import test_collectives as t; print(json.dumps(t.compiled{name, size}))"
    env = os.environ | runs.devices(DEVICES)
    done = subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["strange"] == []
    file = runs.ROOT / "tests" / "golden" / f"collectives_{name}_{size}.json"
    values = {"jax": jax.__version__, "collectives": found["collectives"]}
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    kept = json.loads(file.read_text())
    if kept["jax"] == values["jax"]:  # Another version's compiler divides the same work otherwise.
        assert kept == values
