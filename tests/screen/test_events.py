"""One event as a line."""

from __future__ import annotations

from typing import Any

from pipeline.screen.events import event_line
from pipeline.screen.lineage import chain

NS = 1_000_000_000
BOOT_NS = 1_700_000_000 * NS


def shown(**changes: Any) -> str:
    event: Any = {"event": "exec", "seq": 1, "time_ns": BOOT_NS, "pid": 7, "comm": "sh", "argv": ["sh", "-x"]} | changes
    return event_line(event, None).plain[13:]


def test_the_cause_of_an_exit_is_shown_in_words() -> None:
    times = {"event": "exit", "start_time_ns": BOOT_NS, "exit_time_ns": BOOT_NS + 1_500_000_000}
    assert shown(exit_code=3, exit_cause="exited", exit_cause_code=3, **times) == (
        "- exit       7  sh -x  [code 3 after 1.5 s]"
    )
    assert "[signal 9 (SIGKILL) after 1.5 s]" in shown(exit_code=9, exit_cause="signaled", exit_cause_code=9, **times)
    assert "[ended]" in shown(event="exit", exit_code=None, start_time_ns=None)


def test_a_fork_shows_the_name_that_the_child_has_from_its_parent() -> None:
    assert shown(event="fork") == "+ fork       7  sh"
    lineage = [{"pid": 6, "comm": "sh", "path": "/usr/bin/dash"}]
    assert shown(event="fork", path="/usr/bin/dash", lineage=lineage) == "+ fork       7  sh < sh(6)"


def test_a_change_shows_what_changed() -> None:
    assert "user=alice sh -x" in shown(event="cred", user="alice", euser="alice")
    assert "user=alice euser=root sh -x" in shown(event="cred", user="alice", euser="root")
    assert "ppid=1 sh -x" in shown(event="reparent", ppid=1)


def test_a_change_that_a_comparison_found_shows_how_exact_its_time_is() -> None:
    change: Any = {"event": "sid", "sid": 7, "time_ns": BOOT_NS, "changed_after_ns": BOOT_NS - 1_800_000_000}
    assert "sid=7 (up to 1.8 s earlier) sh -x" in shown(**change)
    assert "earlier" not in event_line({**change, "pid": 7, "comm": "sh"}, 60).plain, "no room"
    assert "earlier" not in shown(**change | {"changed_after_ns": None})


def test_earlier_images_of_a_process_are_named_once() -> None:
    images = [(7, "sh"), (7, "py"), (40, "bash"), (40, "login"), (1, "init")]
    lineage = [{"pid": pid, "comm": comm} for pid, comm in images]
    assert shown(lineage=lineage).endswith("  sh -x  (was sh) < bash(40) < init(1)")
    assert shown(event="exit", lineage=lineage).endswith("  [ended] < bash(40) < init(1)")
    assert shown(lineage=None).endswith("  sh -x")


def test_on_a_narrow_screen_an_exec_has_room_for_the_new_program() -> None:
    event: Any = {
        "event": "exec", "time_ns": NS, "pid": 7, "path": "/usr/bin/ssh", "argv": ["ssh", "-o", "Batch=yes", "web1"],
        "lineage": [{"pid": 7, "comm": "ansible"}, {"pid": 40, "comm": "bash"}],
    }  # fmt: skip
    assert event_line(event, 40).cut(40).plain.endswith(" > 7 ssh -o Batch=yes web1")
    assert "(was ansible)" in event_line(event, 100).plain


def test_a_time_without_a_watch_is_a_line_with_times_to_read() -> None:
    event: Any = {"event": "unwatched", "unwatched_from_ns": 5 * NS, "unwatched_to_ns": 65 * NS, "time_ns": 70 * NS}
    line = event_line(event, None).plain
    assert "unwatched" in line and "unwatched_from_ns=1970-01-01" in line and "unwatched_to_ns=1970-01-01" in line


def test_of_a_long_lineage_the_nearest_and_the_last_are_named() -> None:
    images = [{"pid": pid, "comm": f"p{pid}"} for pid in range(20, 0, -1)]
    assert chain(images, 21, named_max=4).plain == "p20(20) < p19(19) < p18(18) < 16 more < p1(1)"
    assert chain(images[:4], 21, named_max=4).plain == "p20(20) < p19(19) < p18(18) < p17(17)"
    assert chain([], 21).plain == ""


def test_no_control_character_of_a_process_is_shown() -> None:
    hostile = "\x1b[2J\r\n\u202e"
    line = shown(argv=[hostile], comm=hostile, lineage=[{"pid": 7, "comm": hostile}, {"pid": 1, "comm": hostile}])
    assert line.isprintable()
    assert shown(pid=None, event="loss", reason=hostile).isprintable()
