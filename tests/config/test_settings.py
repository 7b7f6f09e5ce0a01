"""Settings: what is merged in which order, and what a wrong one is answered with."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import settings as config
from pipeline.config.settings import Config
from pipeline.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "docs" / "procline.toml"


def write(directory: Path, text: str) -> Path:
    file = directory / "procline.toml"
    file.write_text(text)
    return file


def test_nothing_is_needed() -> None:
    assert config.load(environ={}) == Config()


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError):
        Config().capture.ring_bytes = 4096  # type: ignore[misc]
    hash(Config())


def test_later_layers_win(tmp_path: Path) -> None:
    file = write(
        tmp_path, 'source = "proc-connector"\n[capture]\nring_bytes = 65536\nargs_bytes = 100\n[log]\nlevel = "error"'
    )
    environ = {"PROCLINE_RING_BYTES": "131072", "PROCLINE_LOG_LEVEL": "debug"}
    merged, origins = config.load_with_origins(file, {"log.level": "warning", "shards.count": None}, environ)
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
    assert config.load(environ={config.CONFIG_VARIABLE: str(file)}).merge.stall_ms == 77


def test_every_variable_stands_for_a_setting() -> None:
    known = {setting.key for setting in config.settings(Config())}
    assert set(config.ENVIRONMENT.values()) <= known


def test_settings_reach_a_worker_unchanged(tmp_path: Path) -> None:
    changed = config.load(None, {"args.custom_sensitive_words": ["pin*"], "shards.count": 3}, {})
    assert Config.from_json(changed.to_json()) == changed


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("capture.ring_bytes", 5000, "power of two"),
        ("capture.ring_bytes", 1024, ">= 4096"),
        ("capture.ring_bytes", "big", "`int`"),
        ("capture.args_bytes", 40000, "<= 32768"),
        ("capture.drain_interval_max_ms", 1.0, "at least 4.0"),
        ("capture.wakeup_fill_bytes", 1 << 24, "at most ring_bytes"),
        ("shards.count", 0, 'from 1 to 256, or "auto"'),
        ("shards.count", "many", 'from 1 to 256, or "auto"'),
        ("source", "kafka", '"replay:FILE"'),
        ("args.show", "some", "'scrubbed' or 'raw' or 'none'"),
        ("args.custom_sensitive_words", ["a", 3], "`str`"),
        ("access.tables_mode", "0666", '"0640"'),
        ("access.stream_mode", "0640", '"0660"'),
        ("tables.checked", 1, "`bool`"),
        ("capture", 3, "`object`"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_was_expected(key: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(None, {key: value}, {})
    assert caught.value.key == key
    assert caught.value.value == value
    message = str(caught.value)
    assert message.startswith(f"command line: {key}: expected ")
    assert expected in message and str(value).strip("[]") in message
    assert "\n" not in message


def test_a_misspelt_setting_is_answered_with_the_right_one(tmp_path: Path) -> None:
    file = write(tmp_path, "[capture]\nring_byte = 4096")
    with pytest.raises(ConfigError) as caught:
        config.load(file, environ={})
    assert str(caught.value) == f"{file}: capture.ring_byte: unknown setting; did you mean ring_bytes?"
    with pytest.raises(ConfigError, match="unknown setting; there are source, capture"):
        config.load(write(tmp_path, "xyz = 1"), environ={})


def test_an_encrypted_address_needs_its_keys(tmp_path: Path) -> None:
    file = write(tmp_path, '[stream]\ntcp_endpoint = "tcp://127.0.0.1:7717"')
    with pytest.raises(ConfigError, match="never without encryption") as caught:
        config.load(file, environ={})
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
        config.load(file, environ={})
    assert str(file) in str(caught.value)


def test_a_variable_with_a_wrong_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^PROCLINE_LOG_LEVEL: log\.level: expected 'debug' or"):
        config.load(environ={"PROCLINE_LOG_LEVEL": "loud"})


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
    assert config.parse_option(text) == expected


def test_an_option_without_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        config.parse_option("log.level")


def test_the_example_has_every_setting_with_its_default(tmp_path: Path) -> None:
    """Uncommented, it is the defaults; and each setting has a description."""
    text = config.example()
    active = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)
    keys = [line.split(" = ")[0] for line in active.splitlines() if not line.startswith(("#", "[")) and line]
    assert len(keys) == len(list(config.settings(Config())))
    assert config.load(write(tmp_path, active), environ={}) == Config()
    assert config.load(write(tmp_path, text), environ={}) == Config()
    assert all(setting.description for setting in config.settings(Config()))


def test_the_example_among_the_documents_is_the_one_that_is_printed() -> None:
    assert EXAMPLE.read_text() == config.example(), (
        "write it again with: procline config --example > docs/procline.toml"
    )


def test_effective_settings_are_printed_as_a_file_that_can_be_used(tmp_path: Path) -> None:
    changed, origins = config.load_with_origins(None, {"merge.stall_ms": 33, "args.custom_sensitive_words": ["x"]}, {})
    text = config.as_toml(changed, origins)
    assert "stall_ms = 33  # command line" in text
    assert config.load(write(tmp_path, text), environ={}) == changed


@given(st.text() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans())
def test_values_are_written_as_toml_reads_them(value: config.Value) -> None:
    read = config.parse_value(config.toml(value))
    assert read == value and type(read) is type(value)


@given(st.lists(st.text()))
def test_lists_are_written_as_toml_reads_them(values: list[str]) -> None:
    assert config.parse_value(config.toml(tuple(values))) == values


def test_shards_follow_the_number_of_rings() -> None:
    auto = Config().shards
    assert [auto.resolve(rings) for rings in (1, 2, 4, 8, 9, 64)] == [1, 1, 1, 1, 2, 8]
    assert config.Shards(count=5).resolve(2) == 2


def test_defaults_need_no_conversion() -> None:
    """A default that its own limits refuse would be found only by the user who writes it down."""
    assert msgspec.convert(msgspec.to_builtins(Config()), Config) == Config()
