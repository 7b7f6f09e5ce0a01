"""The lines of the screen: their text, and that nothing in them can control the terminal."""

from __future__ import annotations

import pytest

from pipeline.resolver.entries import entry_extra
from pipeline.screen.lines import Line
from pipeline.screen.times import moment
from pipeline.shm.layout import layout
from pipeline.top import bars
from pipeline.top.columns import COLUMNS, default_columns, fitting
from pipeline.top.details import describe
from pipeline.top.process_list import ProcessList
from pipeline.top.rate_list import RateList
from pipeline.top.sparks import rate, sparkline
from tests.top.host import Host

EVIL = "\x1b[2J\x1b[31m\r\n\x07[red]\u202e\x9b1mname"


def lines_of(host: Host, width: int = 80, **settings: object) -> list[str]:
    model = host.model(**settings)
    view = ProcessList(model)
    return [view.heading(width).plain, *(view.line(number, width).plain for number in range(view.count()))]


def test_a_line_has_pid_user_age_and_command_in_the_tree(host: Host) -> None:
    host.start(42, "cat /etc/passwd", parent=40, ago=1, uid=4_000_000)
    assert lines_of(host) == [
        "      PID USER       AGE COMMAND",
        "        1 0          16m /sbin/init",
        "       40 0           8m └─bash",
        "       41 1000        6m   ├─sleep 100",
        "+      42 4000000     1s   └─cat /etc/passwd",
    ]


def test_an_ended_process_shows_how_it_ended(host: Host) -> None:
    host.end(41, code=9, ago=0.5)
    assert lines_of(host)[-1].endswith("6m   └─sleep 100  [signal 9 (SIGKILL)]")
    assert "[" not in lines_of(host, 200, columns=("end",))[-1], "the column says it"
    host.end(40, ago=0.5)
    assert lines_of(host)[-2].endswith("└─bash"), "an end without failure needs no words"


def test_an_exec_is_marked(host: Host) -> None:
    host.execute(41, "date", ago=0.5)
    assert lines_of(host)[-1].startswith(">      41") and lines_of(host)[-1].endswith("date")


def test_every_column_has_a_cell_of_its_width(host: Host) -> None:
    host.end(41, code=256, ago=0.5)
    for name, column in COLUMNS.items():
        heading, *lines = lines_of(host, 200, columns=(name,), is_tree=False)
        assert column.title in heading
        if name != "command":
            assert {line.find("/sbin/init") for line in lines if "init" in line and name != "program"} <= {
                column.width + 3, -1,
            }, name  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_columns_leave_a_third_for_the_command(width: int) -> None:
    for names in (default_columns(width), tuple(COLUMNS)):
        chosen = fitting(names, width)
        assert chosen[-1].name == "command"
        assert sum(column.width + 1 for column in chosen[:-1]) <= width * 2 // 3


def test_names_and_arguments_cannot_control_the_terminal(host: Host) -> None:
    argv = host.tables.strings("args", EVIL.encode(), b"\xff\xfe")
    evil_file = host.tables.file(("/tmp/" + EVIL).encode())
    row = host.start(50, "x", parent=40, ago=1, args_ref=argv, file_ref=evil_file, comm=b"\x1b]0;title\x07")
    host.tables.change(row, tty=b"\x1b[5m", container_ref=host.tables.intern("names", b"\x1b[1mabc"), known=0xFFFF)
    host.tables.change(row, cgroup_ref=host.tables.intern("names", bytes(16) + b"/\x1b[1m.service"))
    host.fork(51, 50, ago=1)
    model = host.model(columns=tuple(COLUMNS), keep_s=60.0)
    made: list[Line] = []
    view = ProcessList(model)
    made += [view.line(number, 300) for number in range(view.count())]
    made += describe(model, model.subject(model.search(["name"], 0, 1)), 80)
    for grouping in ("executable", "unit", "user", "spawner"):
        rates = model.group_by(grouping)
        rates.restart()
        assert model.reading is not None
        rates.count(model.reading.numbers, model.reading.rows, host.ago(10))
        rates.count(model.reading.numbers, model.reading.rows, host.ago(0))
        spawning = RateList(model)
        spawning.grouping = grouping
        spawning._groups = rates.busiest()
        assert spawning.count()
        made += [spawning.line(number, 120) for number in range(spawning.count())]
    model.settings.filter = model.settings.filter.__class__(words=(EVIL,))
    made += bars.summary_lines(model, 200)
    text = "".join(line.plain for line in made)
    assert text.isprintable()
    assert "\\x1b[2J" in text and "\\u202e" in text and "[red]" in text and "\\xff" in text


def test_a_container_that_a_user_may_have_named_is_marked(host: Host) -> None:
    container, manager = b"5e" * 32, b"/user.slice/user-7.slice/user@7.service"
    for pid, above in ((50, b""), (51, manager)):
        row = host.start(pid, "x", parent=40, ago=1)
        host.tables.change(row, container_ref=host.tables.intern("names", container))
        path = b"%b/docker-%b.scope" % (above, container)
        host.tables.change(row, cgroup_ref=host.tables.intern("names", bytes(16) + path))
    model = host.model(columns=("pid", "container", "command"))
    view = ProcessList(model)
    cells = [view.line(at, 100).plain.split() for at in range(view.count())]
    assert [each for each in cells if "50" in each and "5e5e5e5e5e5e" in each]
    assert [each for each in cells if "51" in each and "5e5e5e5e5e5?" in each]
    (text,) = ["\n".join(line.plain for line in describe(model, model.subject(model.search(["51"], 0, 1)), 400))]
    assert "(named by a user?)" in text


