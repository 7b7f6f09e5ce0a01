"""Secrets are hidden in frames and in surveys before anything is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bus.frames.frame import Frame, FrameEncoder, decode_frame
from pipeline.config.schema import Args, Config, Envs
from pipeline.records import declared, dtypes
from pipeline.records.limits import MERGE_SLACK_NS
from pipeline.resolver.apply._applier import ADDED, Applier
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.entry_rows import Book
from pipeline.resolver.merge._merger import Merger
from pipeline.secrets._conceal import Literals, digest, digests_of
from pipeline.secrets.conceal import Concealer, digest_of, scrubber_of
from pipeline.secrets.scrub import Scrubber
from tests.record_sizes import PLAIN_BYTES
from tests.resolver.story import Event, Story, instance, make_tables, task_of
from tests.resolver.story import frame_of as frame_of_events

BOOT = bytes(16)


def is_suspected(args: bytes, literals: Literals) -> bool:
    """Whether arguments may have something to hide, because one of the literals is in them."""
    execs = np.zeros(1, dtypes.EXEC)
    execs["args_bytes"] = len(args)
    _, suspected = digests_of(execs.view(np.uint8), [args], literals, False)
    return suspected == [0]


def frame_of(processes: list[tuple[bytes, bytes, bytes, bytes]]) -> Frame:
    """Return a frame with an exec record for each (path, name, args, envs), and a fork between them."""
    n = 2 * len(processes)
    header, task = np.zeros(n, dtypes.HEADER), np.zeros(n, dtypes.TASK)
    fork, body = np.zeros(len(processes), dtypes.FORK), np.zeros(len(processes), dtypes.EXEC)
    blob = b""
    for i, strings in enumerate(processes):
        header[2 * i]["kind"], header[2 * i + 1]["kind"] = declared.KIND_FORK, declared.KIND_EXEC
        header[2 * i + 1]["var_bytes"] = sum(map(len, strings))
        for name, text in zip(("path_bytes", "name_bytes", "args_bytes", "envs_bytes"), strings, strict=True):
            body[i][name] = len(text)
        blob += b"".join(strings)
    header["record_bytes"] = PLAIN_BYTES + np.where(header["kind"] == declared.KIND_FORK, 32, 128) + header["var_bytes"]
    header["ring_pos"] = np.cumsum((header["record_bytes"] + 15) // 8 * 8, dtype=np.uint64) - (
        (header["record_bytes"] + 15) // 8 * 8
    )
    end = int(header["ring_pos"][-1]) + int(header["record_bytes"][-1] + 15) // 8 * 8
    data = FrameEncoder(boot_id=BOOT, source="test").encode(
        ring=0, seq=0, from_pos=0, to_pos=end, count=n, lost={}, malformed=0, header=header.tobytes(),
        task=task.tobytes(), fork=fork.tobytes(), exec=body.tobytes(), exit=b"", blob=blob,
    )  # fmt: skip
    return decode_frame(data)


def strings_of(frame: Frame) -> list[tuple[bytes, bytes, bytes, bytes]]:
    found, at = [], 0
    for body in frame.exec:
        parts = []
        for name in ("path_bytes", "name_bytes", "args_bytes", "envs_bytes"):
            parts.append(bytes(frame.blob[at : at + int(body[name])]))
            at += int(body[name])
        found.append(tuple(parts))
    assert at == len(frame.blob)
    return found


def concealer(**options: object) -> Concealer:
    scrubber = Scrubber()
    return Concealer(scrubber.scrub_argv, scrubber.literals, scrubber.program_names, **options)  # type: ignore[arg-type]


def test_secrets_are_hidden_and_everything_else_is_as_before() -> None:
    plain = (b"/bin/ls", b"ls", b"ls\0-l\0", b"")
    secret = (b"/bin/p", b"p", b"p\0--password=hunter2\0-x\0", b"A=1\0PATH=/bin\0")
    frame = frame_of([plain, secret, plain])
    hidden = concealer(show_values=("PATH",)).sieve.frame(frame)
    assert strings_of(hidden) == [plain, (b"/bin/p", b"p", b"p\0--password=********\0-x\0", b"A\0PATH=/bin\0"), plain]
    assert hidden.header["var_bytes"].sum() == len(hidden.blob)
    assert b"hunter2" not in bytes(hidden.blob)
    # The original frame is a view of a message and must not change.
    assert strings_of(frame)[1] == secret


def test_a_frame_without_secrets_is_handed_on_itself() -> None:
    frame = frame_of([(b"/bin/ls", b"ls", b"ls\0-l\0", b"")])
    assert concealer().sieve.frame(frame) is frame


@pytest.mark.parametrize("is_raw", [False, True])
def test_the_client_from_sshd_is_passed_on_and_removed(is_raw: bool) -> None:
    ssh = b"SSH_CLIENT=192.0.2.7 1 22\0\0"
    plain = (b"/bin/ls", b"ls", b"ls\0", b"")
    frame = frame_of(
        [plain, (b"/bin/a", b"a", b"a\0", ssh), (b"/bin/b", b"b", b"b\0", b"A=1\0PATH=/bin\0" + ssh), plain]
    )
    told_of = with_ssh_bytes(frame, 0, len(ssh), len(ssh), 0)
    frame = frame.replaced(frame.header.tobytes(), told_of, bytes(frame.blob), bytes(32))
    told: list[tuple[int, int, bytes]] = []

    def hiding(on_ssh_exec: Callable[[int, int, bytes], None] | None = None) -> Concealer:
        if is_raw:
            return Concealer(None, show_values=("PATH",), on_ssh_exec=on_ssh_exec)
        return concealer(show_values=("PATH",), on_ssh_exec=on_ssh_exec)

    hides = hiding(lambda *what: told.append(what))
    hidden = hides.sieve.frame(frame)
    assert strings_of(hidden) == [
        plain, (b"/bin/a", b"a", b"a\0", b""), (b"/bin/b", b"b", b"b\0", b"A\0PATH=/bin\0"), plain,
    ]  # fmt: skip
    assert hidden.header["var_bytes"].sum() == len(hidden.blob) and not hidden.exec["ssh_bytes"].any()
    assert told == [(0, 0, ssh), (0, 0, ssh)]
    # Without a receiver the facts are dropped too. A record that claims more bytes than it has is cut, and nothing else
    # changes.
    hides = hiding()
    assert strings_of(hides.sieve.frame(frame)) == strings_of(hidden)
    lying = frame.replaced(frame.header.tobytes(), with_ssh_bytes(frame, 9, 900, 9, 0), bytes(frame.blob), bytes(32))
    assert [strings[2] for strings in strings_of(hides.sieve.frame(lying))] == [b"ls\0", b"a\0", b"b\0", b"ls\0"]


def with_ssh_bytes(frame: Frame, *ssh_bytes: int) -> bytes:
    exec_ = frame.exec.copy()
    exec_["ssh_bytes"] = ssh_bytes
    return exec_.tobytes()


def test_raw_arguments_are_kept_and_environments_are_not() -> None:
    frame = frame_of([(b"/p", b"p", b"p\0--password=x\0", b"TOKEN=x\0")])
    assert strings_of(Concealer(None).sieve.frame(frame)) == [(b"/p", b"p", b"p\0--password=x\0", b"TOKEN\0")]


@pytest.mark.parametrize(
    ("show", "stored"),
    [("names", b"TOKEN\0PATH\0"), ("listed", b"TOKEN\0PATH=/bin\0"), ("all", b"TOKEN=x\0PATH=/bin\0")],
)
@pytest.mark.parametrize("args_show", ["scrubbed", "raw", "none"])
def test_the_setting_decides_which_variables_keep_their_value(
    show: Literal["names", "listed", "all"], stored: bytes, args_show: Literal["scrubbed", "raw", "none"]
) -> None:
    """This holds for records and for a survey. Arguments are hidden independently of the setting."""
    config = Config(args=Args(show=args_show), envs=Envs(show=show, show_values=("PATH",)))
    made = Concealer.of(config, scrubber_of(config))
    ssh = b"SSH_CLIENT=192.0.2.7 1 22\0"
    frame = frame_of([(b"/p", b"p", b"p\0--password=x\0", b"TOKEN=x\0PATH=/bin\0" + ssh)])
    frame = frame.replaced(frame.header.tobytes(), with_ssh_bytes(frame, len(ssh)), bytes(frame.blob), bytes(8))
    args = {"scrubbed": b"p\0--password=********\0", "raw": b"p\0--password=x\0", "none": b"p\0"}[args_show]
    assert strings_of(made.sieve.frame(frame)) == [(b"/p", b"p", args, stored)]
    assert made.strings(b"p\0--password=x\0", b"TOKEN=x\0PATH=/bin\0") == (args, stored)


def test_none_keeps_the_program_alone() -> None:
    frame = frame_of([(b"/p", b"p", b"p\0a\0b\0", b"")])
    assert strings_of(Concealer(Scrubber(mode="none").scrub_argv).sieve.frame(frame)) == [(b"/p", b"p", b"p\0", b"")]


def test_surveys_are_concealed_in_place() -> None:
    body = np.zeros(1, dtypes.EXEC)
    text = b"/p" + b"p" + b"p\0--password=x\0" + b"TOKEN=x\0"
    body["path_bytes"], body["name_bytes"], body["args_bytes"], body["envs_bytes"] = 2, 1, 15, 8
    survey = SimpleNamespace(strings=[text], exec=body, header=np.zeros(1, dtypes.HEADER))
    concealer().survey(survey)  # type: ignore[arg-type]
    assert survey.strings == [b"/pp" + b"p\0--password=********\0" + b"TOKEN\0"]
    assert int(survey.header["var_bytes"][0]) == len(survey.strings[0])
    assert (int(body["args_bytes"][0]), int(body["envs_bytes"][0])) == (22, 6)
    assert survey.digests == [digest(b"p\0--password=x\0", b"TOKEN=x\0")], "of what it was"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"", b"/p"]), st.sampled_from([b"", b"p\0a\0", b"p\0--password=x\0"]),
            st.sampled_from([b"", b"A=1\0"]),
            st.sampled_from([
                0, declared.EXEC_ARGS_TRUNCATED, declared.EXEC_ARGS_UNREADABLE, declared.EXEC_ENVS_TRUNCATED,
                declared.EXEC_ENVS_UNREADABLE,
            ]),
        )
    ),
    st.booleans(),
)  # fmt: skip
def test_digests_of_a_survey_are_those_of_single_records(
    rows: list[tuple[bytes, bytes, bytes, int]], hides_envs: bool
) -> None:
    body = np.zeros(len(rows), dtypes.EXEC)
    for i, (path, args, envs, flags) in enumerate(rows):
        body["path_bytes"][i], body["args_bytes"][i], body["envs_bytes"][i] = len(path), len(args), len(envs)
        body["exec_flags"][i] = flags
    strings = [path + args + envs for path, args, envs, _ in rows]
    found, suspected = digests_of(body.view(np.uint8), strings, Literals([b"password"]), hides_envs)
    assert found == [digest_of(body[i], args, envs) for i, (_, args, envs, _) in enumerate(rows)]
    assert suspected == [i for i, (_, args, envs, _) in enumerate(rows) if b"password" in args or (envs and hides_envs)]
    assert digests_of(body.view(np.uint8), strings, None, False) == (found, [])


def test_a_survey_whose_strings_are_too_short_is_rejected() -> None:
    body = np.zeros(1, dtypes.EXEC)
    body["args_bytes"] = 3
    with pytest.raises(ValueError, match="shorter than the record says"):
        digests_of(body.view(np.uint8), [b"p\0"], None, False)
    with pytest.raises(ValueError, match="different lengths"):
        digests_of(body.view(np.uint8), [], None, False)


@given(
    st.lists(st.sampled_from([b"password", b"ab", b"abc", b"Token", b"://"]), max_size=4),
    st.lists(st.sampled_from([b"mysql", b"oc", b"curl"]), max_size=3),
    st.lists(
        st.sampled_from([b"PassWord", b"abc", b"a", b"b", b"mysql", b"/", b"\0", b"_", b"OC", b" ", b":", b"://"])
    ),
)
def test_literals_are_found_as_a_search_finds_them(
    anywhere: list[bytes], words: list[bytes], text: list[bytes]
) -> None:
    joined = b"".join(text)
    lower = joined.lower()

    def is_word(word: bytes) -> bool:
        start = lower.find(word)
        while start >= 0:
            around = lower[max(start - 1, 0) : start] + lower[start + len(word) : start + len(word) + 1]
            if not any(bytes([c]).isalnum() or c == ord("_") for c in around):
                return True
            start = lower.find(word, start + 1)
        return False

    expected = any(one.lower() in lower for one in anywhere) or any(
        is_word(word) for word in words if word not in {one.lower() for one in anywhere}
    )
    assert is_suspected(joined, Literals(anywhere, words)) == expected


@pytest.mark.parametrize(
    "argv",
    [
        b"p\0--password=x\0", b"mysql\0-px\0", b"sh\0-c\0mysql -px db\0", b"curl\0-u\0a:b\0", b"p\0http://a:b@c\0",
        b"sh\0-c\0a;mysql\t-px\0", b"curl\0-su\0a:b\0", b"[p: -b amqp://u:x@h]\0", b"mysql -px\0", b"p\0--pwd\0x\0",
        b"p\0pass=x\0", b'p\0{"pass":"x"}\0', b"p\0--private-key\0abcdefgh\0", b"htpasswd\0-b\0f\0u\0x\0",
    ],
)  # fmt: skip
def test_the_fast_filter_misses_nothing_that_the_scrubber_hides(argv: bytes) -> None:
    scrubber = Scrubber()
    assert scrubber.scrub_argv(argv) != argv
    assert is_suspected(argv, Literals(scrubber.literals, scrubber.program_names))


def test_a_digest_depends_on_the_hidden_values() -> None:
    some = [
        (b"x\0", b"A=1\0"), (b"x\0", b"A=2\0"), (b"y\0", b"A=1\0"), (b"x\0A=1\0", b""), (b"", b"x\0A=1\0"),
        (b"x\0", None), (None, b"x\0"), (b"x\0", b""), (b"", b""), (None, None), (b"", None), (None, b""),
    ]  # fmt: skip
    digests = [digest(*strings) for strings in some]
    assert len(set(digests)) == len(some) and 0 not in digests
    assert digests == [digest(*strings) for strings in some]


# -- images that differ only in hidden strings --------------------------------------------------------------------


class Live:
    """Tables to which frames are applied as in the daemon: concealed, merged, in batches."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.tables = make_tables(directory, ring_count=1)
        self.applier = Applier(self.tables)
        self.book = Book(self.tables, self.applier, 0)
        self.merger = Merger(1, stall_ms=1e9, hold_ms=1e9)
        self.concealer = concealer(**options)
        self.story = Story()
        self.story.begin(1, inode=10)
        self.told = 0

    def apply(self, *happened: Event, since: int = 0) -> None:
        """Apply a frame.

        `since`: number of events that were seen before; the merger uses only the part of the frame after them.
        """
        position = int(self.merger.received_pos[0])
        frame = self.concealer.sieve.frame(frame_of_events(happened, ring=0, from_pos=position, seq=self.told))
        self.told += len(happened)
        if since:
            self.merger.resume(frame.header["ring_pos"][since : since + 1].copy(), np.zeros(1, np.uint64), 0)
        self.merger.add(frame)
        self.merger.advance(self.story.tick() + MERGE_SLACK_NS + 1, self.merger.received_pos)
        batch = self.merger.take(8192)
        assert batch is not None
        self.applier.apply(batch)
        self.merger.done(batch)

    def entry(self, tgid: int) -> ProcessCacheEntry:
        found = self.book.head(tgid)
        assert found is not None
        return found

    def find_in_proc(self, tgid: int, args: bytes, *, envs: bytes | None = None) -> ProcessCacheEntry:
        """Add a process for which there was no event, as a survey does."""
        process = self.story.processes[tgid]
        path, body = process.paths[-1], np.zeros(1, dtypes.EXEC)
        body["inode"], body["path_bytes"] = process.inode, len(path)
        body["args_bytes"] = body["args_full_bytes"] = len(args)
        body["envs_bytes"] = body["envs_full_bytes"] = len(envs or b"")
        body["exec_flags"] = declared.EXEC_ENVS_UNREADABLE if envs is None else 0
        header = np.zeros(1, dtypes.HEADER)
        header["tgid"] = header["tid"] = tgid
        header["start_boot_ns"], header["time_boot_ns"] = process.start, self.story.tick()
        assert process.parent is not None
        header["ppid"], header["parent_start_boot_ns"] = process.parent.tgid, process.parent.start
        look = SimpleNamespace(strings=[path + args + (envs or b"")], exec=body, header=header)
        self.concealer.survey(look)  # type: ignore[arg-type]
        result = self.applier.insert_from_proc(
            header,
            task_of(process),
            body,
            look.strings[0],
            digest=look.digests[0],  # type: ignore[attr-defined]
        )
        assert result == ADDED
        return self.entry(tgid)


