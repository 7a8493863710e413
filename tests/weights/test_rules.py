import jax
import numpy as np
import pytest
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.nn import layers, vit
from sak_jax.weights.rules import CONV, CONV_1X1, IDENTITY, LINEAR, PATCHES, Rule, join, lead
from sak_jax.weights.states import export, load

CONFIG = vit.ViTConfig(width=12, depth=3, heads=2, patch=4, taps=(0, 1, 2), image_size=(8, 8))
RULES = [
    Rule("pos_embed", "position_embedding"),
    Rule("cls", "class_token", lead(2)),
    Rule("patch.weight", "patch_embed.projection.kernel", PATCHES),
    Rule("patch.bias", "patch_embed.projection.bias"),
    Rule("blocks.{i}.{norm}.weight", "blocks.{norm}.scale"),
    Rule("blocks.{i}.{norm}.bias", "blocks.{norm}.bias"),
    Rule(("{i}.q.weight", "{i}.k.weight", "{i}.v.weight"), "blocks.attention.qkv.kernel", join(LINEAR, 3)),
    Rule(("{i}.q.bias", "{i}.k.bias", "{i}.v.bias"), "blocks.attention.qkv.bias", join(IDENTITY, 3)),
    Rule("blocks.{i}.out.weight", "blocks.attention.output.kernel", LINEAR),
    Rule("blocks.{i}.out.bias", "blocks.attention.output.bias"),
    Rule("blocks.{i}.mlp.{map}.weight", "blocks.mlp.{map}.kernel", LINEAR),
    Rule("blocks.{i}.mlp.{map}.bias", "blocks.mlp.{map}.bias"),
]


def foreign_weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"pos_embed": (1, 5, 12), "cls": (12,), "patch.weight": (12, 3, 4, 4), "patch.bias": (12,)}
    for i in range(3):
        shapes |= {f"blocks.{i}.norm{n}.{kind}": (12,) for n in (1, 2) for kind in ("weight", "bias")}
        shapes |= {f"{i}.{part}.weight": (12, 12) for part in "qkv"} | {f"{i}.{part}.bias": (12,) for part in "qkv"}
        shapes |= {f"blocks.{i}.out.weight": (12, 12), f"blocks.{i}.out.bias": (12,)}
        shapes |= {f"blocks.{i}.mlp.up.weight": (48, 12), f"blocks.{i}.mlp.up.bias": (48,)}
        shapes |= {f"blocks.{i}.mlp.down.weight": (12, 48), f"blocks.{i}.mlp.down.bias": (12,)}
    return {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def model():
    return nnx.eval_shape(lambda: vit.ViT(CONFIG, rngs=nnx.Rngs(0)))


def test_there_and_back_is_the_identity(model):
    source = foreign_weights()
    back = export(load(model, source, RULES), RULES)
    assert back.keys() == source.keys()
    for key in source:
        assert back[key].dtype == source[key].dtype
        np.testing.assert_array_equal(back[key], source[key])


def test_values_arrive_where_the_rules_say(model):
    source = foreign_weights()
    state = load(model, source, RULES)
    kernel = state["blocks"]["attention"]["qkv"]["kernel"].get_value()
    np.testing.assert_array_equal(kernel[1, :, 12:24], source["1.k.weight"].T)
    patches = state["patch_embed"]["projection"]["kernel"].get_value()
    np.testing.assert_array_equal(patches.reshape(4, 4, 3, 12)[1, 2, 0], source["patch.weight"][:, 0, 1, 2])


def test_a_loaded_model_runs(model):
    ours = nnx.eval_shape(lambda: vit.ViT(CONFIG, rngs=nnx.Rngs(0)))
    nnx.update(ours, load(model, foreign_weights(), RULES))
    maps = jax.jit(lambda ours, x: ours(x))(ours, np.ones((1, 8, 8, 3), np.float32))
    assert [m.shape for m in maps] == [(1, 2, 2, 12)] * 3


def change(key, value):
    return foreign_weights() | {key: value}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({k: v for k, v in foreign_weights().items() if k != "1.k.weight"}, ["1.k.weight", "attention.qkv.kernel"]),
        (change("head.weight", np.zeros((10, 12), np.float32)), ["head.weight", "no place"]),
        (change("patch.bias", np.zeros((13,), np.float32)), ["patch.bias", "(13,)", "(12,)"]),
        (change("patch.bias", np.zeros((1, 12), np.float32)), ["patch.bias", "(1, 12)"]),
        (change("patch.bias", np.zeros((1,), np.float32)), ["patch.bias", "(1,)"]),
        (change("1.k.weight", np.zeros((12, 24), np.float32)), ["1.k.weight", "(12, 24)"]),
        (change("patch.weight", np.zeros((12, 3, 2, 8), np.float32)), ["patch.weight", "(12, 3, 4, 4)"]),
        (change("patch.bias", np.zeros((12,), np.float64)), ["patch.bias", "float64"]),
    ],
)
def test_errors_name_the_key_the_file_and_what_was_wanted(model, source, words):
    with pytest.raises(UserError) as error:
        load(model, source, RULES, name="x.safetensors")
    message = str(error.value)
    assert all(word in message for word in ["x.safetensors", *words]) and "\n" not in message


