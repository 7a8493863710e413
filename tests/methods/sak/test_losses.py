"""The distillation loss against reference values, and where it is refused."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax.errors import UserError
from sak_jax.methods.sak import distillation_loss

REFERENCE = np.load(Path(__file__).parents[2] / "reference" / "losses_and_metrics.npz")
TEACHERS = ("dinov2", "clip", "sam", "coarse")  # finer, equal, finer with another aspect, coarser than the student
TOLERANCE = 1e-5  # float32 sums of up to 1e5 terms in another order


def maps(role: str) -> dict:
    return {
        name: tuple(
            jnp.asarray(REFERENCE[f"distill/{role}/{name}/{level}"].transpose(0, 2, 3, 1)) for level in range(4)
        )
        for name in TEACHERS
    }


@pytest.mark.parametrize("kind", ["cos+l1", "cos", "l2"])
def test_distillation_matches_the_reference_in_total_and_a_level(kind):
    student, teacher = maps("student"), maps("teacher")
    total, per_teacher = distillation_loss(student, teacher, kind)
    np.testing.assert_allclose(total, REFERENCE[f"distill/loss/{kind}/total"], rtol=TOLERANCE)
    np.testing.assert_allclose(sum(per_teacher.values()), total, rtol=TOLERANCE)
    for name in TEACHERS:
        for level in range(4):
            one, _ = distillation_loss(
                {name: student[name][level : level + 1]}, {name: teacher[name][level : level + 1]}, kind
            )
            expected = REFERENCE[f"distill/loss/{kind}/{name}_level{level + 1}"]
            np.testing.assert_allclose(one, expected, rtol=TOLERANCE, err_msg=f"{name} {level}")


def test_distillation_computes_bfloat16_features_in_float32():
    student = {"clip": tuple(map_.astype(jnp.bfloat16) for map_ in maps("student")["clip"])}
    teacher = {"clip": maps("teacher")["clip"]}
    total, _ = distillation_loss(student, teacher)
    widened = {"clip": tuple(map_.astype(jnp.float32) for map_ in student["clip"])}
    expected, _ = distillation_loss(widened, teacher)
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_distillation_gradient_is_finite_for_zero_features_and_never_reaches_the_teacher():
    teacher = {"coarse": maps("teacher")["coarse"]}
    student = {"coarse": tuple(jnp.zeros_like(map_) for map_ in maps("student")["coarse"])}
    ours, theirs = jax.grad(lambda s, t: distillation_loss(s, t)[0], argnums=(0, 1))(student, teacher)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(theirs))


def test_distillation_refuses_unknown_kinds_and_unlike_features():
    student = maps("student")
    with pytest.raises(UserError, match="cos\\+l1"):
        distillation_loss(student, student, kind="l3")
    with pytest.raises(ValueError, match="dinov2"):
        distillation_loss(student, {"clip": student["clip"]})
    with pytest.raises(ValueError, match="32 wide, not 31"):
        distillation_loss({"clip": student["clip"]}, {"clip": [map_[..., 1:] for map_ in student["clip"]]})
