"""Paths of an instance's files: where they are, and which names are rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import paths
from pipeline.errors import ConfigError, UnsupportedError


@pytest.mark.parametrize("name", ["default", "a", "web-1.example_2", "x" * 64, "..."])
def test_names_with_one_path_component_are_accepted(name: str) -> None:
    assert paths.check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 65, "naïve", "a\n", "a\0b", "-/.."])
def test_names_that_could_leave_the_directory_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        paths.check_name(name)
    assert caught.value.key == "name"
    assert "letters" in str(caught.value)


def test_runtime_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(paths.RUNTIME_DIR_VARIABLE, str(tmp_path))
    assert paths.instance_dir("web") == tmp_path / "web"


def test_a_relative_runtime_directory_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(paths.RUNTIME_DIR_VARIABLE, "here")
    assert paths.instance_dir("web") == tmp_path / "here" / "web"


def test_a_working_directory_that_was_removed_matters_only_for_a_relative_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv(paths.RUNTIME_DIR_VARIABLE, "/run/elsewhere")
    assert paths.instance_dir("a") == Path("/run/elsewhere/a")
    monkeypatch.setenv(paths.RUNTIME_DIR_VARIABLE, "here")
    with pytest.raises(ConfigError, match="set the variable to an absolute path"):
        paths.instance_dir("a")


@pytest.mark.parametrize(
    ("in_memory", "expected"),
    [
        ({"/run/procline", "/dev/shm"}, "/run/procline"),
        ({"/dev/shm"}, "/dev/shm/procline"),
        (set(), "/run/procline"),
    ],
)
def test_run_is_used_only_where_it_is_tmpfs(
    monkeypatch: pytest.MonkeyPatch, in_memory: set[str], expected: str
) -> None:
    monkeypatch.delenv(paths.RUNTIME_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(paths, "is_in_memory", lambda path: str(path) in in_memory)
    assert str(paths.runtime_root()) == expected


def test_file_system_of_a_path_that_does_not_exist_is_its_parents() -> None:
    assert paths.file_system(Path("/proc/no/such/file")) == "proc"
    assert paths.file_system(Path("/dev/shm/no/such/file")) == "tmpfs"


def test_a_directory_on_disk_is_refused_with_a_hint() -> None:
    with pytest.raises(UnsupportedError) as caught:
        paths.check_in_memory(Path("/proc/1"))
    assert caught.value.needs == "tmpfs"
    assert paths.RUNTIME_DIR_VARIABLE in str(caught.value)
    paths.check_in_memory(Path("/dev/shm/procline/x"))


def test_sockets_are_in_directories_of_their_own() -> None:
    directory = Path("/run/procline/default")
    sockets = [paths.frames_socket(directory), paths.stream_socket(directory), paths.requests_socket(directory)]
    assert len({socket.parent for socket in sockets}) == 3
    assert paths.endpoint(sockets[0]) == "ipc:///run/procline/default/frames/frames.ipc"


def test_a_socket_path_may_have_107_bytes_and_no_more() -> None:
    longest = Path("/" + "x" * 106)
    assert paths.endpoint(longest) == f"ipc://{longest}"
    with pytest.raises(ConfigError, match="108 bytes long"):
        paths.endpoint(Path("/" + "x" * 107))
    with pytest.raises(ConfigError, match="108 bytes long"):
        paths.endpoint(Path("/" + "ü" * 53 + "x"))
