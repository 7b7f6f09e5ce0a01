"""Settings as TOML: the documented file, and the settings of an instance."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import loading, rendering
from pipeline.config.schema import Config, Value, settings
from tests.config.files import write

EXAMPLE = Path(__file__).parents[2] / "docs" / "procline.toml"


def test_the_example_has_every_setting_with_its_default(tmp_path: Path) -> None:
    """Uncommented, the file contains the defaults; and each setting has a description."""
    text = rendering.example()
    active = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)
    keys = [line.split(" = ")[0] for line in active.splitlines() if not line.startswith(("#", "[")) and line]
    assert len(keys) == len(list(settings(Config())))
    assert loading.load(write(tmp_path, active), environ={}) == Config()
    assert loading.load(write(tmp_path, text), environ={}) == Config()
    assert all(setting.description for setting in settings(Config()))


def test_the_example_in_docs_is_the_printed_one() -> None:
    assert EXAMPLE.read_text() == rendering.example(), (
        "write it again with: procline config --example > docs/procline.toml"
    )


def test_effective_settings_are_printed_as_a_file_that_can_be_used(tmp_path: Path) -> None:
    changed, origins = loading.load_with_origins(None, {"merge.stall_ms": 33, "args.custom_sensitive_words": ["x"]}, {})
    text = rendering.as_toml(changed, origins)
    assert "stall_ms = 33  # command line" in text
    assert loading.load(write(tmp_path, text), environ={}) == changed


@given(st.text() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans())
def test_values_are_written_as_toml_reads_them(value: Value) -> None:
    read = loading.parse_value(rendering.toml(value))
    assert read == value and type(read) is type(value)


@given(st.lists(st.text()))
def test_lists_are_written_as_toml_reads_them(values: list[str]) -> None:
    assert loading.parse_value(rendering.toml(tuple(values))) == values
