"""Find what texts of the repository refer to: sections, scenarios, laws, links, files, modules, attributes, names of C.

Covers the forms in which comments and pages cite something, and whether the target exists. Leaves out URLs, and names
in the tables of docs/parity.md (tests/resolver/api/test_parity.py checks those).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
BEHAVIOUR = ROOT / "docs" / "behaviour.md"
LAWS = ROOT / "docs" / "architecture.md"

_SUFFIXES = {
    ".py", ".pyx", ".pxd", ".pxi", ".pyi", ".c", ".h", ".md", ".toml", ".sh", ".yml", ".yaml", ".in", ".service", ".js",
    ".css", ".html",
}  # fmt: skip
_DIRECTORIES = ("pipeline", "tests", "docs", "bench", "script", "examples", "packaging", "ansible", ".ci")
#: Comments of these have other signs, so all of their lines are read.
_ALL_TEXT = (".md", ".c", ".h", ".js", ".css", ".html")
#: A number in parentheses, such as "(9.3.4)", cites a section only here; elsewhere it is a number.
_NUMBERED = ("docs/parity.md", "docs/behaviour.md", "pipeline/resolver/", "pipeline/secrets/", "tests/resolver/")


class _Search:
    """An expression, and characters without which it cannot match: most lines lack them, and are passed quickly."""

    def __init__(self, needed: str, expression: str) -> None:
        self._needed = needed
        self._expression = re.compile(expression)

    def finditer(self, line: str) -> Iterable[re.Match[str]]:
        return self._expression.finditer(line) if self._needed in line else ()


_NUMBER = r"[1-9](?:\.\d{1,2}){0,2}"
_LIST = rf"{_NUMBER}(?:(?:, and |, | and | to | or ){_NUMBER}(?![\d\w%]| [a-z]*s\b))*"
_SECTION = _Search("pecification", rf"\b[Ss]pecification,? (?:sections? )?({_LIST})(?! [MKG]?B\b)")
#: The table of a section has its number.
_TABLE = _Search("able", rf"\b[Tt]ables? ({_LIST})")
#: Without the word "specification", in the files of _NUMBERED.
_BARE_SECTION = _Search("ection", rf"(?<![Ss]pecification )\b[Ss]ections? ({_LIST})")
_STEP = _Search(" step ", r"\b([1-9](?:\.\d{1,2}){1,2}),? step (\d+)")
_ITEM = _Search(" item ", r"\b[Ss]pecification (9\.[13]) item (\d+)")
_PARENTHESES = _Search("(", rf"\(({_NUMBER}(?: step \d+)?(?:(?:, | to | and ){_NUMBER}(?: step \d+)?)*)\)")
_SCENARIO = re.compile(r"(?<![\w.\\])([RED])([1-9]\d?)[a-z]?\b(?!\()")
#: In files other than those of _NUMBERED.
_CITED_SCENARIO = _Search("pecification", r"\b[Ss]pecification ([RED])([1-9]\d?)\b")
_LAW = _Search("aw", r"\b[Ll]aws? (\d+)\b")
_LINK = _Search("](", r"\]\(([^()\s]+)\)")
#: Suffixes of files that are written by hand or committed. A path to one of them is a citation.
_CITED = "pyx|pxd|pxi|pyi|py|md|toml|h|c|o|js|css|html|sh|yml|yaml|service|json"
_FILE = _Search("/", rf"(?<![\w./~$*{{<-])((?:[\w.-]+/)+[\w-]+(?:\.[\w-]+)*\.(?:{_CITED}))\b(?![*{{<])")
#: A file without its directory. Users choose the names of data, pages and units, so this follows only source code.
_BARE_FILE = _Search(
    ".",
    r"(?<![\w./~$*{<%@-])([\w-]+(?:\.bpf)?\.(?:pyx|pxd|pxi|pyi|py|md|toml|h|c|o|js|css|sh|yml)"
    r"|procline[\w-]*\.(?:service|sysusers|tmpfiles))\b(?![*{<(\w-]|\.\w)",
)
#: Suffixes of source code, of which several files of one name are common.
_CODE = (".py", ".pyx", ".pxd", ".pxi", ".pyi", ".c", ".h", ".o", ".js", ".css")
#: A script, which has no suffix.
_SCRIPT = _Search("/", r"(?<![\w./~$*{<-])((?:script|\.ci|tests/\w+)/(?:[a-z]+-)?[a-z]+)\b(?![*{</.\w-])")
_MODULE = _Search("pipeline.", r"(?<![\w./-])pipeline((?:\.\w+)+)")
#: A module without the name of the package. Settings and fields begin with other words than these packages.
_SHORT_MODULE = _Search("`", r"`((?:bpf|bus|procfs|records|resolver|shm|sources)(?:\.[a-z_]+)+)`")
#: What C code defines. A recipe of CONTRIBUTING.md makes up some, and NAME stands for any.
_C_NAME = re.compile(r"\b((?:pl|PL)_\w+)\b(?!\\?\*)")
_MADE_UP_C_NAMES = {"PL_C_NAME", "PL_C_SCRIPT_EXECS", "PL_KIND_STOP", "pl_on_renamed"}
_ATTRIBUTE = _Search(".", r"(?<![\w./])([A-Z]\w+)\.([a-z_]\w*)\b")
_CLASS = re.compile(r"^\s*(?:cdef )?class (\w+)(?:\(([^)]*)\))?", re.MULTILINE)
#: Files of other projects that comments name.
_OF_OTHERS = {"Python.h", "auth2.c", "pyconfig.h", "seccomp.h", "session.c", "string.h", "time.h", "zmq.h"}
#: Files that examples and tests write.
_OF_EXAMPLES = {"alert.py", "count.py", "file7.c", "one.pyx", "report.md", "run.sh", "x.py", "x.sh"}
#: Single words in backticks, and the first words of the rows of an indented table.
_NAME = re.compile(r"(?<!`)`([a-z_]\w*)`(?!`)")
#: Names of Python in the specification: what the library has, or a word of it. "R20b" is a scenario.
_SPECIFIED_NAME = re.compile(r"(?<!`)`(?![RED]\d)([A-Za-z_]\w*)(?:\([^()`]*\))?`(?!`)")
_TABLE_ROW = re.compile(r"^    ([a-z_]\w*)  ", re.MULTILINE)
_DOCSTRING = re.compile(r'\A"""(.*?)"""', re.DOTALL)
#: Names in docstrings of modules that are no modules and occur in no code of the package.
_NAMES_OF_OTHERS = {"eval", "inode_file", "kernel_thread_pids", "memlock", "pid_path_keys", "procline", "user_session"}
#: Words in backticks in the specification that are values, and that no code of `pipeline` has in this form.
_SPECIFIED_VALUES = {"ls", "stripetoken"}
#: A name with a part to fill in, such as NAME.bpf.o.
_PLACEHOLDER = re.compile(r"(?:^|/)[A-Z]+(?:\.[A-Z]+)*\.(?!md)")


class Citation(NamedTuple):
    """One reference: the file that has it, its line, and its target as written."""

    file: str
    line: int
    kind: str
    target: str


def texts() -> Iterator[tuple[str, str]]:
    """Path relative to the repository and content of each file that is written by hand."""
    paths = [path for name in _DIRECTORIES for path in sorted((ROOT / name).rglob("*"))]
    for path in [*sorted(ROOT.glob("*.md")), ROOT / "setup.py", *paths]:
        generated = path.suffix == ".c" and (path.with_suffix(".pyx").exists() or path.name == "_cython.c")
        if not path.is_file() or generated or path.parent == Path(__file__).parent:
            continue
        if path.suffix in _SUFFIXES or (not path.suffix and path.read_bytes().startswith(b"#!")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def citations(file: str, text: str) -> Iterator[Citation]:
    """All citations in one text."""
    numbered = file.startswith(_NUMBERED)
    in_string = False
    for number, line in enumerate(text.splitlines(), 1):
        comment = file.endswith(_ALL_TEXT) or in_string or '"""' in line or "#" in line
        if line.count('"""') % 2:
            in_string = not in_string
        for found in _SECTION.finditer(line):
            yield from (Citation(file, number, "section", each) for each in re.findall(_NUMBER, found[1]))
        for found in _TABLE.finditer(line):
            yield from (
                Citation(file, number, "section", each) for each in re.findall(_NUMBER, found[1]) if "." in each
            )
        for found in _ITEM.finditer(line):
            yield Citation(file, number, "section", f"{found[1]}.{found[2]}")
        for found in _LAW.finditer(line):
            yield Citation(file, number, "law", found[1])
        if not numbered:
            for found in _CITED_SCENARIO.finditer(line):
                yield Citation(file, number, "scenario", found[1] + found[2])
        if numbered and comment:
            for found in _BARE_SECTION.finditer(line):
                yield from (Citation(file, number, "section", each) for each in re.findall(_NUMBER, found[1]))
            for found in _PARENTHESES.finditer(line):
                if "." in found[1]:
                    sections = re.sub(r" step \d+", "", found[1])
                    yield from (Citation(file, number, "section", each) for each in re.findall(_NUMBER, sections))
            for found in _SCENARIO.finditer(line):
                yield Citation(file, number, "scenario", found[1] + found[2])
            yield from (Citation(file, number, "step", f"{each[1]} {each[2]}") for each in _STEP.finditer(line))
        if file.endswith(".md"):
            for found in _C_NAME.finditer(line):
                yield Citation(file, number, "C name", found[1])
            for found in _LINK.finditer(line):
                if not re.match(r"[a-z]+:", found[1]):
                    yield Citation(file, number, "link", found[1])
        if comment:
            for found in _FILE.finditer(line):
                yield Citation(file, number, "file", found[1])
            for found in _SCRIPT.finditer(line):
                yield Citation(file, number, "file", found[1])
            remark = _remark(file, line)
            for found in _BARE_FILE.finditer(remark):
                yield Citation(file, number, "bare file", found[1])
            for found in _MODULE.finditer(line):
                yield Citation(file, number, "module", found[1][1:])
            for found in _SHORT_MODULE.finditer(line) if file.startswith(("pipeline/", "docs/")) else ():
                yield Citation(file, number, "module", found[1])
            for found in _ATTRIBUTE.finditer(remark):
                yield Citation(file, number, "attribute", found[0])
    yield from _names_in_docstring(file, text)
    if ROOT / file == BEHAVIOUR:
        for found in _SPECIFIED_NAME.finditer(text):
            yield Citation(file, text.count("\n", 0, found.start()) + 1, "specified name", found[1])


