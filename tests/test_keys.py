"""Every key of every recipe refuses what it cannot be, before anything starts."""

import copy
import math

import pytest

from sak_jax import keys, methods, recipe
from sak_jax.errors import UserError
from sak_jax.keys import Key
from tests import runs

BAD = (
    None, "", "no such thing", b"bytes", -1, 0, 10**30, -0.5, 1e308, math.nan, math.inf, -math.inf, True, (), (1, "x"),
    {"a": 1}, [[]],
)  # fmt: skip


def every(section, parents=()):
    """(dotted path, key) of every key in a section."""
    for name, key in section.items():
        if isinstance(key, Key):
            yield ".".join((*parents, name)), key
        elif name != keys.ROWS:
            yield from every(key, (*parents, name))


def nested(path, value):
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_key_takes_its_default_and_says_what_is_wrong_with_anything_else(method):
    known = keys.merged(recipe.ENGINE, methods.get(method).keys())
    found = dict(every(known))
    assert len(found) > 30
    for path, key in found.items():
        keys.check(nested(path, key.default), known)
        for value in BAD:
            problem = key.problem(value)
            if problem is None:  # Then it is a value of the key's own type, within its bounds.
                kinds = (float, int) if isinstance(key.default, float) else (type(key.default), list)
                assert isinstance(value, kinds), (path, value)
                continue
            with pytest.raises(UserError, match=path.replace(".", r"\.")):
                keys.check(nested(path, copy.copy(value)), known)


def test_numbers_have_bounds_and_are_finite():
    for path, key in every(keys.merged(recipe.ENGINE, methods.get("sak").keys())):
        if isinstance(key.default, int | float) and not isinstance(key.default, bool):
            assert key.at_least is not None or key.above is not None, f"{path} has no lower bound"
            for value in (math.nan, -math.inf, math.inf):
                assert key.problem(value), path


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("multitask.clip=-1.0", "multitask.clip is -1.0: it must be at least 0"),
        ("multitask.power=nan", "multitask.power is nan: it must be finite"),
        ("multitask.lr=inf", "multitask.lr is inf"),
        ("distill.warmup_steps=-1", "distill.warmup_steps"),
        ("multitask.scale_range=(2.0, 0.5)", "scale_range.*must not fall"),
        ("multitask.scale_range=(0.0, 1.0)", "scale_range.*above 0"),
        ("seed=-1", "seed is -1"),
        ("seed=4294967296", "seed.*at most"),
        ("image_size=(24,)", "image_size.*2 elements"),
        ("model.heads=-2", "model.heads"),
        ("mesh.fsdp=0", "mesh.fsdp"),
    ],
)
def test_what_would_train_nonsense_is_refused(override, words):
    with pytest.raises(UserError, match=words):
        recipe.check(recipe.load(runs.TINY, [f"--config.{override}"]), 1)


def test_a_key_that_nothing_reads_is_refused_in_a_recipe_file_too(tmp_path):
    file = tmp_path / "mistaken.py"
    lines = ["from sak_jax import recipe", "def get_config(text):", "    config = recipe.base()"]
    lines += ["    config.multitask.lerning_rate = 1.0", "    return config"]
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match="multitask.lerning_rate.*does not exist"):
        recipe.load(str(file))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n", "broken.py, line 1"),
        ("x = 1\n", "defines get_config"),
        ("def get_config(text):\n    return 1 / 0\n", "line 2: ZeroDivisionError"),
        ("def get_config(text):\n    return {}\n", "gives dict, not a ConfigDict"),
    ],
)
def test_a_broken_recipe_file_is_told_by_file_and_line(text, words, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        recipe.load(str(file))
