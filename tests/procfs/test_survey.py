"""The survey: a process that both passes show alike needs one file of /proc; a changed process is read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipeline.host.alive import watched
from pipeline.host.boot import TICK_NS
from pipeline.procfs.info import ProcInfo
from pipeline.procfs.proc_reader import WANT_ALL, WANT_DEFAULT, WANT_ENVS, Area
from pipeline.procfs.survey import Survey, survey
from pipeline.records import declared, dtypes

SET = 1 << 63 | 5  # number of a set of cgroups of version 1


@dataclass
class Host:
    """Processes by pid, as `/proc` (this object is the reader) and a task iterator show them."""

    passes: list[list[dict]]  #: for each pass of the iterator, what it shows; the last one is repeated
    args: dict[int, bytes] = field(default_factory=dict)
    envs: dict[int, bytes] = field(default_factory=dict)
    cwds: dict[int, bytes] = field(default_factory=dict)
    infos: dict[int, ProcInfo] = field(default_factory=dict)
    limit: int = 100
    asked: list[int] = field(default_factory=list)  #: pids that were read again

    def iterate(self) -> Tasks:
        return Tasks(self.passes[0] if len(self.passes) == 1 else self.passes.pop(0))

    def read_images(
        self, tgids: np.ndarray, want: int, show_life: Callable[[], object]
    ) -> tuple[list[Area | None], list[Area | None], list[tuple[bytes | None, ...]]]:
        pids = list(watched(tgids.tolist(), show_life))
        envs = self.envs if want & WANT_ENVS else {}
        return (
            [self._area(self.args.get(pid)) for pid in pids], [self._area(envs.get(pid)) for pid in pids],
            [(self.cwds.get(pid),) for pid in pids],
        )  # fmt: skip

    def _area(self, text: bytes | None) -> Area | None:
        return None if text is None else Area(text[: self.limit], len(text) > self.limit)

    def read(self, tgid: int, want: int) -> ProcInfo | None:
        self.asked.append(tgid)
        return self.infos.get(tgid)

    def list_pids(self) -> np.ndarray:
        return np.array(sorted({row["tgid"] for row in self.passes[-1]} | set(self.infos)), np.uint32)

    def survey(self, want: int = WANT_DEFAULT) -> Survey:
        return survey(self, self.iterate, lambda: 1, want)  # type: ignore[arg-type]


class Tasks:
    def __init__(self, rows: list[dict]) -> None:
        columns = [np.zeros(len(rows), dtype) for dtype in (dtypes.HEADER, dtypes.TASK, dtypes.EXEC)]
        self.paths = [row.get("path", b"/bin/a") for row in rows]
        for i, row in enumerate(rows):
            for column in columns:
                for name in set(row) & set(column.dtype.names or ()):
                    column[name][i] = row[name]
        self.header, self.task, self.exec = columns


def process(tgid: int, **facts: object) -> dict:
    return {"tgid": tgid, "start_boot_ns": tgid * TICK_NS + 1, "comm": b"a", "inode": 7, "args_full_bytes": 300} | facts


def info(tgid: int, **facts: object) -> ProcInfo:
    known = {
        "tgid": tgid, "ppid": 1, "start_ticks": tgid, "start_boot_ns": tgid * TICK_NS, "comm": b"a", "state": "S",
        "task_flags": 0, "thread_count": 1, "pgid": 0, "sid": 0, "tty": b"",
    }  # fmt: skip
    return ProcInfo(**(known | facts))  # type: ignore[arg-type]


def pieces(result: Survey, i: int = 0) -> list[bytes]:
    """Path, name, args and envs."""
    found, at = [], 0
    for name in ("path_bytes", "name_bytes", "args_bytes", "envs_bytes"):
        found.append(result.strings[i][at : at + int(result.exec[name][i])])
        at += int(result.exec[name][i])
    assert at == len(result.strings[i]) == result.header["var_bytes"][i]
    return found


def test_the_working_directory_follows_the_name() -> None:
    later = process(6, comm=b"b")
    host = Host(
        [[process(5), process(6), process(7)], [process(5), later, process(7)]],
        args={5: b"a\0", 6: b"a\0", 7: b"a\0"}, cwds={5: b"/srv", 6: b"/stale"},
        infos={6: info(6, argv=b"b\0", directories=(b"/new",))},
    )  # fmt: skip
    result = host.survey()
    assert [pieces(result, i)[1] for i in range(3)] == [b"\0/srv", b"\0/new", b""]


def test_a_process_that_two_passes_show_alike_is_not_read_again() -> None:
    host = Host([[process(5), process(6)]], args={5: b"a\0b\0", 6: b"a\0"})
    result = host.survey()
    assert host.asked == []
    assert pieces(result) == [b"/bin/a", b"", b"a\0b\0", b""]
    assert (result.exec["argc"].tolist(), result.exec["args_full_bytes"].tolist()) == ([2, 1], [4, 2])
    assert result.exec["exec_flags"].tolist() == [declared.EXEC_ENVS_UNREADABLE] * 2
    assert result.is_exact.all()


def test_the_kernel_reports_the_length_of_cut_arguments() -> None:
    host = Host([[process(5)]], args={5: b"x" * 299 + b"\0"})
    result = host.survey()
    assert (result.exec["args_bytes"][0], result.exec["args_full_bytes"][0]) == (100, 300)
    assert result.exec["exec_flags"][0] & declared.EXEC_ARGS_TRUNCATED


def test_environments_are_read_where_they_are_wanted() -> None:
    host = Host([[process(5)]], args={5: b"a\0"}, envs={5: b"A=1\0B=2\0"})
    result = host.survey(WANT_ALL)
    assert pieces(result)[3] == b"A=1\0B=2\0"
    assert (result.exec["envc"][0], result.exec["exec_flags"][0]) == (2, 0)


def test_an_image_that_is_another_one_in_the_later_pass_is_read_closely() -> None:
    """An exec between the passes: it is unknown which image the arguments belong to."""
    before = [process(pid) for pid in range(5, 9)]
    after = [process(5, inode=8), process(6, comm=b"b"), process(7, start_boot_ns=9 * TICK_NS), process(8)]
    host = Host([before, after], args=dict.fromkeys(range(5, 9), b"?\0"))
    host.infos = {5: info(5, argv=b"new\0", args_full_bytes=4), 6: info(6), 7: info(7, start_ticks=9, argv=b"other\0")}
    result = host.survey()
    assert host.asked == [5, 6, 7]
    assert [pieces(result, i)[2] for i in range(4)] == [b"new\0", b"", b"", b"?\0"]
    unreadable = (result.exec["exec_flags"] & declared.EXEC_ARGS_UNREADABLE) != 0
    assert unreadable.tolist() == [False, True, True, False]


def test_a_process_that_is_missing_in_the_second_pass_stays_in_the_survey() -> None:
    """An event reports its exit, or the next comparison finds it."""
    for left in ([], [process(9)]):
        host = Host([[process(5)], left], args={5: b"a\0"})
        result = host.survey()
        assert result.header["tgid"].tolist()[0] == 5
        assert result.exec["exec_flags"][0] & declared.EXEC_ARGS_UNREADABLE


def test_a_process_without_arguments_or_path_is_read_again() -> None:
    """A process in the middle of an exec has no arguments."""
    host = Host([[process(5), process(6, path=b""), process(7)]], args={5: b"", 6: b"a\0"})
    host.infos = {5: info(5, argv=b"late\0", args_full_bytes=4)}
    result = host.survey()
    assert host.asked == [5, 6, 7]
    assert pieces(result)[2] == b"late\0"


def test_a_script_is_recognised_by_its_name() -> None:
    host = Host(
        [[process(5, path=b"/bin/sh", comm=b"run.sh"), process(6, path=b"/bin/sh", comm=b"sh")]],
        args=dict.fromkeys((5, 6), b"/bin/sh\0-e\0/opt/run.sh\0x\0"),
    )
    result = host.survey()
    assert [pieces(result, i)[1] for i in (0, 1)] == [b"/opt/run.sh", b""]
    assert ((result.exec["exec_flags"] & declared.EXEC_SCRIPT) != 0).tolist() == [True, False]
    assert host.asked == []


def test_one_process_of_each_cgroup_is_asked_for_its_name() -> None:
    rows = [process(pid, cgroup_id=40 + pid % 2, cgroups_v1=SET) for pid in range(10, 20)]
    host = Host([rows], args=dict.fromkeys(range(10, 20), b"a\0"))
    host.infos = {
        pid: info(pid, cgroup_id=40 + pid % 2, cgroup_path=b"/%d" % (pid % 2), cgroups_v1=SET, cgroup=b"1:cpu:/x\n")
        for pid in range(10, 20)
    }
    assert host.survey().cgroup_paths == {40: b"/0", 41: b"/1", SET: b"1:cpu:/x\n"}
    assert host.asked == [10, 11]


def test_after_a_move_another_process_names_the_cgroup() -> None:
    host = Host([[process(pid, cgroup_id=40) for pid in range(10, 20)]], args=dict.fromkeys(range(10, 20), b"a\0"))
    host.infos = {pid: info(pid, cgroup_id=41, cgroup_path=b"/new") for pid in range(10, 20)}
    host.infos[11] = info(11, cgroup_id=40, cgroup_path=b"/old")
    assert host.survey().cgroup_paths == {41: b"/new", 40: b"/old"}
    assert host.asked == [10, 11]
    del host.infos[11]
    host.asked.clear()
    host.survey()
    assert host.asked == [10, 11, 12]  # the number is unknown: no more than these are asked


def test_a_process_that_the_iterator_hides_comes_from_proc() -> None:
    host = Host([[process(5)]], args={5: b"a\0"}, infos={1: info(1, exe=b"/sbin/init", argv=b"init\0")})
    result = host.survey()
    assert result.header["tgid"].tolist() == [1, 5]
    assert result.is_exact.tolist() == [False, True]
    assert pieces(result)[:3] == [b"/sbin/init", b"", b"init\0"]


def test_a_survey_shows_life_at_each_process() -> None:
    signs: list[None] = []
    rows = [{"tgid": pid, "start_boot_ns": pid, "cgroup_id": 9} for pid in range(1, 101)]
    host = Host([rows], args=dict.fromkeys(range(1, 101), b"x\0"))
    result = survey(host, host.iterate, lambda: 1, show_life=lambda: signs.append(None))  # type: ignore[arg-type]
    assert len(result) == 100
    assert len(signs) >= 2 * 100
