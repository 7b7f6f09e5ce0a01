"""Loading settings: the order in which sources override each other, and the messages for wrong values."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import loading
from pipeline.config.schema import Config, settings
from pipeline.errors import ConfigError
from tests.config.files import write


def test_nothing_is_needed() -> None:
    assert loading.load(environ={}) == Config()


def test_later_layers_win(tmp_path: Path) -> None:
    file = write(
        tmp_path, 'source = "proc-connector"\n[capture]\nring_bytes = 65536\nargs_bytes = 100\n[log]\nlevel = "error"'
    )
    environ = {"PROCLINE_RING_BYTES": "131072", "PROCLINE_LOG_LEVEL": "debug"}
    merged, origins = loading.load_with_origins(file, {"log.level": "warning", "shards.count": None}, environ)
    assert merged.source == "proc-connector"
    assert merged.capture.args_bytes == 100
    assert merged.capture.ring_bytes == 131072
    assert merged.log.level == "warning"
    assert merged.shards.count == "auto"
    assert origins["capture.args_bytes"] == str(file)
    assert origins["capture.ring_bytes"] == "PROCLINE_RING_BYTES"
    assert origins["log.level"] == "command line"


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "[merge]\nstall_ms = 77")
    assert loading.load(environ={loading.CONFIG_VARIABLE: str(file)}).merge.stall_ms == 77


def test_every_variable_stands_for_a_setting() -> None:
    known = {setting.key for setting in settings(Config())}
    assert set(loading.ENVIRONMENT.values()) <= known


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("capture.ring_bytes", 5000, "power of two"),
        ("capture.ring_bytes", 1024, "power of two"),
        ("capture.ring_bytes", "big", "`int`"),
        ("capture.rings_bytes", 1024, ">= 4096"),
        ("capture.args_bytes", 40000, "<= 32768"),
        ("capture.freshness_ms", -0.1, ">= 0.0"),
        ("capture.wakeup_fill_bytes", 1 << 31, "<= 1073741824"),
        ("shards.count", 0, 'from 1 to 256, or "auto"'),
        ("shards.count", "many", 'from 1 to 256, or "auto"'),
        ("source", "kafka", '"replay:FILE"'),
        ("args.show", "some", "'scrubbed' or 'raw' or 'none'"),
        ("contexts.container_details", "labels", "'all' or 'names' or 'off'"),
        ("contexts.file_hash_bytes", 0, ">= 1"),
        ("contexts.file_hashes", "yes", "`bool`"),
        ("capture.calls", "all", "'on' or 'off'"),
        ("envs.show", "raw", "'names' or 'listed' or 'all'"),
        ("args.custom_sensitive_words", ["a", 3], "`str`"),
        ("access.tables_mode", "0666", '"0640"'),
        ("access.stream_mode", "0640", '"0660"'),
        ("tables.checked", 1, "`bool`"),
        ("capture", 3, "`object`"),
    ],
)
def test_an_invalid_value_is_named_with_the_expected_ones(key: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loading.load(None, {key: value}, {})
    assert caught.value.key == key
    assert caught.value.value == value
    message = str(caught.value)
    assert message.startswith(f"command line: {key}: expected ")
    assert expected in message and str(value).strip("[]") in message
    assert "\n" not in message


def test_a_misspelt_setting_is_answered_with_the_right_one(tmp_path: Path) -> None:
    file = write(tmp_path, "[capture]\nring_byte = 4096")
    with pytest.raises(ConfigError) as caught:
        loading.load(file, environ={})
    assert str(caught.value) == f"{file}: capture.ring_byte: unknown setting; did you mean ring_bytes?"
    with pytest.raises(ConfigError, match="unknown setting; known settings: source, capture"):
        loading.load(write(tmp_path, "xyz = 1"), environ={})


def test_an_encrypted_address_needs_its_keys(tmp_path: Path) -> None:
    file = write(tmp_path, '[stream]\ntcp_endpoint = "tcp://127.0.0.1:7717"')
    with pytest.raises(ConfigError, match="always encrypted") as caught:
        loading.load(file, environ={})
    assert caught.value.key == "stream.curve_secret_key_file"
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"[capture\n", "not valid TOML"), (b"\xff\xfe", "not UTF-8"), (None, "cannot be read: No such file")],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes | None, expected: str) -> None:
    file = tmp_path / "broken.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        loading.load(file, environ={})
    assert str(file) in str(caught.value)


def test_a_variable_with_a_wrong_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^PROCLINE_LOG_LEVEL: log\.level: expected 'debug' or"):
        loading.load(environ={"PROCLINE_LOG_LEVEL": "loud"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("capture.ring_bytes=4096", ("capture.ring_bytes", 4096)),
        ("access.tables_mode=0644", ("access.tables_mode", "0644")),
        ("log.level = debug", ("log.level", "debug")),
        ("source=replay:/tmp/a=b", ("source", "replay:/tmp/a=b")),
        ('envs.show_values=["PATH"]', ("envs.show_values", ["PATH"])),
    ],
)
def test_options_need_no_quotes(text: str, expected: tuple[str, object]) -> None:
    assert loading.parse_option(text) == expected


def test_an_option_without_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        loading.parse_option("log.level")
