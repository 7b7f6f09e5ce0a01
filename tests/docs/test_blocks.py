"""Every code block of the documents has a language, and commands are run by a test or say why not."""

from __future__ import annotations

import re

from tests.docs.blocks import RUN, SHOWN, all_blocks, blocks, pages
from tests.docs.citations import ROOT

PAGE = """
Text.

```sh
procline tree
```

<!-- not run: it needs a guest -->
```sh
tests/vm/run
```

<!-- runs until stopped -->
```python
while True: pass
```

<!-- needs pandas -->
```python
import pandas
```

<!-- run by tests/docs/test_blocks.py -->
```sh
true
```

<!-- fails with 2 -->
```console
$ procline ps x \\
    y
an error
```

<!-- runs in a terminal -->
```sh
procline top
```

```console
$ procline resolve $$ \\
    --json
{}
$ true
```

    indented
"""


def test_blocks_are_found_with_their_marks() -> None:
    found = list(blocks(PAGE, "x.md"))
    assert [(each.language, each.mark, each.detail, each.is_run) for each in found] == [
        ("sh", "", "", True),
        ("sh", "not run", "it needs a guest", False),
        ("python", "runs until stopped", "", True),
        ("python", "needs", "pandas", True),
        ("sh", "run by", "tests/docs/test_blocks.py", False),
        ("console", "fails with", "2", True),
        ("sh", "runs in a terminal", "", True),
        ("console", "", "", True),
        ("", "", "", False),
    ]
    assert found[0].line == 4
    assert found[5].shown == "an error\n"
    assert found[7].script == "procline resolve $$ \\\n    --json\ntrue\n"


def test_every_block_has_a_language() -> None:
    """A block without one would not be run, whatever it contains. Indented blocks cannot have one."""
    wrong = [each for each in all_blocks() if each.language not in (*RUN, *SHOWN)]
    assert not wrong, "\n".join(f"{each.page}:{each.line}: {each.language or 'no language'}" for each in wrong)


def test_blocks_that_are_only_shown_are_no_commands() -> None:
    command = re.compile(r"^(?:\$ |procline |script/|python3? |examples/)", re.MULTILINE)
    wrong = [each for each in all_blocks() if each.language in SHOWN and command.search(each.text)]
    assert not wrong, "\n".join(f"{each.page}:{each.line}" for each in wrong)


def test_only_one_command_is_not_run_and_its_page_says_so() -> None:
    """A test run cannot run itself. Whatever else a page shows, some test can run."""
    found = [each for each in all_blocks() if each.mark == "not run"]
    assert [(each.page, each.script.split()[2]) for each in found] == [("docs/kernels.md", "script/test")]
    for each in found:
        lines = (ROOT / each.page).read_text(encoding="utf-8").splitlines()[: each.line - 1]
        assert "No test runs this command" in "\n".join(lines[-5:]), f"{each.page}:{each.line}"


def test_what_another_program_runs_is_run_there() -> None:
    """It asks for its blocks, by `run_by` or as tests/fresh and tests/hosts do without the environment."""
    for each in all_blocks():
        if each.mark == "run by":
            text = (ROOT / each.detail).read_text(encoding="utf-8")
            assert each.detail in text, f"{each.page}:{each.line}: {each.detail} does not ask for it"


def test_every_mark_is_at_a_block() -> None:
    """A mark with a mistake in it, or at another place, would do nothing."""
    comment = re.compile(r"^ *<!-- *(?:not run|runs? until|runs? in|run by|fails|needs)\b", re.MULTILINE)
    for page in pages():
        text = page.read_text(encoding="utf-8")
        marked = [each for each in blocks(text, page.name) if each.mark]
        assert len(comment.findall(text)) == len(marked), page.name


def test_most_blocks_are_run() -> None:
    """Otherwise marks would be the easy way out."""
    commands = [each for each in all_blocks() if each.language in RUN]
    assert len(commands) > 20
    assert sum(each.is_run for each in commands) > len(commands) / 2


def test_examples_are_short() -> None:
    for path in sorted((ROOT / "examples").glob("*.py")):
        assert path.name == "tracer.py" or len(path.read_text().splitlines()) <= 30, path.name


def test_every_example_is_linked_from_a_document() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in pages())
    for path in (path for path in (ROOT / "examples").rglob("*") if path.is_file() and path.suffix != ".pyc"):
        assert f"{path.relative_to(ROOT)})" in text, path.name