def _names_in_docstring(file: str, text: str) -> Iterator[Citation]:
    """The names in the docstring of a module below `pipeline`, without the package `pipeline` and its public names."""
    docstring = _DOCSTRING.match(text)
    if docstring is None or not file.startswith("pipeline/") or file == "pipeline/__init__.py":
        return
    kind = "module beside" if file.endswith("/__init__.py") else "name"
    for expression in (_NAME, _TABLE_ROW) if kind == "module beside" else (_NAME,):
        for found in expression.finditer(docstring[0]):
            yield Citation(file, docstring[0].count("\n", 0, found.start()) + 1, kind, found[1])


def _remark(file: str, line: str) -> str:
    """The comment of a line: the text behind the sign of a comment, or all of the line."""
    if file.endswith(_ALL_TEXT):
        return line
    code, sign, remark = line.partition("  # ")
    return remark if sign and code.strip() else line


@cache
def all_citations() -> tuple[Citation, ...]:
    """The citations of all texts."""
    return tuple(each for file, text in texts() for each in citations(file, text))


@cache
def anchors(path: Path) -> frozenset[str]:
    """Anchors of a page: those that are written down, and those that headings get."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r'<a id="([^"]+)">', text)
    for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        found.append(re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-"))
    return frozenset(found)


def _has_step(section: str, step: str) -> bool:
    """Whether a section of the behaviour is a numbered list with this step."""
    _, found, text = BEHAVIOUR.read_text(encoding="utf-8").partition(f'<a id="s{section.replace(".", "-")}"></a>')
    return bool(found) and re.search(rf"^{step}\. ", text.partition("<a id=")[0], re.MULTILINE) is not None


def _file_exists(file: str, target: str) -> bool:
    places = [ROOT, ROOT / "pipeline", ROOT / "tests", ROOT / "bench", (ROOT / file).parent, ROOT / "pipeline" / "bpf"]
    return any((place / target).exists() for place in places)


def _ours(file: str, target: str) -> bool:
    """Whether a path begins in the repository; others, such as kernel/fork.c, are of other projects."""
    first = target.split("/", 1)[0]
    if target.startswith("bpf/bpf_"):
        return False  # headers of libbpf
    if _PLACEHOLDER.search(target):
        return False
    return first in (*_DIRECTORIES, "requirements") or any(
        (place / first).is_dir() for place in (ROOT / "pipeline", (ROOT / file).parent) if first != "."
    )


@cache
def _c_names() -> frozenset[str]:
    """The names with the prefix of the C code in all files that are no pages."""
    return frozenset(name for file, text in texts() if not file.endswith(".md") for name in _C_NAME.findall(text))


@cache
def _file_names() -> frozenset[str]:
    """The names of all files, those that the build makes among them."""
    return frozenset(
        path.name
        for each in (ROOT, *map(ROOT.joinpath, _DIRECTORIES))
        for path in each.glob("*" if each == ROOT else "**/*")
    )


@cache
def _named_files() -> dict[str, set[str]]:
    """The paths of the files in `pipeline`, and of those in the directory above it, by file name."""
    found: dict[str, set[str]] = {}
    for path in (*ROOT.glob("*"), *(ROOT / "pipeline").rglob("*")):
        found.setdefault(path.name, set()).add(str(path.relative_to(ROOT)))
    return found


def _is_clear(file: str, target: str) -> bool:
    """Whether a bare name in a file leads to one file: the one beside it, or the only one that the package has.

    Outside of `pipeline`, and for what is no code, any file of the repository is enough.
    """
    if not file.startswith("pipeline/") or not target.endswith(_CODE):
        return target in _file_names()
    found = _named_files().get(target, set())
    return str(Path(file).with_name(target)) in found or len(found) == 1


@cache
def _modules() -> dict[str, set[str]]:
    """The packages, as paths relative to the repository, in which a module or a package of a name is."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "pipeline").rglob("*"):
        if path.suffix in {".py", ".pyx", ".pxd"} or (path / "__init__.py").exists():
            found.setdefault(path.stem, set()).add(str(path.parent.relative_to(ROOT)))
    return found


