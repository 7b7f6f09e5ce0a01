"""Kernel packages of every form that Debian has given them, without a network and without a guest."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import debian
import pytest

CLOUD = (
    "linux-image-6.18.9+deb13-cloud-amd64 linux-image-6.18.15+deb13-cloud-amd64 linux-image-6.18.12+deb13-cloud-amd64 "
    "linux-image-6.18.20+deb13-rt-amd64 linux-image-6.18.21+deb13-amd64 linux-image-6.18.99+deb13-cloud-amd64-unsigned "
    "linux-image-6.18.99+deb13-cloud-amd64-dbg linux-image-6.18.99+deb13-cloud-arm64"
)


def answering(monkeypatch: pytest.MonkeyPatch, output: str) -> debian.Apt:
    """An apt with this output for each call."""
    monkeypatch.setattr(debian.Apt, "_run", lambda *_, **__: subprocess.CompletedProcess([], 0, output, ""))
    return debian.Apt(Path("/nowhere"))


@pytest.mark.parametrize(
    ("known", "flavour", "series", "package"),
    [
        (CLOUD, "cloud", "6.18", "linux-image-6.18.15+deb13-cloud-amd64"),
        (CLOUD, "cloud", "6.18.9", "linux-image-6.18.9+deb13-cloud-amd64"),
        (CLOUD, "rt", "6.18", "linux-image-6.18.20+deb13-rt-amd64"),
        (CLOUD, "amd64", "6.18", "linux-image-6.18.21+deb13-amd64"),
        (
            "linux-image-6.1.0-9-cloud-amd64 linux-image-6.1.0-50-cloud-amd64 linux-image-6.12.1-cloud-amd64",
            "cloud", "6.1", "linux-image-6.1.0-50-cloud-amd64",
        ),
        (
            "linux-image-cloud-amd64\n  Depends: linux-base-cloud-amd64\n  Depends: linux-image-7.2.13-cloud-amd64\n",
            "cloud", "", "linux-image-7.2.13-cloud-amd64",
        ),
    ],
)  # fmt: skip
def test_which_package(monkeypatch: pytest.MonkeyPatch, known: str, flavour: str, series: str, package: str) -> None:
    assert answering(monkeypatch, known).package(flavour, series) == package


@pytest.mark.parametrize("series", ["", "6.17"])
def test_a_package_that_there_is_not(monkeypatch: pytest.MonkeyPatch, series: str) -> None:
    with pytest.raises(debian.NotPossibleError, match="apt does not know linux-image-"):
        answering(monkeypatch, "").package("cloud", series)


def test_packages_with_what_they_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Reading lists...\nInst libc6 (2.41-12 Debian:13.2/stable [arm64])\nInst dash:arm64 (0.5 x [arm64]) []\n"
    assert answering(monkeypatch, said + "Conf libc6 (2.41-12 x [arm64])\n").closure(["dash"]) == ["libc6", "dash"]
    with pytest.raises(debian.NotPossibleError, match="apt cannot install dash"):
        answering(monkeypatch, "").closure(["dash"])


RELEASE = "7.2.13+deb14-cloud-amd64"


def unpacked(root: Path, *, in_boot: bool, modules: str, suffix: str, **contents: bytes) -> Path:
    directory = root / modules / RELEASE
    (directory / "kernel/fs").mkdir(parents=True)
    for name in ("vmlinuz", "config"):
        path = root / f"boot/{name}-{RELEASE}" if in_boot else directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    for name, data in contents.items():
        (directory / f"kernel/fs/{name}.ko{suffix}").write_bytes(packed(data, suffix))
    return root


def packed(data: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        if shutil.which("zstd") is None:
            pytest.skip("no zstd: apt-get install zstd")
        return subprocess.run(["zstd", "-cq"], input=data, capture_output=True, check=True).stdout
    return {"": bytes, ".xz": lzma.compress, ".gz": gzip.compress}[suffix](data)


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("in_boot", "modules"), [(True, "lib/modules"), (True, "usr/lib/modules"), (False, "usr/lib/modules")]
)
def test_the_kept_files_of_a_package(tmp_path: Path, in_boot: bool, modules: str, suffix: str) -> None:
    root = unpacked(tmp_path / "root", in_boot=in_boot, modules=modules, suffix=suffix, overlay=b"code", other=b"")
    made = tmp_path / "made"
    made.mkdir()
    debian._arrange(root, RELEASE, made)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == {
        "vmlinuz": b"vmlinuz", "config": b"config", "overlay.ko": b"code",
    }  # fmt: skip


def test_built_in_modules_are_not_kept(tmp_path: Path) -> None:
    root = unpacked(tmp_path / "root", in_boot=False, modules="usr/lib/modules", suffix=".xz")
    debian._arrange(root, RELEASE, tmp_path)
    assert not (tmp_path / "overlay.ko").exists() and not (tmp_path / "initramfs").exists()


def test_a_package_without_a_kernel(tmp_path: Path) -> None:
    with pytest.raises(debian.NotPossibleError, match="has no vmlinuz"):
        debian._arrange(tmp_path, RELEASE, tmp_path)


def test_modules_needed_to_mount_the_root_are_in_an_initramfs(
    tmp_path: Path, missing: Callable[[str], NoReturn]
) -> None:
    """Each behind those that it needs, whatever their names are spelled like."""
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        missing("no C compiler (gcc)")
    root = unpacked(
        tmp_path / "root", in_boot=True, modules="lib/modules", suffix="", virtiofs=b"\0depends=fuse,virtio_ring\0",
        fuse=b"\0depends=\0", **{"virtio-ring": b"\0name=virtio_ring\0depends=virtio\0"}, virtio=b"\0depends=\0",
    )  # fmt: skip
    debian._arrange(root, RELEASE, tmp_path)
    entries = files(gzip.decompress((tmp_path / "initramfs").read_bytes()))
    names = ["00-fuse.ko", "01-virtio.ko", "02-virtio_ring.ko", "03-virtiofs.ko"]
    assert list(entries) == ["dev", "modules", "root", "init", *(f"modules/{name}" for name in names)]
    assert entries["init"].startswith(b"\x7fELF") and entries["modules/00-fuse.ko"] == b"\0depends=\0"


def files(archive: bytes) -> dict[str, bytes]:
    """Read a cpio archive."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701" and at % 4 == 0
        numbers = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, length = numbers[6], numbers[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        if name == "TRAILER!!!":
            return found
        at += 110 + length + -(110 + length) % 4
        found[name] = archive[at : at + size]
        at += size + -size % 4


apt_is_here = pytest.mark.skipif(shutil.which("apt-get") is None, reason="not on this host: no apt")


@apt_is_here
@pytest.mark.parametrize("architecture", ["", "arm64"])
def test_another_suite_is_another_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """apt itself is asked where it would read and write, and what it would run."""
    dump: dict[str, str] = {}
    architectures: list[str] = []

    def look(apt: debian.Apt, *command: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
        if command[:2] == ("apt-get", "update"):
            text = subprocess.run(
                ["apt-config", "dump"], env=apt._environment, capture_output=True, text=True, check=True
            ).stdout
            dump.update(line.rstrip(";").split(" ", 1) for line in text.splitlines())
            architectures.extend(line for line in text.splitlines() if line.startswith("APT::Architectures:"))
            return subprocess.CompletedProcess([], 0, "", "")
        return plain(apt, *command, directory=directory)

    plain = debian.Apt._run
    monkeypatch.setattr(debian.Apt, "_run", look)
    monkeypatch.setattr(debian.Apt, "mirror", lambda _: ("http://mirror.invalid/debian/", "/a/keyring.pgp"))
    debian.Apt(tmp_path, "sid", architecture)
    if architecture:
        assert dump["APT::Architecture"] == f'"{architecture}"'
        assert architectures == [f'APT::Architectures:: "{architecture}";']
    own = tmp_path / "apt" / "sid"
    assert (own / "suite.sources").read_text() == (
        "Types: deb\nURIs: http://mirror.invalid/debian/\nSuites: sid\nComponents: main\nSigned-By: /a/keyring.pgp\n"
    )
    for name in ("Dir::State", "Dir::State::lists", "Dir::Cache", "Dir::Cache::archives", "Dir::Etc::sourcelist"):
        assert dump[name].strip('"').startswith(str(own)), name
    assert dump["Dir::Etc::sourceparts"] == '"/dev/null"'
    assert {dump[name] for name in dump if name.endswith(("AllowUnauthenticated", "InsecureRepositories"))} == {
        '"false"'
    }
    assert not [name for name in dump if "Invoke" in name]


@apt_is_here
def test_a_suite_that_is_not_signed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "mirror/dists/sid/main/binary-amd64"
    binary.mkdir(parents=True)
    (binary / "Packages").write_text("")
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages"
    (tmp_path / "mirror/dists/sid/Release").write_text(f"Suite: sid\nCodename: sid\nSHA256:\n {digest}\n")
    monkeypatch.setattr(debian.Apt, "mirror", lambda _: (f"file:{tmp_path}/mirror", ""))
    tmp_path.chmod(0o755)
    with pytest.raises(debian.NotPossibleError, match="not signed"):
        debian.Apt(tmp_path / "cache", "sid")


@apt_is_here
def test_a_suite_that_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian.Apt, "mirror", lambda _: (f"file:{tmp_path}/none", ""))
    with pytest.raises(debian.NotPossibleError, match=r"suite sid of file:.* cannot be had: E: "):
        debian.Apt(tmp_path, "sid")
    with pytest.raises(debian.NotPossibleError, match="no name of a suite"):
        debian.Apt(tmp_path, "sid main\nTrusted: yes")


def test_a_mirror_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_APT_S", 0.1)
    with pytest.raises(debian.NotPossibleError, match=r"sleep 10 has not ended after 0\.1 s"):
        debian.Apt(Path("/nowhere"))._run("sleep", "10")


def test_suite_and_series() -> None:
    assert debian.parse_suite("sid") == ("sid", "")
    assert debian.parse_suite("trixie-backports=6.18") == ("trixie-backports", "6.18")


def test_two_guests_do_not_use_apt_at_the_same_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    running: list[str] = []

    class Slow:
        def __init__(self, *_: object) -> None:
            running.append("begin")
            time.sleep(0.05)
            running.append("end")

        def package(self, *_: object) -> str:
            return "linux-image-1"

    monkeypatch.setattr(debian, "Apt", Slow)
    (tmp_path / "linux-image-1").mkdir()
    (tmp_path / "linux-image-1" / "vmlinuz").touch()
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda flavour: debian.kernel(tmp_path, flavour, "trixie"), ("cloud", "rt")))
    assert found == [tmp_path / "linux-image-1"] * 2
    assert running == ["begin", "end"] * 2
