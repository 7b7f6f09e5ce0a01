"""`procline config` rejects every setting that `run` would reject."""

from __future__ import annotations

import importlib.util
import stat
from pathlib import Path

import msgspec
import pytest

from pipeline.bus.auth import generate_keys
from pipeline.config import schema
from pipeline.config.loading import load
from pipeline.errors import ConfigError
from pipeline.host import boot
from pipeline.shm.writer.segments import TablePlan
from tests.cli.conftest import Command


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("args.custom_sensitive_patterns", "['(']", "missing )"),
        ("args.custom_sensitive_patterns", "['(?=x)']", "RE2 syntax"),
        ("args.custom_sensitive_patterns", "['x*']", "everywhere"),
        ("args.custom_sensitive_words", "['a-b']", "ASCII letters"),
        ("tables.pid_capacity", "1", "0 or at least 301"),
        ("access.group", "no-such-group", "groupadd"),
        ("access.group", '"a\\u0000b"', "NUL"),
        ("source", "replay:/nonexistent.rec", "No such file"),
        ("source", "replay:/dev/null", "not a recording"),
        ("metrics.statsd", "127.0.0.1:99999", "port up to 65535"),
        ("metrics.listen", "127.0.0.1:99999", "port up to 65535"),
        ("capture.ring_bytes", "1" * 5000, "expected"),
        ("args.custom_sensitive_words", "[" * 500 + "]" * 500, "nested too deeply"),
        ("args.custom_sensitive_words", "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("args.custom_sensitive_words", "['\udcff']", "UTF-8"),
    ],
)
def test_config_refuses_settings_that_run_refuses(procline: Command, key: str, value: str, reason: str) -> None:
    for command in (["config"], ["config", "--check"], ["run", "--name", "never"], ["record", "/dev/null/never"]):
        done = procline(*command, "--set", f"{key}={value}")
        assert (done.code, done.out) == (2, ""), command
        assert len(done.err.splitlines()) == 1 and "Traceback" not in done.err
        assert reason in done.err
        if "nested" not in reason:
            assert key in done.err


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 5000 + "]" * 5000, "a." * 2000 + "b = 1", "[" + "a." * 2000 + "b]\nx = 1", "x = " + "{a=" * 5000,
     "tables.pid_capacity = " + "1" * 5000, "x = " + "[" * 100 + "]" * 100],
)  # fmt: skip
def test_a_file_that_cannot_be_settings_is_one_line(procline: Command, tmp_path: Path, text: str) -> None:
    file = tmp_path / "deep.toml"
    file.write_text(text)
    done = procline("config", "--config", str(file))
    assert (done.code, done.out) == (2, "") and len(done.err.splitlines()) == 1
    assert str(file) in done.err


def test_the_keys_of_an_encrypted_address_are_read(procline: Command, tmp_path: Path) -> None:
    generate_keys(tmp_path / "keys", "server")
    clients = tmp_path / "clients"
    secret = tmp_path / "keys/server.key_secret"
    options = [
        "--set", "stream.tcp_endpoint=tcp://127.0.0.1:7717", "--set", f"stream.curve_secret_key_file={secret}",
        "--set", f"stream.curve_clients_dir={clients}",
    ]  # fmt: skip
    done = procline("config", *options)
    assert done.code == 2 and "command line: stream.curve_clients_dir: " in done.err and str(clients) in done.err
    clients.mkdir()
    assert procline("config", *options).code == 0
    (clients / "broken.key").write_text("x")
    assert procline("config", *options).code == 2
    (clients / "broken.key").unlink()
    secret.chmod(stat.S_IMODE(secret.stat().st_mode) | stat.S_IROTH)
    done = procline("config", *options)
    assert done.code == 2 and "stream.curve_secret_key_file" in done.err and "chmod 600" in done.err
    done = procline("config", *options, "--set", "stream.tcp_endpoint=tcp://127.0.0.1:77177")
    assert done.code == 2 and "port up to 65535" in done.err


def test_a_package_that_a_setting_needs_is_named(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "datadog" else real(name))
    assert procline("config").code == 0
    done = procline("config", "--set", "metrics.statsd=127.0.0.1:8125")
    assert done.code == 2 and "procline[statsd]" in done.err


def test_every_size_that_config_accepts_makes_tables() -> None:
    hints = msgspec.inspect.type_info(schema.Tables)
    assert isinstance(hints, msgspec.inspect.StructType)
    for field in hints.fields:
        if not isinstance(field.type, msgspec.inspect.IntType):
            continue
        for value in {field.type.ge, field.type.le, 1, 2, 301}:
            try:
                tables = load(None, {f"tables.{field.name}": value}, {}).tables
            except ConfigError:
                continue
            TablePlan(
                boot_id=bytes(16), ring_count=1, row_capacity=tables.max_entries, chunk_rows=tables.chunk_rows,
                pid_capacity=tables.pid_capacity or boot.pid_max(), key_capacity=tables.key_capacity,
                names_bytes=tables.names_bytes, args_bytes=tables.args_bytes, envs_bytes=tables.envs_bytes,
            )  # fmt: skip
