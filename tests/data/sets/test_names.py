"""Classes have the names that the data sets give them."""

import pytest

from sak_jax import recipe
from sak_jax.data.rooms import furniture, layouts
from sak_jax.data.sets import nyud, pascal_context
from sak_jax.tasks import select

ANOTHER_NAME = {"plant": "other prop"}
"""What is no class of its own there."""


def test_the_files_that_rooms_writes_have_the_classes_of_these_names():
    assert len(set(nyud.NAMES)) == nyud.CLASSES == 40
    for name, label in layouts.NYUD_LABELS.items():
        assert nyud.NAMES[label] == ANOTHER_NAME.get(name, name)
    assert len(set(pascal_context.NAMES)) == pascal_context.CLASSES == 21
    for name, label in layouts.VOC_LABELS.items():
        assert name in pascal_context.NAMES[label]
    assert pascal_context.NAMES[pascal_context.PERSON] == "person"
    assert pascal_context.PART_NAMES == furniture.PARTS


@pytest.mark.parametrize("path", ["nyud", "dune_multitask", "rooms", "rooms_dune"])
def test_recipes_name_their_classes(path):
    tasks = {task.name: task for task in select(recipe.ordered(recipe.load(path).tasks))}
    assert {"wall", "floor", "ceiling"} <= set(tasks["semseg"].option("names"))


@pytest.mark.parametrize("path", ["pascal_context", "dune_multitask:data=pascal_context"])
def test_recipes_of_pascal_context_name_classes_and_parts(path):
    tasks = {task.name: task for task in select(recipe.ordered(recipe.load(path).tasks))}
    assert tasks["semseg"].option("names")[16] == "potted plant"
    assert tasks["human_parts"].option("names")[1] == "head"