@pytest.fixture
def live() -> Iterator[Live]:
    with instance() as directory:
        made = Live(directory)
        yield made
        made.tables.close()


def secret(value: bytes) -> list[bytes]:
    return [b"p", b"--password=" + value]


@pytest.mark.parametrize("since", [0, 3])
def test_hidden_values_distinguish_images_of_live_frames(live: Live, since: int) -> None:
    """Also if only a part of a frame is used, as after a restart."""
    story = live.story
    seen = [story.fork(1, 9), story.exec(9, args=secret(b"z")), story.exec(9, args=secret(b"y"))]
    forks = [story.fork(1, pid) for pid in (2, 3, 4, 5)]
    execs = [story.exec(pid, args=secret(value)) for pid, value in ((2, b"a"), (3, b"b"), (4, b"a"))]
    execs.insert(1, story.exec(5, args=[b"p", b"plain"]))
    live.apply(*seen, *forks, *execs, since=since)
    one, other, same, plain = (live.entry(pid) for pid in (2, 3, 4, 5))
    assert one.args_entry is not None and one.args_entry.values == ["p", "--password=********"]
    assert not one.equals(other) and not other.equals(one) and one.equals(same)
    assert not plain.equals(one)
    # A fork shares its parent's strings.
    live.apply(story.fork(2, 6), story.exec(3, args=secret(b"a")), story.exec(5, args=[b"p", b"plain"]))
    assert live.entry(6).equals(one) and live.entry(3).equals(one)
    assert live.entry(5).equals(plain) and not live.entry(5).equals(one)


