"""SAK's loss with standardised features and dropped teachers, and that without either it is what it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax.methods.distillation import dropping, statistics
from sak_jax.methods.sak.losses import Following, by_level, distillation_loss, followed_loss, image_losses

BATCH = 6
DRAWS = dropping.draw(jax.random.key(0), BATCH, 3)


def maps(seed, grid):
    """Three teachers' maps at four levels; teachers differ in scale and width, images in their mean."""
    rng = np.random.default_rng(seed)
    found = {}
    for index, name in enumerate(("sam", "clip", "dinov2")):  # Not in the order of their names.
        shape = (BATCH, *grid, 8 + 4 * index)
        shift = rng.standard_normal((BATCH, 1, 1, 1))
        found[name] = tuple(
            jnp.asarray(10.0**index * (rng.standard_normal(shape) + shift), jnp.float32) for _ in range(4)
        )
    return found


STUDENT, TEACHER = maps(0, (3, 4)), maps(1, (5, 6))


def initial(kind):
    widths = {name: {part: x.shape[-1] for part, x in parts.items()} for name, parts in by_level(TEACHER).items()}
    return {
        name: {part: statistics.initial(kind, width) for part, width in parts.items()} for name, parts in widths.items()
    }


@pytest.mark.parametrize("kind", ["cos+l1", "cos", "l2"])
def test_with_neither_it_is_the_loss_as_it_was_bit_for_bit(kind):
    def plain(student):
        total, losses = distillation_loss(student, TEACHER, kind)
        return total, {f"distill/{name}": value for name, value in losses.items()}

    def followed(student):
        total, logs, own = followed_loss(Following(kind), student, TEACHER, {}, momentum=0.5, draws=DRAWS)
        assert own == {}
        return total, logs

    expected = jax.jit(jax.value_and_grad(plain, has_aux=True))(STUDENT)
    found = jax.jit(jax.value_and_grad(followed, has_aux=True))(STUDENT)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert list(found[0][1]) == list(expected[0][1])


@pytest.mark.parametrize("kind", ["cos+l1", "cos", "l2"])
def test_losses_of_images_have_the_mean_of_the_whole_loss(kind):
    total, losses = distillation_loss(STUDENT, TEACHER, kind)
    each = image_losses(STUDENT, TEACHER, kind)
    for name, row in zip(sorted(TEACHER), each, strict=True):
        np.testing.assert_allclose(row.mean(), losses[name], rtol=1e-6)
    alone, _ = distillation_loss(
        *({n: tuple(x[:1] for x in m) for n, m in one.items()} for one in (STUDENT, TEACHER)), kind
    )
    np.testing.assert_allclose(each[:, 0].sum(), alone, rtol=1e-6)


def test_standardised_features_are_followed_and_statistics_move():
    total, logs, moved = followed_loss(
        Following(standardise="batch"), STUDENT, TEACHER, initial("batch"), momentum=0.25
    )
    targets, expected = statistics.standardise("batch", by_level(TEACHER), initial("batch"), momentum=0.25, train=True)
    assert abs(float(targets["dinov2"]["level3"].std()) - 1) < 1e-2  # A hundred times as large before.
    plain, _ = distillation_loss(STUDENT, {name: tuple(targets[name].values()) for name in TEACHER})
    assert float(total) == float(plain) and set(logs) == {f"distill/{name}" for name in TEACHER}
    jax.tree.map(np.testing.assert_array_equal, moved, expected)
    assert moved["sam"]["level0"]["mean"].any()


def test_dropped_teachers_do_not_teach_their_image():
    following = Following(dropping="lowest_loss", probability=0.5)
    each = image_losses(STUDENT, TEACHER)
    kept = dropping.kept("lowest_loss", each, draws=DRAWS)
    assert 0 < float(kept.sum()) < kept.size
    (total, logs), gradient = jax.value_and_grad(
        lambda student: followed_loss(following, student, TEACHER, {}, draws=DRAWS)[:2], has_aux=True
    )(STUDENT)
    np.testing.assert_allclose(total, 3 * (kept * each).sum() / kept.sum(), rtol=1e-6)
    for index, name in enumerate(sorted(TEACHER)):
        np.testing.assert_allclose(logs[f"kept/{name}"], kept[index].mean(), rtol=1e-6)
        moves = np.array([bool(np.any(gradient[name][0][image])) for image in range(BATCH)])
        np.testing.assert_array_equal(moves, kept[index] > 0)


def test_where_no_teacher_is_dropped_the_loss_is_that_of_all():
    following = Following(dropping="lowest_loss", probability=0.0)
    total = followed_loss(following, STUDENT, TEACHER, {}, draws=DRAWS)[0]
    np.testing.assert_allclose(total, distillation_loss(STUDENT, TEACHER)[0], rtol=1e-6)
    by_group = Following(dropping="own", own=(0, 1, 2))  # clip, dinov2, sam
    kept = followed_loss(by_group, STUDENT, TEACHER, {}, groups=jnp.asarray([0, 0, 0, 0, 2, 2]))[1]
    shares = {name: float(value) for name, value in kept.items() if name.startswith("kept/")}
    assert shares == pytest.approx({"kept/clip": 4 / 6, "kept/dinov2": 0.0, "kept/sam": 2 / 6})
