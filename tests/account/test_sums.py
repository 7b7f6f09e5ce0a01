"""Sums of what processes have used, and the stacks of a flame graph."""

from __future__ import annotations

import os
import resource
import time
from typing import Any

import pytest

from pipeline.account.folded import DEPTH_MAX, folded
from pipeline.account.sums import Sum, rests, sums_by
from pipeline.account.usage import FIELDS, NUMBERS, Usage, usage_of
from pipeline.host.boot import TICK_NS
from pipeline.host.processes import used
from pipeline.shm.reader.table import FIELDS as ENTRY_FIELDS

MS = 1_000_000


def process(name: str, parent: str | None = None, **changes: Any) -> Usage:
    """An exited process that used 10 ms in user mode and 1 ms in the kernel, unless `changes` say otherwise."""
    entry = {
        "pid": 7, "entity_id": name, "parent_entity_id": parent, "creator_entity_id": parent, "start_time_ns": 100,
        "exit_time_ns": 150, "images": 2, "path": f"/bin/{name}", "comm": name,
        **dict.fromkeys(NUMBERS, 0), "cpu_user_ns": 10 * MS, "cpu_system_ns": MS,
    }  # fmt: skip
    return usage_of({**entry, **changes}, lambda pid, start_ns: None)  # type: ignore[typeddict-item]


def total(*usages: Usage, rest_ns: dict[str, int] | None = None) -> Any:
    return sums_by(usages, lambda usage: None, 250, rest_ns or {})[None]


def test_entries_have_the_fields_that_are_read() -> None:
    assert set(FIELDS) <= set(ENTRY_FIELDS)


def test_numbers_are_added_up_and_peaks_are_not() -> None:
    one = process("a", max_rss_bytes=5, read_bytes=1, minor_faults=3)
    other = process("b", max_rss_bytes=4, read_bytes=2, images=4, minor_faults=4)
    found = total(one, other)
    assert (found.cpu_user_ns, found.cpu_system_ns, found.cpu_ns) == (20 * MS, 2 * MS, 22 * MS)
    assert (found.max_rss_bytes, found.read_bytes, found.minor_faults) == (5, 3, 7)
    assert (found.processes, found.live, found.execs, found.life_ns) == (2, 0, 4, 100)


def test_sums_of_sums_are_those_of_all_processes() -> None:
    usages = [process("a", max_rss_bytes=5), process("b", max_rss_bytes=7), process("a", max_rss_bytes=6)]
    merged = Sum()
    for each in sums_by(usages, lambda usage: usage.entry["comm"], 250, {"a": 3}).values():
        merged.merge(each)
    assert merged == total(*usages, rest_ns={"a": 3})


def test_a_process_with_unknown_numbers_counts_as_unknown() -> None:
    lost = process("a", **dict.fromkeys(NUMBERS))
    without_io = process("b", read_bytes=None, write_bytes=None)
    found = total(lost, without_io, process("c"))
    assert (found.processes, found.unknown, found.unknown_io, found.cpu_ns) == (3, 1, 2, 22 * MS)


def test_a_live_process_has_the_numbers_of_now() -> None:
    seen: list[tuple[int, int]] = []

    def now(pid: int, start_ns: int) -> dict[str, int | None]:
        seen.append((pid, start_ns))
        return {"cpu_user_ns": 30 * MS, "cpu_system_ns": 0, "read_bytes": None}

    entry = process("a").entry | {"exit_time_ns": None}
    found = total(usage_of(entry, now))  # type: ignore[arg-type]
    assert seen == [(7, 100)]
    assert (found.live, found.cpu_ns, found.unknown, found.unknown_io, found.life_ns) == (1, 30 * MS, 0, 1, 150)
    gone = total(usage_of(entry, lambda pid, start_ns: None))  # type: ignore[arg-type]
    assert (gone.live, gone.cpu_ns, gone.unknown) == (1, 0, 1)


def test_sums_are_made_for_each_key() -> None:
    found = sums_by([process("a"), process("b"), process("c")], lambda usage: usage.entry["comm"] == "a", 250, {})
    assert {key: each.processes for key, each in found.items()} == {True: 1, False: 2}


# -- what the kernel counts and no record says -------------------------------------------------------------------------