@pytest.mark.parametrize("flag", [declared.EXEC_ARGS_UNREADABLE, declared.EXEC_ENVS_UNREADABLE])
@pytest.mark.parametrize("variable", [b"A", b"A=1"], ids=["nothing hidden", "something hidden"])
def test_execs_of_which_something_could_not_be_read_are_not_the_same(live: Live, flag: int, variable: bytes) -> None:
    story = live.story
    live.apply(story.fork(1, 2))
    for images in (2, 3):
        told = story.exec(2, args=[b"p"], envs=[variable])
        assert told.body is not None
        told.body["exec_flags"] = flag
        live.apply(told)
        assert live.tables.hot_view()["images"][live.tables.py_head(2)] == images


def test_hidden_variables_distinguish_images(live: Live) -> None:
    story = live.story
    live.apply(*(story.fork(1, pid) for pid in (2, 3, 4)))
    live.apply(*(story.exec(pid, envs=[b"A=" + value]) for pid, value in ((2, b"1"), (3, b"2"), (4, b"1"))))
    one, other, same = (live.entry(pid) for pid in (2, 3, 4))
    assert one.envs_entry is not None and one.envs_entry.values == ["A"]
    assert not one.equals(other) and one.equals(same)


@pytest.mark.parametrize(
    ("args", "is_exec"), [(secret(b"a"), False), (secret(b"b"), True), ([b"p", b"--password=********"], True)]
)
def test_a_process_from_proc_is_compared_with_a_parent_from_an_event(
    live: Live, args: list[bytes], is_exec: bool
) -> None:
    """Specification 3.3.9. Environments are not captured: the event has only their length, and a survey has nothing."""
    story = live.story
    live.apply(story.fork(1, 2))
    live.apply(story.exec(2, args=secret(b"a"), envs=[b"A=1"], kept_envs_bytes=0))
    story.fork(2, 3)  # lost
    story.processes[3].paths.append(b"/bin/true")
    assert live.find_in_proc(3, b"".join(arg + b"\0" for arg in args)).is_exec is is_exec


def test_an_uncaptured_environment_is_no_difference(live: Live) -> None:
    story = live.story
    live.apply(story.fork(1, 2))
    live.apply(story.exec(2, args=[b"p", b"plain"], envs=[b"A=1"], kept_envs_bytes=0))
    story.fork(2, 3)
    story.processes[3].paths.append(b"/bin/true")
    child = live.find_in_proc(3, b"p\0plain\0")
    assert not child.is_exec
    # The same for entries, which have no digest any more.
    live.applier.py_forget_digest(live.tables.py_head(3))
    assert child.equals(live.entry(2)) and live.entry(2).equals(child)
    # An environment that is known to be empty differs from one that is unknown.
    story.fork(2, 4)
    story.processes[4].paths.append(b"/bin/true")
    assert live.find_in_proc(4, b"p\0plain\0", envs=b"").is_exec