@cache
def _words_of(package: str) -> frozenset[str]:
    """The words of a package's modules without their docstrings."""
    paths = [path for path in (ROOT / package).iterdir() if path.suffix in {".py", ".pyx", ".pxd"}]
    texts = (_DOCSTRING.sub("", path.read_text(encoding="utf-8")) for path in paths)
    return frozenset(word for text in texts for word in re.findall(r"\w+", text))


@cache
def _words_of_pipeline() -> frozenset[str]:
    """The words of all modules."""
    packages = {path.parent for path in (ROOT / "pipeline").rglob("*.py")}
    return frozenset().union(*(_words_of(str(package.relative_to(ROOT))) for package in packages))


def _is_module_beside(file: str, name: str) -> bool:
    """Whether a name is a module or a package in the directory of a file, or in one between it and `pipeline`."""
    return not _modules().get(name, set()).isdisjoint(str(above) for above in Path(file).parents[:-2])


def _is_named(file: str, name: str) -> bool:
    """Whether a name is a module, or occurs in the code of the package of a file."""
    return name in _modules() or name in _words_of(str(Path(file).parent))


@cache
def _classes() -> dict[str, tuple[str, set[str]]]:
    """For each class of the repository: the text of the modules that define it, and the names of its bases."""
    modules: dict[str, str] = {}
    for file, text in texts():
        if file.endswith((".py", ".pyx", ".pxd", ".pyi")):
            module = file.rpartition(".")[0]
            modules[module] = modules.get(module, "") + text
    found: dict[str, tuple[str, set[str]]] = {}
    for text in modules.values():
        for name, bases in set(_CLASS.findall(text)):
            before, known = found.get(name, ("", set()))
            found[name] = (before + text, known | set(re.findall(r"\w+", bases)))
    return found


