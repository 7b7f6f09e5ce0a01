"""Names of multi-call binaries."""

from __future__ import annotations

import pytest

from pipeline.shm.names.symlinks import is_busybox, symlink_names


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/bin/busybox", True), ("/usr/bin/busybox", True), ("/sbin/busybox", False), ("busybox", False), ("", False)],
)
def test_busybox_is_recognised_at_its_two_places(path: str, expected: bool) -> None:
    assert is_busybox(path) is expected


def test_an_invoked_name_has_two_paths() -> None:
    assert symlink_names("/bin/busybox", "/bin/ls") == (("/bin/ls", "/usr/bin/ls"), "ls")
    assert symlink_names("/usr/bin/busybox", "ls") == (("/bin/ls", "/usr/bin/ls"), "ls")


def test_link_that_the_kernel_followed_counts_for_any_binary() -> None:
    assert symlink_names("/usr/bin/vim.basic", "/usr/bin/vi", is_through_symlink=True) is not None
    assert symlink_names("/usr/bin/vim.basic", "/usr/bin/vi") is None


def test_without_a_name_there_is_none() -> None:
    assert symlink_names("/bin/busybox", "") is None
    assert symlink_names("/bin/busybox", "/bin/") is None
