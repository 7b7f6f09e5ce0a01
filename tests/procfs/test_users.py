"""Names of ids, also inside other root directories, and what a hostile root directory cannot do."""

from __future__ import annotations

import errno
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.procfs import rooted, users
from pipeline.procfs.users import FILE_BYTES, HOST, Kind, UserNames, read_names
from tests.procfs.name_files import parse_names
from tests.procfs.roots import UNSHARED, needs_root, process_in
from tests.procfs.strangers import stranger


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class Host:
    """A name service that counts its calls."""

    def __init__(self, **names: int) -> None:
        self.names = {number: name for name, number in names.items()}
        self.calls: list[tuple[Kind, int]] = []

    def __call__(self, kind: Kind, number: int) -> str:
        self.calls.append((kind, number))
        return self.names[number]


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_host_names_are_the_name_services() -> None:
    names = UserNames()
    assert names.user(os.getuid()) == pwd.getpwuid(os.getuid()).pw_name
    assert names.group(0) == "root"
    assert names.user(4_000_000_000) == "" == names.user(1 << 70)


def test_names_are_believed_for_a_while() -> None:
    clock, host = Clock(), Host(alice=1000)
    names = UserNames(clock=clock, host=host, ttl_ns=100, miss_ttl_ns=10)
    assert names.cached("user", 1000) is None
    assert [names.user(1000), names.user(1000), names.cached("user", 1000)] == ["alice"] * 3
    assert len(host.calls) == 1
    host.names[1000] = "renamed"
    clock.now = 99
    assert names.user(1000) == "alice"
    clock.now = 100
    assert names.cached("user", 1000) is None and names.user(1000) == "renamed"


def test_missing_name_is_asked_for_again_sooner() -> None:
    clock, host = Clock(), Host()
    names = UserNames(clock=clock, host=host, ttl_ns=100, miss_ttl_ns=10)
    assert names.user(1) == names.user(1) == "" and len(host.calls) == 1
    host.names[1] = "late"
    clock.now = 10
    assert names.user(1) == "late"


def test_user_and_group_with_the_same_number_have_different_names() -> None:
    names = UserNames(host=lambda kind, number: kind)
    assert (names.user(5), names.group(5)) == ("user", "group")


def test_a_failing_name_service_returns_no_name() -> None:
    def broken(kind: Kind, number: int) -> str:
        raise OSError(errno.EIO, "name service")

    assert UserNames(host=broken).user(1) == ""


def test_least_recently_used_id_leaves() -> None:
    host = Host(a=1, b=2, c=3)
    names = UserNames(host=host, capacity=2)
    for number in (1, 2, 1, 3):
        names.user(number)
    assert names.cached("user", 1) == "a" and names.cached("user", 2) is None


@needs_root
def test_container_has_names_of_its_own(root: Path) -> None:
    before = open_fds()
    names = UserNames(host=Host(alice=1000))
    with process_in(root) as tgid:
        assert names.user(1000, tgid, view=7) == "app"
        assert names.group(1000, tgid, view=7) == "appgroup"
        assert names.user(5, tgid, view=7) == "", "never the host's"
    assert names.user(1000, tgid, view=7) == "app", "cached beyond the process"
    assert names.user(1000) == "alice" and names.cached("user", 1000, HOST) == "alice"
    names.forget(7)
    assert names.cached("user", 1000, 7) is None
    assert names.user(1000, tgid, view=7) == "", "gone is unknown"
    assert open_fds() == before


@needs_root
def test_root_without_files_has_no_names(tmp_path: Path) -> None:
    with process_in(tmp_path) as tgid:
        status = tmp_path.stat()
        whole = [(0, 0, 4294967295)]
        assert read_names(tgid) == ({}, {}, whole, whole, (status.st_dev, status.st_ino), 0, False)


