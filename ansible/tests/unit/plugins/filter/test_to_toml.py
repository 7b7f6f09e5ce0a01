"""The filter writes TOML that a parser reads as what was given."""

from __future__ import annotations

import tomllib

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.procline.procline.plugins.filter.to_toml import to_toml


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"source": "ebpf"},
        {"tables": {"retention_s": 60.0, "max_entries": 262144}},
        {"args": {"custom_sensitive_words": ["pin", "a b"], "custom_sensitive_patterns": []}},
        {"supervision": {"share_cpu": False}, "capture": {"credentials": "auto"}},
        {"log": {"level": 'a "quote", a \\ and a\nline'}},
        {"name": "\x00\x1b\x7f\u00e9\U0001f600"},
        {"a key": {"another one": 1}},
        {"tables": {"checked": True}, "source": "after the section"},
    ],
)
def test_a_parser_reads_what_was_written(settings):
    assert tomllib.loads(to_toml(settings)) == settings


def test_a_truth_value_is_not_written_as_a_number():
    assert to_toml({"supervision": {"share_cpu": True}}) == "[supervision]\nshare_cpu = true\n"


@pytest.mark.parametrize("settings", [{"a": None}, {"a": {"b": {"c": 1}}}, {"a": [None]}, ["a"]])
def test_what_toml_cannot_express_is_refused(settings):
    with pytest.raises(AnsibleFilterError):
        to_toml(settings)
