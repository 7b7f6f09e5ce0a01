"""Refused clients of the stream are counted over take-overs, and a flood of them does not flood the log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pipeline.resolver.stream.rejected_clients import LOG_INTERVAL_NS, RejectedClients


class Tables:
    """Counters of tables that a predecessor has written."""

    def __init__(self, **counters: int) -> None:
        self.counters = counters

    def counter(self, name: str) -> int:
        return self.counters.get(name, 0)

    def set_counter(self, name: str, count: int) -> None:
        self.counters[name] = count


def _rejected_clients(
    tables: Tables, *, with_curve: bool = True
) -> tuple[RejectedClients, Any, Any, list[tuple[str, dict[str, Any]]]]:
    relay = SimpleNamespace(refused=0, rejected=0)
    curve = SimpleNamespace(crowded=0, rejected=0, refused=0, revoked=0, last_refused="")
    said: list[tuple[str, Any]] = []
    made: Any = RejectedClients
    clients = made(tables, relay, curve if with_curve else None, lambda event, **facts: said.append((event, facts)))
    return clients, relay, curve, said


def test_both_sides_are_added_to_what_a_predecessor_counted() -> None:
    tables = Tables(stream_refused=10, curve_revoked=1)
    clients, relay, curve, _ = _rejected_clients(tables)
    relay.refused, curve.crowded, relay.rejected, curve.rejected, curve.refused, curve.revoked = 1, 2, 3, 4, 5, 6
    clients.do_work(0)
    assert tables.counters == {"stream_refused": 13, "stream_rejected": 7, "curve_refused": 5, "curve_revoked": 7}


def test_without_a_stream_over_tcp_its_counters_stay() -> None:
    tables = Tables(curve_refused=3)
    clients, relay, _, said = _rejected_clients(tables, with_curve=False)
    relay.refused = 1
    clients.do_work(0)
    assert tables.counters == {"curve_refused": 3, "stream_refused": 1} and len(said) == 1


def test_a_line_has_the_number_and_its_rate_is_limited() -> None:
    tables = Tables()
    clients, _, curve, said = _rejected_clients(tables)
    clients.do_work(0)
    assert not said
    curve.last_refused = "a key"
    for step in range(100):
        curve.refused += 1
        clients.do_work(step * LOG_INTERVAL_NS // 50)
    assert tables.counters["curve_refused"] == 100
    assert [facts for _, facts in said] == [{"connections": 1, "key": "a key"}, {"connections": 50, "key": "a key"}]
    assert all("rejected" in event for event, _ in said)
    # The rest is reported when the time has come, also if nothing new happens.
    clients.do_work(3 * LOG_INTERVAL_NS)
    assert said[-1][1]["connections"] == 49