@needs_root
@pytest.mark.parametrize(
    "target",
    [
        "/etc/shadow-copy",
        "../../secret/passwd",
        "../../../../../../etc/passwd",
        str(Path("/proc/1", "root", "etc/passwd")),
    ],
)
@pytest.mark.parametrize("is_old_kernel", [False, True])
def test_link_does_not_lead_out_of_the_root(
    root: Path, monkeypatch: pytest.MonkeyPatch, target: str, is_old_kernel: bool
) -> None:
    """Followed from outside, each of these links leads to a file of the host."""
    secret = root.parent / "secret"
    secret.mkdir()
    (secret / "passwd").write_text("stolen:x:1000:1000::/:\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to(target)
    if is_old_kernel:
        forbid_openat2(monkeypatch)
    with process_in(root) as tgid:
        found = read_names(tgid)
    assert found is None or found.user == {}


@needs_root
def test_link_within_the_root_is_followed(root: Path) -> None:
    (root / "usr/lib").mkdir(parents=True)
    (root / "etc/passwd").rename(root / "usr/lib/passwd")
    (root / "etc/passwd").symlink_to("/usr/lib/passwd")
    with process_in(root) as tgid:
        found = read_names(tgid)
    assert found is not None and found.user == {0: "root", 1000: "app"}


@needs_root
@pytest.mark.parametrize("is_old_kernel", [False, True])
def test_pipe_or_directory_instead_of_a_file_is_no_names_and_no_wait(
    root: Path, monkeypatch: pytest.MonkeyPatch, is_old_kernel: bool
) -> None:
    for name in ("passwd", "group"):
        (root / "etc" / name).unlink()
    os.mkfifo(root / "etc/passwd")
    (root / "etc/group").mkdir()
    if is_old_kernel:
        forbid_openat2(monkeypatch)
    with process_in(root) as tgid:
        found = read_names(tgid)
    assert found is not None and (found.user, found.group) == ({}, {})


@needs_root
def test_kernel_without_openat2_reads_plain_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_openat2(monkeypatch)
    before = open_fds()
    with process_in(root) as tgid:
        found = read_names(tgid)
    assert found is not None and found.user == {0: "root", 1000: "app"}
    assert open_fds() == before


@needs_root
def test_file_that_is_mounted_over_is_read(root: Path, tmp_path: Path) -> None:
    """With `docker run -v /etc/passwd:/etc/passwd:ro` the file is on another mount than the root."""
    other = tmp_path / "other"
    other.write_text("mounted:x:1000:1000::/:\n")
    # As in a container, the root itself is a mount in another mount namespace.
    script = f'mount --bind {root} {root} && mount --bind {other} {root}/etc/passwd && exec "$@"'
    with process_in(root, "unshare", "--mount", "sh", "-c", script, "sh") as tgid:
        found = read_names(tgid)
    assert found is not None and found.user == {1000: "mounted"} and found.group == {1000: "appgroup"}


@needs_root
def test_file_system_that_might_not_answer_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooted, "_LOCAL_FILE_SYSTEMS", frozenset())
    with process_in(root) as tgid:
        assert read_names(tgid) is None


def test_file_system_types() -> None:
    types = rooted.types_of(
        b"22 1 0:21 / / rw - ext4 /dev/sda rw\n"
        b"23 22 0:22 / /etc rw shared:1 - fuse.sshfs host: rw\n"
        b"24 22 0:23 / /with\\040space rw - nfs4 host:/ rw\n"
        b"25 24 0:24 / /with\\040space rw - tmpfs tmpfs rw\n"
    )
    assert rooted.is_local(types, b"/") and rooted.is_local(types, b"/nothing/mounted")
    assert not rooted.is_local(types, b"/etc")
    assert rooted.is_local(types, b"/with space"), "the last mount covers the others"


@needs_root
def test_user_namespace_turns_ids_round(root: Path) -> None:
    """Kernel id 101000 is 1000 in a namespace that starts at 100000."""
    code = "import os,sys;print(os.getpid(),flush=True);sys.stdin.readline()"
    with subprocess.Popen(
        ["unshare", "--user", sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        Path(f"/proc/{child.pid}/uid_map").write_text("0 100000 65536")
        Path(f"/proc/{child.pid}/gid_map").write_text("0 200000 10\n")
        found = read_names(child.pid)
        child.stdin.close()
    assert found is not None
    assert (found.uid_map, found.gid_map) == ([(0, 100000, 65536)], [(0, 200000, 10)])
    inside = users.RootNames({1000: "app", 0: "root"}, {}, found.uid_map, [], (0, 0))
    assert [users._inside(inside, "user", n) for n in (101000, 100000, 1000, 165536)] == ["app", "root", "", ""]
    assert inside.outside() == ({101000: "app", 100000: "root"}, {})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"", {}),
        (b"a:x:1:1::/:\nb:x:1:1::/:\n", {1: "a"}),
        (b"# comment:x:1\n+nis:x:2\n-no:x:3\nshort:x\n:x:4\nneg:x:-5\nbig:x:4294967296\nok:x:4294967295", {
            4294967295: "ok"}),
        (b"\xff:x:1\n", {1: "\udcff"}),
        (b"long:x:" + b"1" * 5000 + b"\nzeros:x:" + b"0" * 5000 + b"7\nok:x:5\n", {5: "ok", 7: "zeros"}),
        (b"n" * 1000 + b":x:1\n", {1: "n" * 256}),
    ],
)  # fmt: skip
def test_file_format(text: bytes, names: dict[int, str]) -> None:
    assert parse_names(text) == names


_line = st.one_of(
    st.binary(max_size=20).map(lambda junk: junk.replace(b"\n", b"")),
    st.tuples(st.sampled_from([b"a", b"b", b"c", b"", b"#d", b"+e"]), st.integers(-2, 1 << 33)).map(
        lambda each: b"%s:x:%d:1::/:" % each
    ),
)


