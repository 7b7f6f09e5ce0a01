from __future__ import annotations

from pipeline.load import compare
from tests.load.reports import limit, paired, report


def other(**changes: object) -> dict[str, object]:
    faster = {**report()["load"], "cpu_us_per_event": 45.0}
    return report("beta", load=faster, procline_version="0.2.0", **changes)


def test_two_reports_show_the_change() -> None:
    table = compare.figures([report(), other()], ["a", "b"])
    assert table.rows[0] == ["", "alpha", "beta", "change"]
    found = {row[0]: row[1:] for row in table.rows}
    assert found["CPU of the load per event"] == ["90 µs", "45 µs", "-50.0 %"]
    assert found["lost"] == ["0", "0", ""]
    assert "slowdown" not in found, "neither has it"


def test_a_figure_that_one_report_has() -> None:
    found = {
        row[0]: row[1:] for row in compare.figures([report(paired=paired()), other(limit=limit())], ["a", "b"]).rows
    }
    assert found["slowdown"] == ["+3.0 %", "-", "-"]
    assert found["highest rate without loss, events/s"] == ["-", "1,990", "-"]


def test_many_reports_have_a_column_each() -> None:
    reports = [report(f"host{number}") for number in range(7)]
    table = compare.figures(reports, [""] * 7)
    assert all(len(row) == 8 for row in table.rows)
    assert [row[0] for row in compare.turned(table).rows] == ["", *(f"host{number}" for number in range(7))]


def test_what_differs_between_the_tests() -> None:
    found = {row[0]: row[1:] for row in compare.differences([report(), other()], ["a", "b"]).rows}
    assert found == {"": ["alpha", "beta"], "host": ["alpha", "beta"], "procline": ["0.1.0", "0.2.0"]}
    assert compare.differences([report(), report()], ["a", "b"]).rows == [["", "a", "b"]]


def test_names_are_those_of_hosts_versions_or_files() -> None:
    assert compare.labels([report(), other()], ["a", "b"]) == ["alpha", "beta"]
    newer = report(procline_version="0.2.0")
    assert compare.labels([report(), newer], ["a", "b"]) == ["alpha 0.1.0", "alpha 0.2.0"]
    assert compare.labels([report(), report()], ["a", "b"]) == ["a", "b"]


def test_a_change_is_relative_where_that_has_a_meaning() -> None:
    changes = [compare.change(*each) for each in ((2, 3), (0, 0), (0, 5), (None, 1), (-1.0, 2.0), (5, 0))]
    assert changes == ["+50.0 %", "", "+5", "-", "+3", "-100.0 %"]


def test_a_comparison_as_data() -> None:
    found = compare.document([report(), other(limit=limit())], ["a", "b"])
    assert found["reports"] == ["alpha", "beta"]
    assert found["differences"] == {"host.name": ["alpha", "beta"], "procline_version": ["0.1.0", "0.2.0"]}
    assert found["figures"]["load_cpu_us_per_event"] == [90.0, 45.0]
    assert found["figures"]["limit_events_per_s"] == [None, 1990.0]
    assert found["figures"]["slowdown_percent"] == [None, None]
