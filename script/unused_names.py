"""Find names that a `.pyx` or `.pxd` file imports or cimports and does not use. ruff reads neither.

A name of a `.pxd` also counts as used if the module of the same name uses it, or if another module cimports it from
there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

DIRECTORIES = ("pipeline", "tests")
#: A comment, or a string with its prefix: whichever begins first.
_QUIET = re.compile(
    r"""#[^\n]*|(?<!\w)(?P<prefix>[bBfFrRuU]{0,2})(?:'{3}.*?'{3}|"{3}.*?"{3}|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")""",
    re.DOTALL,
)
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<module>[\w.]+)[ \t]+)?c?import[ \t]+(?P<names>\([^)]*\)|(?:\\\n|[^\n])*)", re.MULTILINE
)
_INCLUDE = re.compile(r"""^[ \t]*include[ \t]+["'](.+?)["']""", re.MULTILINE)


def _spoken(text: str) -> str:
    """Return code without comments and strings; of an f-string the expressions remain."""

    def kept(found: re.Match[str]) -> str:
        prefix = found["prefix"] or ""
        return " ".join(re.findall(r"\{([^{}]*)\}", found[0])) if "f" in prefix.lower() else ""

    return _QUIET.sub(kept, text)


def imports(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield each import of a Cython file: the module, the name in the module, and the name that it gets here.

    The first name is "" where a whole module is imported. ``import *`` and ``from a cimport b as b``, which passes a
    name on, are left out.
    """
    for found in _IMPORT.finditer(_spoken(text)):
        for part in re.sub(r"[()\\]", " ", found["names"]).split(","):
            name, _, alias = (word.strip() for word in part.partition(" as "))
            if not name or name == "*" or name == alias or found["module"] == "__future__":
                continue
            if found["module"]:
                yield found["module"], name, alias or name
            else:
                yield name, "", alias or name.partition(".")[0]


def code_of(path: Path) -> str:
    """Return the code of a file and of what it includes, without its imports."""
    text = path.read_text()
    included = [path.with_name(name) for name in _INCLUDE.findall(text)]
    return _IMPORT.sub("", _spoken(text)) + "".join(code_of(each) for each in included)


def unused(root: Path, paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each file and name that is not used.

    Args:
        root: the directory of the packages.
        paths: all `.pyx` and `.pxd` files below it.
    """
    found = {path: list(imports(path.read_text())) for path in sorted(paths)}
    passed_on = {(module, name) for each in found.values() for module, name, _ in each}
    for path, each in found.items():
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        is_shared = path.suffix == ".pxd"
        users: dict[Path, set[str]] = {path: set()}
        if is_shared and (compiled := path.with_suffix(".pyx")) in found:
            users[compiled] = {
                name for _, _, name in found[compiled]
            }  # a name that it imports itself is not the `.pxd`'s
        codes = [(code_of(user), own) for user, own in users.items()]
        for _, _, name in each:
            word = re.compile(rf"(?<![\w.]){re.escape(name)}\b")
            is_used = any(name not in own and word.search(code) for code, own in codes)
            if not is_used and not (is_shared and (module, name) in passed_on):
                yield path, name


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    paths = [
        path for directory in DIRECTORIES for path in (root / directory).rglob("*") if path.suffix in {".pyx", ".pxd"}
    ]
    status = 0
    for path, name in unused(root, paths):
        print(f"{path.relative_to(root)}: {name} is imported and not used: remove it", file=sys.stderr)
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
