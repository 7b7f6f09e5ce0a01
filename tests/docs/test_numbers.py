"""Numbers that the code defines are the same in the sentences of the pages."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import pytest

from tests.docs.citations import ROOT
from tests.written import constant


class Number(NamedTuple):
    """A number in a sentence: `{}` in `sentence` stands for what the constant `name` of `file` is, times `factor`."""

    page: str
    sentence: str
    file: str
    name: str
    factor: Fraction = Fraction(1)


PROTOCOL, WIRE, SECURITY = "docs/row-protocol.md", "docs/wire-schema.md", "docs/security.md"
SESSIONS, BPF = "pipeline/resolver/upkeep/sessions.py", "pipeline/bpf/declared.py"
CLIENTS, QUESTIONS = "pipeline/bus/requests.py", "pipeline/resolver/daemon/answering.py"
LAYOUT, LIMITS = "docs/memory-layout.md", "pipeline/supervisor/limits.py"
NAME_CACHE = "pipeline/resolver/stream/_name_cache.pxd"
CACHE, VIEWS = "pipeline/resolver/stream/_keyed_cache.pxd", "pipeline/resolver/upkeep/name_views.py"
#: Shares of the slots of a cache that all may use, all users other than root, and one of them.
USED, CHARGED, OF_USER = Fraction(1, 2), Fraction(3, 8), Fraction(1, 8)
IN_MS, IN_MIB = Fraction(1, 10**6), Fraction(1, 1 << 20)
NUMBERS = [
    Number(PROTOCOL, "is entry n modulo {} |", "pipeline/shm/layout/declared.py", "CHANGES_KEPT"),
    Number(PROTOCOL, "If {} or more changes were noted", "pipeline/shm/layout/declared.py", "CHANGES_KEPT"),
    Number(PROTOCOL, "with more than {} entries for each row", "pipeline/shm/reader/_processes.pyx", "_ENTRIES_A_ROW"),
    Number(PROTOCOL, "For at most {} pids", "pipeline/shm/reader/bulk.h", "PL_KEPT_PIDS"),
    Number(PROTOCOL, "pids, or {} chains", "pipeline/shm/reader/bulk.h", "PL_KEPT_CHAINS"),
    Number(PROTOCOL, "tables of less than {} rows", "pipeline/shm/reader/_reader.pyx", "_SMALL_ROWS"),
    Number(PROTOCOL, "or of {} or more, are walked", "pipeline/shm/reader/bulk.h", "PL_LANES_ROWS"),
    Number(PROTOCOL, "remembers {} of the chains", "pipeline/shm/reader/bulk.h", "PL_MEMO"),
    Number(PROTOCOL, "*Busy* is retried: {} times with a pause", "pipeline/shm/reader/_view.pyx", "SPINS"),
    Number(LAYOUT, "For each used row it has {} bytes", LIMITS, "_PRIVATE_ROW_BYTES"),
    Number(LAYOUT, "For each used pid it has {} bytes", LIMITS, "_PRIVATE_PID_BYTES"),
    Number(WIRE, "At most {} different filters are in use", "pipeline/bus/stream/declared.py", "FILTERS_MAX"),
    Number(WIRE, "at most {} subscriptions with a filter", "pipeline/bus/_relay.pyx", "FILTERS_OF_CLIENT"),
    Number(WIRE, "and {} from all connections", "pipeline/bus/_relay.pyx", "FILTERS_OF_USER"),
    Number(WIRE, "A subscription has at most {} bytes", "pipeline/bus/stream/declared.py", "SUBSCRIPTION_MAX_BYTES"),
    Number(WIRE, "or a frame of more than {} bytes", "pipeline/bus/_relay.pyx", "INPUT_MAX"),
    Number(WIRE, "a subscription of more than {} bytes", "pipeline/bus/stream/declared.py", "SUBSCRIPTION_MAX_BYTES"),
    Number(WIRE, "subscription while {} are active", "pipeline/bus/_relay.pyx", "SUBSCRIPTIONS_MAX"),
    Number(WIRE, "more than {} frames at once", "pipeline/bus/_relay.pyx", "FRAMES_BURST"),
    Number(WIRE, "or more than {} frames a second", "pipeline/bus/_relay.pyx", "FRAMES_PER_S"),
    Number(SECURITY, "the details of at most {} logins are read", SESSIONS, "LOGINS_PER_TURN"),
    Number(SECURITY, "logins are read, for at most {} ms", SESSIONS, "TURN_NS", IN_MS),
    Number(SECURITY, "{} logins can wait", SESSIONS, "LOGINS_MAX"),
    Number(SECURITY, "logins can wait, {} of one user", SESSIONS, "USER_LOGINS_MAX"),
    Number(SECURITY, "A question has at most {} bytes", CLIENTS, "REQUEST_MAX_BYTES"),
    Number(SECURITY, "The resolver keeps {} connections", CLIENTS, "CLIENTS_MAX"),
    Number(SECURITY, "connections, {} of one user", CLIENTS, "CLIENTS_PER_UID"),
    Number(SECURITY, "with mode 0600, with {} connections", CLIENTS, "CLIENTS_OWN"),
    Number(SECURITY, "It accepts {} questions and connections a second", QUESTIONS, "RATE_PER_S"),
    Number(SECURITY, "{} questions a second may go beyond the tables", QUESTIONS, "MISS_RATE_PER_S"),
    Number(SECURITY, "{} questions of one user,", QUESTIONS, "WAITING_PER_USER"),
    Number(SECURITY, "and {} of all users, can wait for that", QUESTIONS, "WAITING_MAX"),
    Number(SECURITY, "connections and {} waiting questions", QUESTIONS, "WAITING_PER_USER"),
    Number(SECURITY, "The names of all containers take at most {} MiB", VIEWS, "BYTES_MAX", IN_MIB),
    Number(SECURITY, "There are at most {} containers with names", CACHE, "PL_CACHE_SLOTS", USED),
    Number(SECURITY, "There are at most {} containers with details", CACHE, "PL_CACHE_SLOTS", USED),
    Number(SECURITY, "containers with names, {} of one user", NAME_CACHE, "PL_VIEWS_PER_USER"),
    Number(
        SECURITY,
        "only root can change, at most {} MiB each",
        "pipeline/software/container_files.py",
        "FILE_BYTES_MAX",
        IN_MIB,
    ),
    Number(SECURITY, "{} executables are known at most", CACHE, "PL_CACHE_SLOTS", USED),
    Number(SECURITY, "Each user other than root has {} of them at most", CACHE, "PL_CACHE_SLOTS", OF_USER),
    Number(SECURITY, "all of these users together have {}", CACHE, "PL_CACHE_SLOTS", CHARGED),
    Number(SECURITY, "put a record into a queue of {}.", BPF, "CALLS_MAX"),
    Number(SECURITY, "At most {} calls of each kind and user in a second", BPF, "CALLS_PER_S"),
    Number(SECURITY, "are recorded, and {} of root", BPF, "CALLS_PER_S", Fraction(10)),
]


def plain(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: f"{number.name}: {number.sentence}")
def test_a_number_in_a_sentence_is_that_of_the_code(number: Number) -> None:
    value = constant(number.file, number.name) * number.factor
    assert value.denominator == 1
    assert number.sentence.format(f"{int(value):,}") in plain(number.page)


def test_the_retries_of_a_busy_row_add_up() -> None:
    spins, yields = (constant("pipeline/shm/reader/_view.pyx", name) for name in ("SPINS", "YIELDS"))
    patience_ms = constant("pipeline/shm/reader/_view.pyx", "PATIENCE_NS") // 10**6
    assert f"{yields - spins} times yielding the processor, then every 0.1 ms for {patience_ms} ms" in plain(PROTOCOL)