def test_details_say_when_a_change_happened_that_a_comparison_found(host: Host) -> None:
    row = host.start(50, "x", parent=40, ago=1)
    extra = entry_extra.pack({"sampled_change": {"changed_after_ns": 10**18, "changed_before_ns": 10**18 + 10**9}})
    flags = layout.ROW_CHANGE_SAMPLED | int(host.tables.hot["flags"][row])
    host.tables.change(row, flags=flags, extra_ref=host.tables.intern("args", extra))
    model = host.model()
    (text,) = ["\n".join(line.plain for line in describe(model, model.subject(model.search(["50"], 0, 1)), 400))]
    assert f"between {moment(10**18)} and {moment(10**18 + 10**9)} (found by a comparison)" in text


def test_details_have_arguments_images_lineages_credentials_and_marks(host: Host) -> None:
    row = host.execute(41, "date -u 'two words'", ago=5)
    host.tables.change(
        row, euid=0, egid=7, gid=1000, cap_effective=(1 << 41) - 1 & ~0b10,
        flags=layout.ROW_ARGS_TRUNCATED | int(host.tables.hot["flags"][row]), argc=9,
        parent=host.link(40), known=0x1FFFF | layout.KNOWN_COST, cpu_user_ns=2_000_000, cpu_system_ns=500_000,
        max_rss_bytes=3 << 20,
    )  # fmt: skip
    host.end(41, code=256, ago=1)
    model = host.model(keep_s=10.0)
    text = "\n".join(line.plain for line in describe(model, model.subject(2), 100))
    for part in (
        "date -u 'two words'", "argv[2]    'two words'", "program    /usr/bin/date", "41, parent 40",
        "after 6 min 39 s: code 1", "gid 1000, effective 0:7", "all capabilities except",
        "arguments cut: 3 of 9 are known",
        "Images, newest first", "sleep 100", "Current parents", "Lineage", "bash", "source     event",
        "cost       2.5 ms of CPU, at most 3",
    ):  # fmt: skip
        assert part in text, f"{part!r} is not in:\n{text}"


def test_a_deep_tree_leaves_room_for_the_command(host: Host) -> None:
    for pid in range(100, 160):
        host.start(pid, "sh", parent=pid - 1 if pid > 100 else 1, ago=500 - pid)
    assert lines_of(host)[-2].rstrip().endswith("└─sh")
    assert "⋯" in lines_of(host)[-2]
    assert all(len(line) <= 80 for line in lines_of(host))


def test_the_summary_shows_rates_loss_lag_and_cost(host: Host) -> None:
    model = host.model()
    assert model.reading is not None
    figures = model.reading.figures
    figures.rates = {"fork": 1200.0, "exec": 900.0, "exit": 1199.0}
    figures.lag_ns, figures.cpu_percent, figures.memory_bytes = 4_000_000, 12.34, 80 << 20
    state, activity = (line.plain for line in bars.summary_lines(model, 120))
    assert state == "procline made-up  3 live"
    for part in (" 3299 events/s", " 1200 forks", "lost 0", "lag 4 ms", "cost 12.3% 80 MiB"):
        assert part in activity
    assert len(bars.summary_lines(model, 80)[1].plain) <= 80


def test_new_losses_stand_out(host: Host) -> None:
    model = host.model()
    lost = layout_counters(3)
    host.commits += 1
    host.tables.commit(host.commits, counters=lost)
    assert model.reading is not None
    model.reading.figures.lost_here = 3
    assert "lost 3" in bars.summary_lines(model, 80)[1].plain


def layout_counters(lost: int) -> list[int]:
    counters = [0] * layout.COUNTER_CAPACITY
    counters[layout.COUNTERS.index("lost_fork")] = lost
    return counters


def test_losses_are_counted_from_the_first_reading_on(host: Host) -> None:
    feed = host.feed()
    reader = feed._reader
    assert reader is not None
    for number, (lost, here) in enumerate(((5, 0), (7, 2), (0, 0)), host.commits + 1):
        host.tables.commit(number, counters=layout_counters(lost), watermark_boot_ns=1)
        assert feed._table is not None
        assert reader.read(feed._table.commit()).lost_here == here


def test_the_keys_fit_the_screen() -> None:
    for width in (20, 40, 80, 200):
        assert bars.key_line(width).width <= width
    assert bars.key_line(80).plain.startswith("? help")


@pytest.mark.parametrize(
    ("numbers", "text"), [([], "    "), ([0, 0], "    "), ([0, 1, 4], "  ▂█"), ([9, 1, 2, 3, 4], "▂▄▆█")]
)
def test_sparklines(numbers: list[float], text: str) -> None:
    assert sparkline(numbers, 4) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "-"), (0.01, "0.1"), (9.94, "9.9"), (9.96, "10"), (9949, "9949"), (9951, "10.0k"),
                         (99_600, "100k")],
)  # fmt: skip
def test_rates_are_at_most_five_characters(number: float, text: str) -> None:
    assert rate(number) == text
