"""The rule file, and the words and patterns of the settings."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import pytest

from pipeline.errors import ConfigError
from pipeline.secrets.scrub import Scrubber
from tests.secrets.scrubbing import M

KEYS = {"names", "attached", "separate", "flags", "positional", "shown", "settings", "after", "form"}


def test_rule_file_is_sound() -> None:
    """Each anchor is in lower case (the prefilter folds case), and no flag is also an option with a value."""
    rules = tomllib.loads(files("pipeline.secrets").joinpath("scrub_rules.toml").read_text())
    for rule in rules["pattern"]:
        assert rule["anchors"] and all(anchor == anchor.lower() for anchor in rule["anchors"]), rule["name"]
    for program in rules["program"]:
        assert program.keys() <= KEYS
        options = {option[1] for option in (*program.get("attached", ()), *program.get("separate", ()))}
        assert not options & set(program.get("flags", "")), "a letter without a value has none"
        assert program.get("attached") or program.get("separate") or program.get("positional"), program["names"]


def test_custom_words() -> None:
    scrubber = Scrubber(custom_words=["*license*", "pin_code"])
    assert scrubber.scrub(["--license-key=x", "pin_code", "1", "pin-code=1", "--pin=1", "--password=x"])[0] == [
        f"--license-key={M}", "pin_code", M, f"pin-code={M}", "--pin=1", f"--password={M}",
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["", "*", "**", "a**b", "a-b", "a b", "pass:", "caf\u00e9", "(a", "_", "*_*"])
def test_wrong_word_is_refused_by_name(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Scrubber(custom_words=["good", word])
    assert (caught.value.key, caught.value.value) == ("custom_sensitive_words", word)
    assert repr(word) in str(caught.value)


def test_custom_patterns_hide_each_match_within_an_argument() -> None:
    scrubber = Scrubber(custom_patterns=[r"\d{3}-\d{4}", "x.y"])
    assert scrubber.scrub(["a 123-4567 b 765-4321", "x", "y", "xzy"])[0] == ["a ***** b *****", "x", "y", "*****"]
    assert Scrubber(custom_patterns=["^a$"]).scrub(["a", "ba", "a"])[0] == ["*****", "ba", "*****"]
    assert Scrubber(custom_patterns=["A"]).scrub(["a", "A"])[0] == ["a", "*****"]


@pytest.mark.parametrize("pattern", ["(", r"(?=a)", r"(a)\1", "a*", "", "[z-a]"])
def test_wrong_pattern_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Scrubber(custom_patterns=["good", pattern])
    assert (caught.value.key, caught.value.value) == ("custom_sensitive_patterns", pattern)
