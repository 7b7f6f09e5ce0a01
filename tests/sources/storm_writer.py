"""A process that writes numbered records into a ring made by hand as fast as the ring has room for them.

``storm_writer.py FD FIRST COUNT SEED``: some records stay busy for a while with later ones behind them, some are
discarded, lengths vary; each is filled with a pattern made from its number. Ends when all records are written.
"""

from __future__ import annotations

import random
import struct
import sys
import time

from pipeline.records.declared import TASK_LAYOUT
from tests.sources.kernel_writer import KernelWriter

HEADER = struct.Struct("<QQIIQIBBHQIIQ")
KIND_FORK, KIND_EXEC, KIND_EXIT, KIND_COMM = 1, 2, 3, 5
BODY_WORDS = {KIND_FORK: 4, KIND_EXIT: 4, KIND_COMM: 0}
TASK_WORDS = TASK_LAYOUT.size // 8
FACTOR = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def make(number: int, kind: int, words: int) -> bytes:
    """A record in which every word after the header is number * FACTOR, with `words` words of strings."""
    fill = struct.pack("<Q", number * FACTOR & MASK)
    rest = fill * (TASK_WORDS + BODY_WORDS[kind] + words)
    return HEADER.pack(number, number, 1, 1, number, 1, kind, 0, 0, 0, 64 + len(rest), 8 * words, 0) + rest


def main(fd: int, first: int, count: int, seed: int) -> None:
    chance = random.Random(seed)
    kinds = list(BODY_WORDS)
    held: list[tuple[int, bytes]] = []
    with KernelWriter(fd) as writer:
        for number in range(first, first + count):
            one = make(number, kinds[number % 3], number * 7 % 29)
            if chance.random() < 0.05:
                writer.write_discarded(one[:64] + b"given up")
            while (position := writer.reserve(len(one))) is None:
                for waiting in held:
                    writer.commit(*waiting)
                held.clear()
                time.sleep(0.0001)
            if chance.random() < 0.1 and len(held) < 4:
                held.append((position, one))
                continue
            writer.commit(position, one)
            if held and chance.random() < 0.5:
                writer.commit(*held.pop(chance.randrange(len(held))))
        for waiting in held:
            writer.commit(*waiting)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:5]))
