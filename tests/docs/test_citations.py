"""Every citation leads somewhere: sections, scenarios, laws, links between pages, files, modules and attributes."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.docs.citations import BEHAVIOUR, all_citations, anchors, citations, leads_nowhere
from tests.resolver.api.test_scenarios import IDS

MADE_UP = [
    ("pipeline/x.py", "# As in specification 3.3.99.", "section", "3.3.99"),
    ("pipeline/x.py", "# See specification 3.3.1, 3.3.5 to 3.9.", "section", "3.9"),
    ("pipeline/x.py", "# Never guess (specification 9.1 item 40).", "section", "9.1.40"),
    ("pipeline/resolver/x.pyx", "# The first image moves (9.3.44).", "section", "9.3.44"),
    ("tests/resolver/x.py", "# See specification 3.3.8 step 60.", "step", "3.3.8 60"),
    ("docs/parity.md", "| a | b | moves the first image (9.2, 9.3.40) |", "section", "9.3.40"),
    ("tests/resolver/x.py", "# Nothing is relinked (specification R77).", "scenario", "R77"),
    ("pipeline/x.py", "# Memory has a ceiling (law 70).", "law", "70"),
    ("pipeline/x.py", "# The calls of table 2.9.", "section", "2.9"),
    ("pipeline/resolver/x.py", "# The operations of section 7.99.", "section", "7.99"),
    ("docs/x.md", "[the wire](wire-scheme.md)", "link", "wire-scheme.md"),
    ("docs/x.md", "[the merge](architecture.md#no-such-heading)", "link", "architecture.md#no-such-heading"),
    ("pipeline/x.py", "# The layout is in pipeline/shm/rows.py.", "file", "pipeline/shm/rows.py"),
    ("docs/x.md", "The rows are in `resolver/_rows.pyx`.", "file", "resolver/_rows.pyx"),
    ("pipeline/bpf/x.py", "# It is in programs/proc.line.bpf.c.", "file", "programs/proc.line.bpf.c"),
    ("docs/x.md", "The page is `timeline/apps.js`.", "file", "timeline/apps.js"),
    ("pipeline/bpf/programs/x.bpf.h", " * which set is used; see variants.py. */", "bare file", "variants.py"),
    ("pipeline/x.py", "size = 2  # as in shared.bpf.h", "bare file", "shared.bpf.h"),
    ("pipeline/procfs/x.py", "# As reader.py does.", "bare file", "reader.py"),  # only outside of pipeline/
    ("pipeline/shm/writer/x.pyx", '"""STATE_* of tables.py."""', "bare file", "tables.py"),  # three other packages
    ("pipeline/why/__init__.py", '"""Only `host` and `files` read."""', "module beside", "files"),  # in another package
    ("pipeline/forward/__init__.py", '"""Sends.\n\n    sender   sends\n"""', "module beside", "sender"),
    ("pipeline/resolver/api/x.py", '"""It does not find: `lookup` does."""', "name", "lookup"),
    ("docs/behaviour.md", "* `set_pathname` takes the basename.", "specified name", "set_pathname"),
    ("docs/behaviour.md", "Call `with_no_such_option(names)`.", "specified name", "with_no_such_option"),
    ("docs/x.md", "The unit is procline-reader.service.", "bare file", "procline-reader.service"),
    ("pipeline/x.py", "link_fd: int  #: `Capture.iter_link_fd`", "attribute", "Capture.iter_link_fd"),
    ("docs/x.md", "Call `ProcessTable.look_at`.", "attribute", "ProcessTable.look_at"),
    ("docs/x.md", "Call `pipeline.resolver.procfs`.", "module", "resolver.procfs"),
    ("docs/x.md", "Run `script/no-such` first.", "file", "script/no-such"),
    ("pipeline/bpf/programs/x.bpf.h", " * pipeline/shm/rows.py has the same.", "file", "pipeline/shm/rows.py"),
    ("tests/secrets/x.py", '"""Specification D77: the first is evicted."""', "scenario", "D77"),
    ("pipeline/resolver/x.py", "    # -- specification 3.3.99 ---------", "section", "3.3.99"),
    ("pipeline/shm/reader/x.py", "# The writer's (`resolver.no_such_entry`).", "module", "resolver.no_such_entry"),
    ("CONTRIBUTING.md", "       pl_fill_no_such(&record->plain.header, task);", "C name", "pl_fill_no_such"),
]  # fmt: skip


@pytest.mark.expensive
@pytest.mark.slow
def test_every_citation_leads_somewhere() -> None:
    lost = [each for each in all_citations() if leads_nowhere(each)]
    assert not lost, "\n".join(f"{each.file}:{each.line}: {each.kind} {each.target}" for each in lost)


@pytest.mark.expensive
@pytest.mark.slow
def test_each_kind_of_citation_is_found() -> None:
    """An expression that no longer matches anything would make the test above pass."""
    counts = Counter(each.kind for each in all_citations())
    assert counts["section"] > 150 and counts["scenario"] > 100 and counts["law"] > 4, counts
    assert counts["link"] > 60 and counts["file"] > 60 and counts["module"] > 20, counts
    assert counts["bare file"] > 100 and counts["attribute"] > 100, counts
    assert counts["module beside"] > 60 and counts["name"] > 150, counts
    assert counts["specified name"] > 150 and counts["C name"] > 40, counts


@pytest.mark.parametrize(("file", "text", "kind", "target"), MADE_UP)
def test_a_made_up_citation_leads_nowhere(file: str, text: str, kind: str, target: str) -> None:
    assert target in [each.target for each in citations(file, text) if each.kind == kind and leads_nowhere(each)]


def test_the_page_has_every_scenario_of_the_tables() -> None:
    assert {each.lower() for each in IDS} <= anchors(BEHAVIOUR)


def test_no_anchor_is_defined_twice() -> None:
    ids = [line.split('"')[1] for line in BEHAVIOUR.read_text().split("<a ")[1:]]
    assert len(ids) == len(set(ids))
