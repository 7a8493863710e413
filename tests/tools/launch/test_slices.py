import pytest
import slices

from sak_jax.errors import UserError

# cloud.google.com/tpu/docs: v5e and v6e are counted in chips, v4 and v5p in cores.
KNOWN = [
    ("v5e:1x1", "v5litepod-1", 1, 1),
    ("v5e:4x4", "v5litepod-16", 16, 4),
    ("v5e:16x16", "v5litepod-256", 256, 64),
    ("v6e:4x8", "v6e-32", 32, 8),
    ("v5p:2x2x1", "v5p-8", 4, 1),
    ("v5p:2x2x2", "v5p-16", 8, 2),
    ("v4:2x2x4", "v4-32", 16, 4),
]


@pytest.mark.parametrize("text, accelerator, chips, hosts", KNOWN)
def test_what_a_slice_is_called(text, accelerator, chips, hosts):
    found = slices.parse(text)
    assert (found.accelerator_type, found.chips, found.hosts(min(4, chips))) == (accelerator, chips, hosts)


def test_hosts_of_a_slice_depend_on_their_chips():
    assert slices.parse("v5e:2x4").hosts(8) == 1 and slices.parse("v5e:2x4").hosts(4) == 2
    for text, chips in (("v5e:4x4", 8), ("v5e:4x4", 1), ("v5p:2x2x2", 8), ("v6e:4x4", 3)):
        with pytest.raises(UserError, match=f"--chips_per_host={chips} does not fit {text}"):
            slices.parse(text).hosts(chips)


@pytest.mark.parametrize(
    "text, message",
    [
        ("v5litepod-16", "write GENERATION:TOPOLOGY with one of v4, v5e, v5p, v6e"),
        ("v5e", "v5e has 1x1, 2x2"),
        ("v5e:3x3", "v5e has 1x1, 2x2"),
        ("v5p:4x4", "v5p has three sides"),
        ("v5p:2x3x4", "v5p has three sides"),
        ("v4:1x1x2", "a machine of v4 has 4 chips"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(UserError, match=f"--topology={text}: {message}"):
        slices.parse(text)
