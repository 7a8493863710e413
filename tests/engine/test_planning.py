"""Plans: what is read of a compiler's words, and which attempt is recommended."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from sak_jax.engine import planning
from sak_jax.errors import UserError


def test_what_is_lacking_is_read_from_the_compiler():
    used = "XLA:TPU compile permanent error. Used 24.75G of 15.75G hbm. Exceeded hbm capacity by 9.00G."
    assert planning.lacking(used) == (24.75 * 2**30, 9 * 2**30)
    total = "the total memory required for HLO temporaries (240.00G) exceeds available HBM (15.75G)."
    assert planning.lacking(total) == (240 * 2**30, 224.25 * 2**30)
    assert planning.lacking("something else") == (None, None)


def test_bytes_held_are_those_of_one_device():
    mesh = AbstractMesh((2, 4), ("data", "fsdp"))
    tree = {
        "shared": jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp"))),
        "copied": jax.ShapeDtypeStruct((5,), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec())),
    }
    assert planning.held(tree) == 2 * 6 * 4 + 5 * 2


@pytest.mark.parametrize("name", ["v5e", "v9x:2x2", "v5e:4", "v5e:2x", "v5e:two"])
def test_a_topology_that_does_not_exist_is_one_line(name):
    with pytest.raises(UserError, match="--topology"):
        planning.devices_of(name)


def figures(batch, over, seconds):
    none = dict.fromkeys(field.name for field in dataclasses.fields(planning.Figures))
    return planning.Figures(**none | {"batch": batch, "over": over, "seconds": {"arithmetic": seconds}, "peak": batch})


def test_the_fastest_that_fits_is_recommended_and_more_is_recomputed_only_to_fit_more():
    def measure(per_device, fsdp, remat):
        room = {(1, False): 2, (4, False): 4, (1, True): 8, (4, True): 8}[fsdp, remat]
        return figures(per_device, max(0, per_device - room), (1 + per_device) * (1.5 if remat else 1.0))

    best, tried = planning.recommend(measure, (1, 4), (False, True), largest=8)
    assert (best.per_device, best.fsdp, best.remat) == (4, 4, False)
    assert [(each.per_device, each.fsdp, each.remat) for each in tried] == [
        (8, 1, False), (4, 1, False), (2, 1, False), (8, 1, True), (8, 4, False), (4, 4, False), (8, 4, True)
    ]  # fmt: skip
    planning.recommend(measure, (1,), (True, False), largest=8, tell=lambda one: tried.append(one))
    assert [(each.per_device, each.remat) for each in tried[7:]] == [(8, True)]
    assert planning.recommend(lambda *_: figures(1, 1, 1.0), (1,), (None,), 8)[0] is None
