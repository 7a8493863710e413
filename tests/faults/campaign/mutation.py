"""Bytes of a file changed at random, for the campaign and for the fuzzing tests."""

import random

NUMBERS = (bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x80\0\0\0", b"\1\0\0\0")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, repeated or overwritten; mostly near the beginning, where headers are."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not content:
            break
        at = rng.randrange(min(len(content), rng.choice((32, 200, 1000, 10**9))))
        kind = rng.randrange(6)
        if kind == 0:
            content[at] = rng.randrange(256)
        elif kind == 1:
            content[at : at + 4] = rng.choice(NUMBERS)
        elif kind == 2:
            del content[at : at + rng.randrange(1, 40)]
        elif kind == 3:
            content[at:at] = content[: rng.randrange(1, 60)]
        elif kind == 4:
            content[at] ^= 1 << rng.randrange(8)
        elif rng.random() < 0.3:
            del content[at:]
    return bytes(content)
