"""The check for names that nothing uses, which `script/lint` runs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.loading import load

SCRIPT = Path(__file__).parents[1] / "script" / "unused_names.py"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    return load(SCRIPT, "unused_names")


def found(check: ModuleType, root: Path, files: dict[str, str]) -> list[tuple[str, str]]:
    """Return the unused names of files, each with the name of its file."""
    paths = []
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.suffix in {".pyx", ".pxd"}:
            paths.append(path)
    return [(str(path.relative_to(root)), name) for path, name in check.unused_imports(root, paths)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from libc.stdint cimport uint8_t, uint32_t\ncdef uint32_t x\n", ["uint8_t"]),
        ("from a cimport (\n    B, C,\n    D as E,\n)\nC(D)\n", ["B", "E"]),
        ("from a cimport B, \\\n    C\nB\n", ["C"]),
        ("import os\nimport numpy as np\nimport a.b\na.b.c()\n", ["os", "np"]),
        ("cimport cython\n@cython.final\ncdef class A:\n    pass\n", []),
        ("from a cimport B  # B is for later\n", ["B"]),
        ('from a cimport B, C\nx = "B", f"{C}"\n', ["B"]),
        ('from a cimport B\ncdef extern from *:\n    """\n    typedef B D;\n    """\n    pass\n', ["B"]),
        ("from a cimport B\nself.B = other.B\n", ["B"]),
        ('from a cimport B\nf("#" if B else "it\'s")\n', []),
        ("from __future__ import annotations\nfrom a cimport *\nfrom a cimport B as B\n", []),
        ("def f():\n    from a import b, c\n    return c\n", ["b"]),
    ],
)
def test_a_name_is_used_or_reported(check: ModuleType, tmp_path: Path, text: str, names: list[str]) -> None:
    assert found(check, tmp_path, {"m.pyx": text}) == [("m.pyx", name) for name in names]


def test_a_declaration_file_shares_its_names_with_its_module_and_may_pass_them_on(
    check: ModuleType, tmp_path: Path
) -> None:
    files = {
        "p/a.pxd": "from x cimport A, B, C, D\ncdef A a\n",
        "p/a.pyx": "from x cimport C\nB(C)\n",
        "p/b.pyx": "from p.a cimport D\nD()\n",
    }
    assert found(check, tmp_path, files) == [("p/a.pxd", "C")]
    assert found(check, tmp_path, files | {"p/b.pyx": "D()\n"}) == [("p/a.pxd", "C"), ("p/a.pxd", "D")]


def test_an_included_file_uses_names(check: ModuleType, tmp_path: Path) -> None:
    files = {"m.pyx": 'from a cimport B, C\ninclude "rest.pxi"\n', "rest.pxi": "B()\n"}
    assert found(check, tmp_path, files) == [("m.pyx", "C")]


def defined(check: ModuleType, root: Path, files: dict[str, str]) -> list[str]:
    """Return the names that files define and none of them uses."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return [name for _, name in check.unused_definitions(root, check.code_files(root))]


@pytest.mark.parametrize(
    ("ending", "text", "names"),
    [
        (".py", "A = 1\nB: int = A\nC, D = B, 2\nE = (\n    D,\n)\n", ["C", "E"]),
        (".py", "def f():\n    x = 1\n\n\nasync def g():\n    f()\n\n\nclass H:\n    attribute = 1\n", ["g", "H"]),
        (".py", '"""Has A."""\nA = 1  # A is for later\n\n\ndef f():\n    """Call f with A."""\n', ["A", "f"]),
        (".py", 'A = 1\nB = "m.A"\nprint(f"{B}")\nC = """\nD = 1\n"""\nprint(C)\n', []),
        (".py", "class _A:\n    def f(self):\n        self._b = 1\n        self._c = _A\n        self._c()\n", ["_b"]),
        (".py", "@fixture(\n    a=1,\n)\n@other\ndef f():\n    pass\n\n\ndef g():\n    pass\n", ["g"]),
        (".py", "def test_x():\n    pass\n\n\ndef pytest_configure():\n    pass\n\n\n__all__ = 1\n", []),
        ("_use.py", "def f():\n    pass\n", []),
        (".pyx", "cdef uint64_t A = 1\ncdef int *f(int a) noexcept:\n    g()\ncpdef g():\n    pass\n", ["A", "f"]),
        (".pyx", "cdef class A(B):\n    pass\n", ["A"]),
        (".pyx", 'cdef extern from *:\n    """\n    int a() { f(); }\n    """\ncdef int f():\n    pass\n', []),
    ],
)  # fmt: skip
def test_a_definition_is_used_or_reported(
    check: ModuleType, tmp_path: Path, ending: str, text: str, names: list[str]
) -> None:
    assert defined(check, tmp_path, {f"pipeline/typed{ending}": text}) == names