def test_a_parent_that_waited_knows_what_the_ends_of_its_children_needed() -> None:
    """The parent's count is exact, as that of time(1) is; each child lacks 2 ms, in which it ended."""
    tree = [
        process("make", children_cpu_ns=65 * MS),
        process("sh", "make", children_cpu_ns=26 * MS),
        process("cc", "sh"), process("as", "sh"),
        process("ld", "make"),
    ]  # fmt: skip
    rest_ns = rests(tree, ())
    # sh: 26 - (11 + 11); make: 65 - (11 + 26) - 11.
    assert rest_ns == {"sh": 4 * MS, "make": 17 * MS}
    assert total(*tree, rest_ns=rest_ns).cpu_ns == 11 * MS + 65 * MS


def test_children_that_run_or_were_not_waited_for_are_not_taken_from_the_count() -> None:
    entry = process("cc", "make").entry | {"exit_time_ns": None}
    live = usage_of(entry, lambda pid, start_ns: {"cpu_user_ns": 90 * MS, "cpu_system_ns": 0})  # type: ignore[arg-type]
    assert rests([process("make", children_cpu_ns=12 * MS), live, process("ld", "make")], ()) == {"make": MS}
    assert rests([process("sh", children_cpu_ns=0), process("daemon", "sh")], ()) == {}


def test_nothing_is_said_of_a_parent_with_children_that_are_not_selected() -> None:
    tree = [process("make", children_cpu_ns=65 * MS), process("cc", "make")]
    assert rests(tree, {"make"}) == {}


def test_a_loop_of_wrong_links_ends() -> None:
    loop = [process("a", "b", children_cpu_ns=99 * MS), process("b", "a", children_cpu_ns=99 * MS)]
    assert rests(loop, ()) == {}
    assert sum(int(line.split()[-1]) for line in folded(loop, {})) == 22_000


# -- flame graph -------------------------------------------------------------------------------------------------------


def test_a_stack_is_the_lineage_and_equal_stacks_are_one() -> None:
    tree = [process("make"), process("a1", "make", path="/usr/bin/cc"), process("a2", "make", path="/usr/bin/cc"),
            process("as", "a1")]  # fmt: skip
    assert list(folded(tree, {"make": 3 * MS})) == [
        "make 11000", "make;(ended) 3000", "make;cc 22000", "make;cc;as 11000",
    ]  # fmt: skip


def test_a_process_is_below_its_creator_also_when_init_has_adopted_it() -> None:
    tree = [process("sh"), process("init"), process("daemon", "init", creator_entity_id="sh")]
    assert "sh;daemon 11000" in list(folded(tree, {}))


@pytest.mark.parametrize("name", ["a;b", "a b", "a\nb", "a\x1b[31mb", "\udcff", ";", " "])
def test_a_hostile_name_is_one_frame(name: str) -> None:
    (line,) = folded([process("x", path=f"/bin/{name}")], {})
    stack, _, number = line.rpartition(" ")
    assert number == "11000" and stack.isprintable() and ";" not in stack and " " not in stack
    line.encode()


def test_a_deep_chain_needs_no_recursion_and_makes_no_endless_stacks() -> None:
    chain = [process("p0"), *(process(f"p{n}", f"p{n - 1}") for n in range(1, 3000))]
    lines = list(folded(chain, {"p2999": MS}))
    assert len(lines) == DEPTH_MAX and max(line.count(";") for line in lines) == DEPTH_MAX - 1
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == 3000 * 11_000 + 1000
    rests(chain, ())


# -- live processes ----------------------------------------------------------------------------------------------------


def test_what_this_process_has_used_so_far() -> None:
    while time.process_time_ns() < 3 * TICK_NS:
        pass
    before = resource.getrusage(resource.RUSAGE_SELF)
    found = used(os.getpid(), 0)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert found is not None
    for name, field in (("cpu_user_ns", "ru_utime"), ("cpu_system_ns", "ru_stime")):
        assert getattr(before, field) * 1e9 - TICK_NS <= (found[name] or 0) <= getattr(after, field) * 1e9, name
    assert before.ru_minflt <= (found["minor_faults"] or 0) <= after.ru_minflt
    # The kernel counts resident memory by CPU and adds it up at times.
    assert found["max_rss_bytes"] == pytest.approx(before.ru_maxrss * 1024, rel=0.1)
    assert used(os.getpid(), 7) is None