def _has_attribute(name: str, attribute: str) -> bool:
    """Whether a class, or one that it inherits from, can have an attribute: a module that defines it has the word."""
    text, bases = _classes()[name]
    if re.search(rf"\b{attribute}\b", text):
        return True
    return any(_has_attribute(base, attribute) for base in bases & _classes().keys() - {name})


def _module_exists(dotted: str) -> bool:
    place = ROOT / "pipeline"
    for name in dotted.split("."):
        if (place / name).is_dir():
            place = place / name
            continue
        if any((place / f"{name}{suffix}").exists() for suffix in (".py", ".pyx", ".pxd")):
            return True
        sources = [place / "__init__.py", *place.glob("*.toml")]
        return any(re.search(rf"\b{name}\b", each.read_text(encoding="utf-8")) for each in sources if each.exists())
    return True


def leads_nowhere(cited: Citation) -> bool:
    """Whether the target of a citation does not exist."""
    match cited.kind:
        case "section":
            return "s" + cited.target.replace(".", "-") not in anchors(BEHAVIOUR)
        case "step":
            return not _has_step(*cited.target.split())
        case "scenario":
            return cited.target.lower() not in anchors(BEHAVIOUR)
        case "law":
            return f"law-{cited.target}" not in anchors(LAWS)
        case "link":
            name, _, anchor = cited.target.partition("#")
            path = (ROOT / cited.file).parent / name if name else ROOT / cited.file
            return not path.exists() or (bool(anchor) and anchor not in anchors(path))
        case "file":
            return _ours(cited.file, cited.target) and not _file_exists(cited.file, cited.target)
        case "bare file":
            if cited.target in _OF_OTHERS | _OF_EXAMPLES or _PLACEHOLDER.search(cited.target):
                return False
            return not _is_clear(cited.file, cited.target)
        case "attribute":
            name, _, attribute = cited.target.partition(".")
            return name in _classes() and not _has_attribute(name, attribute)
        case "module beside":
            return cited.target not in _NAMES_OF_OTHERS and not _is_module_beside(cited.file, cited.target)
        case "name":
            return cited.target not in _NAMES_OF_OTHERS and not _is_named(cited.file, cited.target)
        case "specified name":
            return cited.target not in _SPECIFIED_VALUES and cited.target not in _words_of_pipeline()
        case "module":
            return not _module_exists(cited.target)
        case "C name":
            return cited.target not in _c_names() | _MADE_UP_C_NAMES
    raise ValueError(cited.kind)
