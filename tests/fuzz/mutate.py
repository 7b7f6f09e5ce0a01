"""Make inputs from others, without knowledge of the format."""

from __future__ import annotations

import random
from collections.abc import Sequence

#: Numbers at which decoders go wrong, and first bytes of msgpack with large lengths.
_INTERESTING = (
    b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\xff" * 8,
    b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\0\1\0\0",
    b"\xc1",
)  # fmt: skip
LENGTH_MAX = 1 << 16


def mutate(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Return one of the inputs after one to four changes."""
    data = bytearray(corpus[int(rng.random() * len(corpus))])
    for _ in range(1 + int(rng.random() * 4)):
        size = len(data)
        at = int(rng.random() * (size + 1))
        how = int(rng.random() * 8)
        if how == 0 and at < size:
            data[at] = int(rng.random() * 256)
        elif how == 1 and at < size:
            data[at] ^= 1 << int(rng.random() * 8)
        elif how == 2:
            del data[at : at + 1 + int(rng.random() * 8)]
        elif how == 3:
            data[at:at] = rng.randbytes(1 + int(rng.random() * 4))
        elif how == 4:
            new = _INTERESTING[int(rng.random() * len(_INTERESTING))]
            data[at : at + len(new)] = new
        elif how == 5:
            data[at:at] = data[at : at + 1 + int(rng.random() * 64)]
        elif how == 6:
            other = corpus[int(rng.random() * len(corpus))]
            cut = int(rng.random() * (len(other) + 1))
            data[at : at + 1 + int(rng.random() * 64)] = other[cut : cut + 1 + int(rng.random() * 64)]
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data[:LENGTH_MAX])