def test_half_precision_is_widened_exactly(model):
    source = {key: value.astype(np.float16) for key, value in foreign_weights().items()}
    state = load(model, source, RULES)
    cls = state["class_token"].get_value()
    assert cls.dtype == np.float32
    np.testing.assert_array_equal(cls[0, 0], source["cls"].astype(np.float32))


def test_dropped_keys_must_be_listed_and_unused(model):
    source = change("head.weight", np.zeros((10, 12), np.float32))
    load(model, source, RULES, drop=[r"head\..*"])
    with pytest.raises(ValueError, match="both used and listed as dropped"):
        load(model, source, RULES, drop=[r"head\..*", r"patch\..*"])


def test_a_faulty_table_is_refused(model):
    with pytest.raises(ValueError, match="0 rules fill class_token"):
        load(model, foreign_weights(), [rule for rule in RULES if rule.target != "class_token"])
    with pytest.raises(ValueError, match="2 rules fill class_token"):
        load(model, foreign_weights(), [*RULES, Rule("cls2", "class_token")])
    twice = [rule for rule in RULES if rule.target != "class_token"] + [Rule("pos_embed", "class_token")]
    with pytest.raises(ValueError, match="two rules use pos_embed"):
        load(model, foreign_weights(), twice)


class Grid(nnx.Module):
    def __init__(self, rngs):
        create = lambda rngs: nnx.Linear(2, 3, rngs=rngs)  # noqa: E731
        self.maps = layers.stack(create, [2, 3], rngs)
        self.heads = nnx.Dict({"depth": nnx.Linear(2, 1, rngs=rngs), "edge": nnx.Linear(2, 1, rngs=rngs)})
        self.levels = nnx.List([nnx.Conv(2, 3, (3, 3), rngs=rngs)])


def test_two_stacked_axes_labels_and_constants():
    rules = [
        Rule("a.{teacher}.{block}.weight", "maps.kernel", LINEAR, stack=("block", "teacher")),
        Rule("a.{teacher}.{block}.bias", "maps.bias", stack=("block", "teacher")),
        Rule("h.{task}.weight", "heads.{task}.kernel", CONV_1X1),
        Rule("h.{task}.bias", "heads.{task}.bias"),
        Rule("c.{level}.weight", "levels.{level}.kernel", CONV),
        Rule("c.{level}.bias", "levels.{level}.bias"),
        Rule("h.{task}.count", None, value=np.zeros((), np.int64)),
    ]
    labels = {"teacher": ("dino", "clip", "sam"), "block": range(1, 3), "task": ("depth", "edge")}
    model = Grid(nnx.Rngs(0))
    names = export(model, rules, labels=labels)
    assert names["a.sam.1.weight"].shape == (3, 2) and "a.sam.0.weight" not in names
    np.testing.assert_array_equal(names["a.sam.1.weight"], model.maps.kernel[...][0, 2].T)
    assert names["h.edge.weight"].shape == (1, 2, 1, 1) and names["c.0.weight"].shape == (3, 2, 3, 3)
    assert names["h.depth.count"].dtype == np.int64
    state = load(model, names, rules, labels=labels)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(nnx.state(model)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="leading axes"):
        export(model, rules, labels=labels | {"teacher": ("dino",)})
