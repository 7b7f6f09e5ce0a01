"""Find names that nothing uses and that ruff does not report.

Imports: names that a `.pyx` or `.pxd` file imports or cimports and does not use. A name of a `.pxd` also counts as used
if the module of the same name uses it, or if another module cimports it from there.

Definitions: constants, functions and classes of Python and Cython modules, and private attributes, that no code of the
repository names again. Comments and docstrings are not code. Other strings are: tests replace names by strings, and
start programs that are written in them.

Definitions for tests: public constants, functions, classes and methods of the product that only tests and benches name.
A name is public interface, and needs no user, if a page of the documentation has it as code, or an example of a
docstring. One user is enough for all constants that one statement defines: they are the values of one thing. A method
is not found if anything else of the product has its name.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

DIRECTORIES = ("pipeline", "tests")
#: Where definitions are checked. Ansible and Sphinx look for names in their modules, so those only use names.
DEFINING = ("pipeline", "tests", "bench", "examples", "packaging", "script")
USING = (*DEFINING, "setup.py", "pyproject.toml", "docs/site", "ansible")
PRODUCT = "pipeline"
#: What imitates and measures the product. It can have definitions of its own.
TRYING = ("tests", "bench")
PAGES = ("README.md", "docs")
_MODULES = {".py", ".pyx", ".pxd", ".pxi"}
#: Without `.pyi`, which declares the names of a compiled module once more.
_CODE = _MODULES | {".h", ".c", ".js", ".toml", ".yml", ".sh", ".service", ""}
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


def unused_imports(root: Path, paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
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


#: A definition of a module: a function or class, or variables.
_DEFINITION = re.compile(
    r"^(?:(?:async |cdef |cpdef )?(?:def|class) (?P<python>\w+)"
    r"|c(?:p)?def (?!class\b|extern\b)[^=:\n(]*?\b(?P<cython>\w+) *[(=]"
    r"|(?P<variables>\w+(?:, \w+)*)(?: *:[^=\n]+)? = )",
    re.MULTILINE,
)
#: Decorators and the line after them. They can register what they decorate, as a fixture for example.
_DECORATED = re.compile(r"^@[^\n]*\n(?:[ )@][^\n]*\n)*[^\n]*", re.MULTILINE)
_PRIVATE_ATTRIBUTE = re.compile(r"\bself\.(_\w+)(?: *:[^=\n]+)? = ")
#: Names that pytest looks for, and functions that only mypy reads: `typed_*.py` are programs of users.
_FOUND_BY_NAME = re.compile(r"test_|pytest_|__")
_ONLY_CHECKED = "typed_"


def _executed(text: str) -> str:
    """Return the code of a module without comments and docstrings, but with its other strings."""

    def kept(found: re.Match[str]) -> str:
        before = text[max(found.start() - 200, 0) : found.start()].rstrip()
        header = before.rpartition("\n")[2]
        is_docstring = not before or (before.endswith(":") and "extern" not in header)
        return "" if found[0].startswith("#") or (is_docstring and found[0].endswith('"""')) else found[0]

    return _QUIET.sub(kept, text)


def definitions(code: str) -> Iterator[str]:
    """Yield each name that the code of a module defines, and each private attribute that it sets."""
    for found in _DEFINITION.finditer(_DECORATED.sub("", code)):
        yield from (found["python"] or found["cython"] or found["variables"]).split(", ")
    yield from _PRIVATE_ATTRIBUTE.findall(code)


def _uses(texts: dict[Path, str]) -> Counter[str]:
    """Return how often the code of files has each word."""
    codes = (_executed(text) if path.suffix in _MODULES else text for path, text in texts.items())
    return Counter(word.removeprefix("PL_") for code in codes for word in re.findall(r"\w+", code))


