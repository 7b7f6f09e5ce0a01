"""The page: one file, a policy that allows only its own script, and hostile text that stays data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

from pipeline.timeline.columns import Process, columns
from pipeline.timeline.page import page
from tests.timeline.processes import BEGIN_NS, HOSTILE, MS, build, process


def made(*processes: Process, title: str = "Processes", left_out: int = 0) -> str:
    return page(columns(processes, BEGIN_NS, BEGIN_NS + 5000 * MS), title=title, version="9.9", left_out=left_out)


class Elements(HTMLParser):
    """Collects elements, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self._in, []).append(data)


def test_the_policy_names_the_style_and_the_script_and_nothing_else() -> None:
    elements = Elements(made(process(7, 0, 1)))
    [policy] = [attrs["content"] or "" for tag, attrs in elements.found if "http-equiv" in attrs]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["base-uri"] == "'none'" and rules["form-action"] == "'none'"
    [style] = elements.text["style"]
    script = elements.text["script"][-1]
    for name, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert set(rules) == {"default-src", "base-uri", "form-action", "style-src", "script-src"}


def test_the_page_refers_to_nothing() -> None:
    for tag, attrs in Elements(made(process(7, 0, 1))).found:
        assert tag not in {"link", "img", "iframe", "object", "embed", "use", "image", "a", "base"}
        assert not [key for key in attrs if key.startswith("on") or key in {"src", "href", "style", "srcdoc"}]


def test_hostile_text_stays_data() -> None:
    plain = Elements(made(process(7, 0, 1)))
    hostile = Elements(made(
        process(7, 0, 1, path=f"/tmp/{HOSTILE}", argv=[HOSTILE, "x" * 9000], user=HOSTILE, comm=HOSTILE[:15],
                container_id=HOSTILE, cgroup=f"/{HOSTILE}.service"),
        title=HOSTILE,
    ))  # fmt: skip
    assert hostile.found == plain.found
    assert hostile.text["script"][-1] == plain.text["script"][-1]
    data = json.loads(hostile.text["script"][0])
    [command] = [text for text in data["strings"] if text.endswith("…")]
    assert "</script><script>" in command and "\\x1b[31m\\u202egnp.exe\\xff" in command


def test_what_is_left_out_is_said() -> None:
    assert "older processes" not in made(process(7, 0, 1))
    text = made(process(7, 0, 1), process(8, 0, 1), left_out=1234)
    assert "1,234 older processes are left out: this page has at most 2." in text


def test_the_summary_counts() -> None:
    elements = Elements(made(*build(10), title="Processes under 100"))
    assert elements.text["h1"] == ["Processes under 100"]
    assert elements.text["p"][0] == "42 processes, 1 failed; 5 s from 2025-11-28 03:20:00 UTC"


def test_the_script_needs_no_other_file() -> None:
    script = Elements(made(process(7, 0, 1))).text["script"][-1]
    assert not re.findall(
        r"\b(?:import|require|fetch|XMLHttpRequest|WebSocket|eval|innerHTML|document\.write)\b", script
    )


def test_all_columns_are_documented() -> None:
    from pipeline.timeline import columns as module

    found: dict[str, Any] = columns(build(3), BEGIN_NS, BEGIN_NS)
    documented = set(re.findall(r"^    (\w+) +(?:int\??|0, 1) ", module.__doc__ or "", re.MULTILINE))
    assert set(found) - {"from_ns", "duration", "strings"} == documented | set(module.COSTS)
