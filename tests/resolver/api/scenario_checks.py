"""Words of the table of scenarios that check the results of the words in scenario_happens.py.

Checks that concern only an entry work in every world.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.resolver.entries.cache_entry import DEFAULTS
from tests.resolver.api.scenario_steps import expects
from tests.resolver.resolver_world import World, high


@expects
def cache(w: World, *pids: int) -> None:
    assert w.cache == {high(pid) for pid in pids}


@expects
def head(w: World, pid: int, name: str) -> None:
    assert w.resolver.get(high(pid)) is w.named[name]


@expects
def result(w: World, name: str, value: Any) -> None:
    """The result of a call that returns no entry; None if the call found nothing."""
    assert w.results[name] == value


@expects
def error(w: World, kind: type[Exception], cause: type[Exception] | None = None) -> None:
    """The exception that the last refused step raised."""
    assert type(w.error) is kind
    assert cause is None or type(w.error.__cause__) is cause


@expects
def same(w: World, name: str, other: str) -> None:
    assert w.named[name] is w.named[other]


@expects
def chain(w: World, *names: str) -> None:
    """The first entry's complete lineage, newest first."""
    assert list(w.named[names[0]].chain()) == [w.named[name] for name in names]


@expects
def ancestor(w: World, name: str, above: str) -> None:
    assert w.named[name].ancestor is w.named[above]


@expects
def has(w: World, name: str, **values: Any) -> None:
    """Fields of an entry."""
    assert {field: getattr(w.named[name], field) for field in values} == values


@expects
def file(w: World, name: str, **values: Any) -> None:
    """Fields of an entry's executable."""
    found = w.named[name].file_event
    assert {field: getattr(found, field) for field in values} == values


@expects
def interpreter(w: World, name: str, **values: Any) -> None:
    """Fields of its interpreter."""
    found = w.named[name].interpreter
    assert {field: getattr(found, field) for field in values} == values


@expects
def credentials(w: World, name: str, **values: Any) -> None:
    """Fields of its credentials."""
    found = w.named[name].credentials
    assert {field: getattr(found, field) for field in values} == values


@expects
def ppid(w: World, name: str, pid: int) -> None:
    assert w.named[name].ppid == high(pid)


@expects
def count(w: World, counter: str, number: int, tag: str = "") -> None:
    assert w.count(counter, tag) == number


@expects
def uncounted(w: World) -> None:
    """No counter changed."""
    assert {key: number for key, number in w.resolver.stats.all().items() if number} == {}


@expects
def told(w: World, *names: str) -> None:
    """The new-entry callback ran once for each of these entries, without an error."""
    assert w.told == [(w.named[name], None) for name in names]


@expects
def procfs_ppids(w: World, *names: str) -> None:
    """The resolver read the parents of exactly these processes from /proc."""
    assert set(w.proc.ppid_reads) == {w.named[name].pid for name in names}


@expects
def procfs_reads(w: World, *pids: int) -> None:
    """The resolver read these processes from /proc, in this order."""
    assert w.proc.reads == [high(pid) for pid in pids]


@expects
def children(w: World, name: str, *names: str) -> None:
    assert w.named[name].children == [w.named[child] for child in names]


@expects
def inherits(w: World, name: str, parent: str) -> None:
    """An entry has everything that it inherits from its ancestor when it has no value of its own."""
    fields = ("cgroup", "container", "mnt_ns", "net_ns", "user_session", "credentials")
    found, wanted = ({field: getattr(w.named[each], field) for field in fields} for each in (name, parent))
    assert found == wanted and not any(wanted[field] == DEFAULTS[field] for field in fields)


@expects
def equal(w: World, name: str, other: str, is_equal: bool = True) -> None:
    """Equals gives this result in both directions."""
    one, two = w.named[name], w.named[other]
    assert (one.equals(two), two.equals(one)) == (is_equal, is_equal)


@expects
def lineage(w: World, name: str, error: type[Exception] | None) -> None:
    """HasValidLineage: None for a valid lineage, otherwise the error that it reports."""
    is_valid, found = w.named[name].has_valid_lineage()
    assert (is_valid, type(found)) == (error is None, error or type(None))


@expects
def args(w: World, name: str, values: list[str] | None) -> None:
    """The complete argv as it is stored."""
    found = w.named[name].args_entry
    assert (None if found is None else found.values) == values


@expects
def argv_scrubbed(w: World, name: str, *values: str) -> None:
    assert w.resolver.get_process_argv_scrubbed(w.named[name]) == (list(values), False)


@expects
def envs(w: World, name: str, values: list[str] | None) -> None:
    assert w.resolver.get_process_envs(w.named[name]) == (values, False)


@expects
def envp(w: World, name: str, values: list[str] | None) -> None:
    assert w.resolver.get_process_envp(w.named[name]) == (values, False)


@expects
def shares_scrubbed_argv(w: World, name: str, other: str) -> None:
    """Both entries share one list; two equal lists are not enough."""
    one, two = (w.resolver.get_process_argv_scrubbed(w.named[each])[0] for each in (name, other))
    assert one is not None and one is two


@expects
def stored_nowhere(w: World, text: bytes) -> None:
    """The text is not in the tables' arguments, which other processes map."""
    assert text not in bytes(np.frombuffer(w.tables.args.view(), np.uint8))


@expects
def path_error(w: World, name: str, text: str) -> None:
    """The last refusal is recorded on the event and on the file. The exec section of the event has its own entry."""
    event = w.events[name]
    assert event.error is w.error and event.exec_entry is event.entry and event.entry is not None
    assert text in event.entry.file_event.path_resolution_error


@expects
def ends_at_fork_of(w: World, name: str, other: str) -> None:
    assert w.named[name].exit_time is not None and w.named[name].exit_time == w.named[other].fork_time


@expects
def has_ended(w: World, name: str) -> None:
    assert w.named[name].exit_time is not None


@expects
def ends_with_its_event(w: World, name: str) -> None:
    """The event's exit section has the entry, and the entry's exit time is the event's time."""
    event, entry = w.events[name], w.named[name]
    assert event.exit_entry is entry and entry.exit_time == event.timestamp_ns + w.offset


@expects
def no_entry(w: World, name: str) -> None:
    """The event has no entry."""
    assert w.events[name].entry is None