def unused_definitions(root: Path, paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each file and name that is defined there and that none of the files uses.

    Args:
        root: the directory of the packages.
        paths: all files with code below it.
    """
    texts = {path: path.read_text(errors="replace") for path in sorted(paths)}
    uses = _uses(texts)
    defined = {path: list(definitions(_spoken(text))) for path, text in texts.items() if path.suffix in _MODULES}
    often = Counter(name for names in defined.values() for name in names)
    for path, names in defined.items():
        if path.relative_to(root).parts[0] in DEFINING and not path.name.startswith(_ONLY_CHECKED):
            for name in names:
                if uses[name] <= often[name] and not _FOUND_BY_NAME.match(name):
                    yield path, name


_METHOD = re.compile(r"^[ ]+(?:async )?def (\w+)", re.MULTILINE)
#: Methods that a library looks for by these names: Textual, Click, and the servers of the standard library.
_OVERRIDES = re.compile(
    r"on_|(?:render_line|shell_complete|format_commands|get_missing_message|handle_error|log_message|do_GET)$"
)
#: Code in a page, and in an example of a docstring.
_CODE_IN_PAGE = re.compile(r"`([^`\n]+)`|^(?: {4}|\t)(.+)$", re.MULTILINE)
_EXAMPLE = re.compile(r"^ *(?:>>>|\.\.\.) (.+)$", re.MULTILINE)


def public_definitions(code: str) -> Iterator[list[str]]:
    """Yield the public names that a statement of a module defines, and the name of each public method."""
    for found in _DEFINITION.finditer(_DECORATED.sub("", code)):
        names = (found["python"] or found["cython"] or found["variables"]).split(", ")
        yield [name for name in names if not name.startswith("_")]
    for name in _METHOD.findall(code):
        if not name.startswith("_") and not _OVERRIDES.match(name):
            yield [name]


def documented(pages: Iterable[Path], modules: Iterable[str]) -> set[str]:
    """Return the words of the code in pages, and in the examples of modules."""
    shown = [part for page in pages for found in _CODE_IN_PAGE.findall(page.read_text()) for part in found]
    shown += [line for text in modules for line in _EXAMPLE.findall(text)]
    return {word for each in shown for word in re.findall(r"\w+", each)}


def definitions_for_tests(root: Path, paths: Iterable[Path], pages: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each file of the product and name that is defined there and that only tests and benches use.

    Args:
        root: the directory of the packages.
        paths: all files with code below it.
        pages: the documentation.
    """
    parts = {path: path.relative_to(root).parts for path in sorted(paths)}
    texts = {path: path.read_text(errors="replace") for path, each in parts.items() if each[0] not in TRYING}
    modules = {path: text for path, text in texts.items() if path.suffix in _MODULES}
    uses, interface = _uses(texts), documented(pages, modules.values())
    defined = {path: list(public_definitions(_spoken(text))) for path, text in modules.items()}
    often = Counter(name for groups in defined.values() for group in groups for name in group)
    for path, groups in defined.items():
        for group in groups if parts[path][0] == PRODUCT else ():
            if not any(uses[name] > often[name] or name in interface for name in group):
                yield from ((path, name) for name in group)


def page_files(root: Path) -> Iterator[Path]:
    """Yield the pages of the documentation."""
    for each in PAGES:
        yield from (path for path in [root / each, *(root / each).rglob("*.md")] if path.is_file())


def code_files(root: Path) -> Iterator[Path]:
    """Yield the files that can use names, without the C code that Cython makes."""
    for each in USING:
        for path in [root / each, *(root / each).rglob("*")]:
            is_made = path.suffix == ".c" and path.with_suffix(".pyx").exists()
            if path.suffix in _CODE and path.is_file() and not is_made:
                yield path


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    paths = [
        path for directory in DIRECTORIES for path in (root / directory).rglob("*") if path.suffix in {".pyx", ".pxd"}
    ]
    status = 0
    for path, name in unused_imports(root, paths):
        print(f"{path.relative_to(root)}: {name} is imported and not used: remove it", file=sys.stderr)
        status = 1
    codes = list(code_files(root))
    for path, name in unused_definitions(root, codes):
        print(f"{path.relative_to(root)}: {name} is defined and not used: remove it", file=sys.stderr)
        status = 1
    for path, name in definitions_for_tests(root, codes, page_files(root)):
        print(f"{path.relative_to(root)}: only tests or benches use {name}: move it to them", file=sys.stderr)
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
