"""`procline keys`: key pairs with the right modes, and a list of clients that can be changed at any time."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from pipeline.bus.auth import load_clients, load_key_pair, load_public_key
from tests.cli.conftest import Command


def test_a_new_pair_can_be_used_and_its_secret_is_closed(procline: Command, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        done = procline("keys", "new", "alice", "--dir", str(tmp_path / "mine"))
    finally:
        os.umask(before)
    public, secret = tmp_path / "mine/alice.key", tmp_path / "mine/alice.key_secret"
    assert done.code == 0 and str(public) in done.out and str(secret) in done.out
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert load_key_pair(secret)[0] == load_public_key(public)
    assert load_key_pair(secret)[1].decode() not in done.out + done.err
    assert load_key_pair(secret)[1].decode() not in public.read_text()


def test_an_existing_pair_is_kept(procline: Command, tmp_path: Path) -> None:
    procline("keys", "new", "alice", "--dir", str(tmp_path))
    before = (tmp_path / "alice.key_secret").read_bytes()
    done = procline("keys", "new", "alice", "--dir", str(tmp_path))
    assert done.code == 2 and "exists" in done.err
    assert (tmp_path / "alice.key_secret").read_bytes() == before


def test_keys_are_allowed_listed_and_revoked(procline: Command, tmp_path: Path) -> None:
    clients = tmp_path / "clients"
    for name in ("alice", "bob"):
        procline("keys", "new", name, "--dir", str(tmp_path))
        done = procline("keys", "allow", str(tmp_path / f"{name}.key"), "--dir", str(clients))
        assert done.code == 0, done.err
    assert stat.S_IMODE((clients / "alice.key").stat().st_mode) == 0o644
    assert load_clients(clients) == {load_public_key(tmp_path / f"{name}.key") for name in ("alice", "bob")}
    listed = procline("keys", "list", "--dir", str(clients))
    assert [line.split()[0] for line in listed.out.splitlines()] == ["NAME", "alice", "bob"]
    assert procline("keys", "revoke", "alice", "--dir", str(clients)).code == 0
    named = json.loads(procline("keys", "list", "--dir", str(clients), "--json").out)
    assert named == [{"name": "bob", "key": load_public_key(tmp_path / "bob.key").decode()}]


def test_a_key_is_revoked_under_all_of_its_names(procline: Command, tmp_path: Path) -> None:
    """Otherwise the other file would still admit the client."""
    procline("keys", "new", "alice", "--dir", str(tmp_path))
    procline("keys", "new", "bob", "--dir", str(tmp_path))
    clients = str(tmp_path / "clients")
    procline("keys", "allow", str(tmp_path / "alice.key"), "--dir", clients)
    procline("keys", "allow", str(tmp_path / "bob.key"), "--dir", clients)
    (tmp_path / "clients/again.key").write_bytes((tmp_path / "alice.key").read_bytes())
    done = procline("keys", "revoke", "alice", "--dir", clients, "--json")
    assert len(json.loads(done.out)["revoked"]) == 2
    assert load_clients(tmp_path / "clients") == {load_public_key(tmp_path / "bob.key")}
    bob = load_public_key(tmp_path / "bob.key").decode()
    assert procline("keys", "revoke", "--dir", clients, "--", bob).code == 0
    assert not load_clients(tmp_path / "clients")


def test_allowing_a_secret_file_copies_only_the_public_key(procline: Command, tmp_path: Path) -> None:
    procline("keys", "new", "alice", "--dir", str(tmp_path))
    done = procline("keys", "allow", str(tmp_path / "alice.key_secret"), "--dir", str(tmp_path / "clients"))
    assert done.code == 0
    (copied,) = (tmp_path / "clients").iterdir()
    assert copied.name == "alice.key" and "secret" not in copied.read_text()


def test_an_unknown_key_cannot_be_revoked(procline: Command, tmp_path: Path) -> None:
    (tmp_path / "broken.key").write_text("nothing")
    done = procline("keys", "revoke", "nobody", "--dir", str(tmp_path))
    assert done.code == 1 and "no key" in done.err
    # A file without a key can be listed, and removed by its name.
    assert "not a key" in procline("keys", "list", "--dir", str(tmp_path)).out
    assert procline("keys", "revoke", "broken", "--dir", str(tmp_path)).code == 0
    assert not list(tmp_path.iterdir())


def test_the_directory_is_that_of_the_settings(procline: Command, tmp_path: Path) -> None:
    procline("keys", "new", "alice", "--dir", str(tmp_path))
    setting = f"stream.curve_clients_dir={tmp_path / 'clients'}"
    assert procline("keys", "allow", str(tmp_path / "alice.key"), "--set", setting).code == 0
    assert "alice" in procline("keys", "list", "--set", setting).out
    done = procline("keys", "list")
    assert done.code == 2 and "curve_clients_dir" in done.err


def test_names_in_the_list_reach_the_terminal_escaped(procline: Command, tmp_path: Path) -> None:
    (tmp_path / "\x1b]0;owned\x07.key").write_text("nothing")
    done = procline("keys", "list", "--dir", str(tmp_path))
    assert "owned" in done.out and "\x1b" not in done.out and "\x07" not in done.out


@pytest.mark.parametrize("arguments", [("new",), ("allow",), ("revoke",), ("remove", "x")])
def test_wrong_use_is_explained(procline: Command, arguments: tuple[str, ...]) -> None:
    done = procline("keys", *arguments)
    assert done.code == 2 and done.err
