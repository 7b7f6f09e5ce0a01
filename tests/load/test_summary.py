from __future__ import annotations

from pipeline.load import summary
from tests.load.reports import limit, paired, report


def rows(title: str, **changes: object) -> dict[str, list[str]]:
    (table,) = [each for each in summary.tables(report(**changes)) if each.title.startswith(title)]
    return {row[0]: row[1:] for row in table.rows[1:]}


def test_figures_have_three_digits_or_separators() -> None:
    assert [summary.figure(each) for each in (None, 0, 7, 1234567, 0.12345, 1234.5)] == [
        "-", "0", "7", "1,234,567", "0.123", "1,234",
    ]  # fmt: skip
    assert [summary.us(each) for each in (None, 0.5, 12.34, 1500.0, 2_500_000.0)] == [
        "-", "0.5 µs", "12.3 µs", "1.5 ms", "2.5 s",
    ]  # fmt: skip
    assert [summary.mib(each) for each in (None, 512, 3 << 20)] == ["-", "0.5 KiB", "3.0 MiB"]
    assert [summary.percent(each) for each in (None, 3.21, -0.5)] == ["-", "+3.2 %", "-0.5 %"]


def test_kinds_that_were_not_made_are_omitted() -> None:
    assert set(rows("Events")) == {"fork", "exec", "exit"}
    made = {**report()["made"], "thread": 8, "cred": 2}
    assert rows("Events", made=made)["thread"] == ["8", "-", "-", "-", "-"]
    assert rows("Events", made=made)["cred"] == ["2", "0", "0", "0", "0"]
    extra = {**report()["extra"], "cred": 1}
    assert rows("Events", extra=extra)["cred"][3] == "1", "an event that was never made is shown"


def test_unknown_costs_are_dashes() -> None:
    assert rows("Instance")["shard-0"] == ["2.5 µs", "-"]
    assert rows("Instance")["all"] == ["8 µs", "60.0 MiB"]
    nothing = rows("Instance", cpu_us_per_event={}, cpu_us_per_event_total=None, memory_bytes={})
    assert nothing == {"all": ["-", "-"]}
    ring = {"size_bytes": None, "fill_max_bytes": None}
    assert rows("Load", ring=ring)["fullest ring"] == ["-"]


def test_the_verdict_of_each_fault() -> None:
    assert summary.verdict(report()) == "All 250 events were seen, each once, and none was wrong."
    lost = {**report()["lost"], "fork": 1200}
    assert summary.verdict(report(lost=lost)) == "Of 250 events: 1,200 lost."
    assert "3 still alive" in summary.verdict(report(alive_in_table=3))
    missed = summary.verdict(report(lost=lost, missed_by_subscriber=1200))
    assert "too slow and missed 1,200" in missed and "the instance itself lost 0" in missed


def test_parts_that_are_measured_on_request() -> None:
    assert not [each for each in summary.tables(report()) if each.title.startswith(("Slowdown", "Highest"))]
    found = rows("Slowdown", paired=paired())
    assert found["events a second"] == ["+3.0 %", "+1.0 %", "+5.0 %", "98 %"]
    assert found["noise (quartiles)"][1:3] == ["-1.0 %", "+1.0 %"]
    steps = rows("Highest rate without loss: 1,990 events/s (the instance lost", limit=limit())
    assert steps["2,000"][-1] == "sustained" and steps["4,000"][-1] == "lost"
    assert rows("Highest rate without loss: none", limit={**limit(), "events_per_s": None})


def test_the_title_names_what_where_and_which_version() -> None:
    title = summary.title(report(settings={**report()["settings"], "cpus": "0-1", "rate_events_per_s": None}))
    for word in ("mix at full speed", "on CPUs 0-1", "alpha", "4 CPUs", "Linux 6.12.1", "procline 0.1.0"):
        assert word in title