def test_a_definition_may_be_used_anywhere_but_in_a_stub_or_in_compiled_code(check: ModuleType, tmp_path: Path) -> None:
    files = {"pipeline/a.pyx": "A = 1\n", "pipeline/a.pyi": "A: int\n", "pipeline/a.c": "A;", "ansible/b.py": "B = 1\n"}
    assert defined(check, tmp_path, files) == ["A"]
    for user in ("tests/b.py", "docs/site/b.py", "pipeline/b.c", "script/run", "setup.py"):
        assert defined(check, tmp_path, {**files, user: "x(PL_A)\n"}) == [], user
        (tmp_path / user).unlink()


def for_tests(check: ModuleType, root: Path, files: dict[str, str]) -> list[str]:
    """Return the names of the product that only tests and benches use."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return [name for _, name in check.definitions_for_tests(root, check.code_files(root), check.page_files(root))]


@pytest.mark.parametrize(
    ("ending", "text", "names"),
    [
        (".py", "A = 1\nB = 2\n_C = B\n", ["A"]),
        (".py", "def f():\n    pass\n\n\nclass A:\n    def g(self):\n        pass\n\n\nA.g\n", ["f"]),
        (
            ".py",
            "class _A:\n    @property\n    def g(self):\n        return self._h()\n\n    def _h(self): ...\n",
            ["g"],
        ),
        (".py", "class _A:\n    def on_key(self): ...\n    def do_GET(self): ...\n", []),
        (".py", "A, B = 1, 2\nC, D = 1, 2\nprint(D)\n", ["A", "B"]),
        (".py", 'def f():\n    """Do it.\n\n    >>> f()\n    """\n', []),
        (".py", 'def f():\n    """Call f()."""\n', ["f"]),
        (
            ".pyx",
            "A = 1\ncdef int f():\n    pass\ncdef class B:\n    def g(self):\n        pass\n",
            ["A", "f", "B", "g"],
        ),
    ],
)
def test_a_definition_of_the_product_has_a_user_in_the_product(
    check: ModuleType, tmp_path: Path, ending: str, text: str, names: list[str]
) -> None:
    tried = {"tests/test_a.py": text.replace("def f", "def test_f"), "bench/b.py": "A, B, f, g, C, on_key, do_GET\n"}
    assert for_tests(check, tmp_path, tried | {f"pipeline/a{ending}": text}) == names


def test_what_is_documented_needs_no_user(check: ModuleType, tmp_path: Path) -> None:
    files = {"pipeline/a.py": "def f(): ...\n", "tests/a.py": "def g():\n    f()\n"}
    assert for_tests(check, tmp_path, files) == ["f"]
    for page, text in (("docs/a.md", "Call `a.f`."), ("docs/guides/a.md", "So:\n\n    f()\n"), ("README.md", "`f`\n")):
        assert for_tests(check, tmp_path, files | {page: text}) == [], page
        (tmp_path / page).unlink()
    assert for_tests(check, tmp_path, files | {"docs/a.md": "The letter f."}) == ["f"]


@pytest.mark.parametrize("user", ["pipeline/b.py", "examples/b.py", "script/b.py", "setup.py", "packaging/b.py"])
def test_all_but_tests_and_benches_can_use_the_product(check: ModuleType, tmp_path: Path, user: str) -> None:
    files = {"pipeline/a.py": "def f(): ...\n", "tests/a.py": "f()\n"}
    assert for_tests(check, tmp_path, files | {user: "f()\n"}) == []