@given(st.lists(_line, max_size=12))
def test_the_first_name_of_each_id_counts_whatever_is_between(lines: list[bytes]) -> None:
    names: dict[int, str] = {}
    for line in lines:
        name, colon, rest = line.partition(b":")
        number = rest.partition(b":")[2].partition(b":")
        is_entry = colon and rest.count(b":") >= 1 and name and name[:1] not in (b"#", b"+", b"-")
        if is_entry and re.fullmatch(rb"0*[0-9]{1,10}", number[0]) and int(number[0]) < 1 << 32:
            names.setdefault(int(number[0]), name.decode("utf-8", "surrogateescape"))
    assert parse_names(b"\n".join(lines)) == names


def test_cut_file_loses_its_last_line() -> None:
    text = b"a:x:1:\n" + b"b:x:23"
    filler = b"#" * (FILE_BYTES - len(text) - 1) + b"\n"
    assert parse_names(filler + text) == {1: "a"}


@needs_root
def test_large_file_is_read_up_to_the_bound(root: Path) -> None:
    (root / "etc/passwd").write_bytes(b"a:x:1:\n" + b"b" * (3 * FILE_BYTES) + b"\nc:x:2:\n")
    with process_in(root) as tgid:
        found = read_names(tgid)
    assert found is not None and found.user == {1: "a"}


@needs_root
def test_of_many_names_the_first_are_kept(root: Path) -> None:
    (root / "etc/passwd").write_text("".join(f"u{number}:x:{number}:1::/:\n" for number in range(30_000)))
    with process_in(root) as tgid:
        found, whole = read_names(tgid, kept_bytes=users.KEPT_BYTES), read_names(tgid)
    assert found is not None and whole is not None
    assert found.is_cut and 1500 < len(found.user) < users.KEPT_BYTES // users.NAME_OVERHEAD
    assert list(found.user.items()) == list(whole.user.items())[: len(found.user)] and found.user[0] == "u0"
    assert not whole.is_cut and len(whole.user) == 30_000


@needs_root
def test_only_names_of_mapped_ids_are_kept(root: Path) -> None:
    (root / "etc/passwd").write_text("".join(f"u{number}:x:{number}:1::/:\n" for number in range(30_000)))
    code = "import os,sys;os.chroot(sys.argv[1]);print(os.getpid(),flush=True);sys.stdin.readline()"
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", code, root],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        found = read_names(child.pid, kept_bytes=users.KEPT_BYTES)
        child.stdin.close()
    assert found is not None and found.user == {0: "u0"} and not found.is_cut


@pytest.mark.expensive
@needs_root
def test_the_owner_is_the_user_that_made_the_outermost_namespace() -> None:
    """Names are read only from namespaces that root created."""
    code = "import os,sys;print(os.getpid(),flush=True);sys.stdin.readline()"
    for command, user, owner in (
        (["unshare", "-Ur"], 65534, 65534),
        (["unshare", "-Urm"], 65534, 65534),
        (["unshare", "-Ur", "unshare", "-Ur", "unshare", "-Ur"], 65534, 65534),
        (["unshare", "-U"], 0, 0),
        (["unshare", "-Ur"], 0, 0),
        (["unshare", "-m"], 0, 0),
        ([], 65534, 0),
    ):
        with subprocess.Popen(
            [*command, sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=user,
        ) as child:  # fmt: skip
            assert child.stdout is not None and child.stdin is not None
            child.stdout.readline()
            found = read_names(child.pid)
            child.stdin.close()
        assert found is not None and (found.owner, found.is_hosts) == (owner, owner != 0), command
        assert bool(found.user) == bool(found.uid_map) == (owner == 0 and command != ["unshare", "-U"]), command


@needs_root
def test_a_mount_namespace_that_a_user_made_has_no_names_for_root_either() -> None:
    """An administrator may enter one with nsenter."""
    code = "import os,sys;print(os.getpid(),flush=True);sys.stdin.readline()"
    with (
        stranger(["unshare", "-Urm", sys.executable, "-c", code], user=65534) as made,
        stranger(["nsenter", "-t", str(made), "-m", sys.executable, "-c", code]) as tgid,
    ):
        assert Path(f"/proc/{tgid}/ns/user").stat().st_ino == Path("/proc/self/ns/user").stat().st_ino
        found = read_names(tgid)
        assert found is not None and (found.owner, found.user, found.is_hosts) == (65534, {}, True)
        assert read_names(tgid, is_host=True) is not None


@needs_root
def test_in_namespaces_that_a_user_made_the_hosts_names_count(root: Path) -> None:
    names = UserNames(host=Host(alice=1000, nobody=65534))
    with stranger(UNSHARED, user=65534) as tgid:
        assert [names.user(uid, tgid, view=7) for uid in (0, 1000, 65534)] == ["", "alice", "nobody"]
        # Other processes with the same view may be in the container's own user namespace.
        with process_in(root) as other:
            assert names.user(1000, other, view=7) == "app"


def test_views_are_bounded() -> None:
    names = UserNames("/nonexistent", views=2)
    for view in (1, 2, 3):
        assert names.user(0, 1, view) == ""
    assert len(names._views) == 2


def forbid_openat2(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(rooted, "openat2", refused)
