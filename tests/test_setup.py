"""script/setup and script/run keep a working environment; setup.py rejects what newer compilers reject."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest
from setuptools import Distribution, Extension
from setuptools.errors import CompileError

from pipeline.bpf import features
from tests.loading import load
from tests.sampling import chosen, is_quick

ROOT = Path(__file__).parent.parent

#: A build backend that installs nothing, so script/setup needs neither network nor compiler.
BACKEND = """
import pathlib, zipfile

def build_editable(directory, config_settings=None, metadata_directory=None):
    name = "procline-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(directory, name), "w") as wheel:
        info = "procline-0.1.0.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: procline\\nVersion: 0.1.0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name

build_wheel = build_editable
"""

#: The standard library's `venv`, which installs PIP: to install pip takes most of the time of a new environment.
VENV = """
import importlib.util, pathlib, shutil, sys, sysconfig

home = pathlib.Path(sysconfig.get_path("stdlib"), "venv")
spec = importlib.util.spec_from_file_location("venv", home / "__init__.py", submodule_search_locations=[str(home)])
real = sys.modules["venv"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)

def copy_pip(self, context):
    (into,) = pathlib.Path(context.env_dir, "lib").glob("python*/site-packages")
    shutil.copytree(pathlib.Path(__file__).with_name("pip"), into / "pip")

real.EnvBuilder._setup_pip = copy_pip
"""

#: A pip that installs nothing, but knows how script/setup may call it.
PIP = """
import pathlib, sys

common = ["install", "--disable-pip-version-check", "--no-input", "--no-deps", "--no-compile"]
match sys.argv[1:]:
    case [*given, "--require-hashes", "-r", one] if given == common and pathlib.Path(one).is_file():
        pass
    case [*given, "--require-hashes", "-r", one, "-r", two] if given == common and pathlib.Path(two).is_file():
        pass
    case [*given, "--no-build-isolation", "-e", "."] if given == common and pathlib.Path("setup.py").is_file():
        print("Successfully installed procline-0.1.0")
    case _:
        sys.exit(2)
"""

#: Each is an error by default in gcc 14 or clang 19, but at most a warning in gcc 12.
FAULTS = {
    "incompatible-pointer-types": "long f(long *a) { return *a; } long g(long long *a) { return f(a); }",
    "int-conversion": "long *f(long a) { return a; }",
    "implicit-function-declaration": "int f(void) { return not_declared(); }",
    "implicit-int": "static f = 1; int g(void) { return f; }",
    "return-type": "int f(void) { return; }",
}

COMPILERS = [
    name for name in ("cc", "gcc", "gcc-12", "gcc-13", "gcc-14", "gcc-15", "clang-19", "clang") if shutil.which(name)
]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """setup.py as a module."""
    return load(ROOT / "setup.py", "procline_setup")


@pytest.mark.parametrize("machine", [*features.OLD_MACHINES, "riscv64"])
def test_a_wheel_has_the_programs_of_its_machine(
    build: ModuleType, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.chdir(ROOT)
    package = "pipeline.bpf.programs"
    command = build.Modules(
        Distribution({"packages": [package], "package_data": {"": ["*.bpf.o"]}, "include_package_data": False})
    )
    command.ensure_finalized()
    ((_, _, _, names),) = command.data_files
    found = {Path(name).name for name in names}
    newer = {path.name for path in features.OBJECTS.glob("*.bpf.o") if ".old." not in path.name}
    suffix = features.OLD_MACHINES.get(machine)
    assert newer and found == newer | {f"{name}{suffix}" for name in features.OLD_NAMES if suffix}


@pytest.mark.expensive
@pytest.mark.slow
@pytest.mark.parametrize("compiler", chosen(COMPILERS))
def test_faults_that_a_newer_compiler_rejects_are_errors(build: ModuleType, compiler: str, tmp_path: Path) -> None:
    options = build.accepted([compiler], build.STRICT)
    assert "-Werror=incompatible-pointer-types" in options and "-Werror=no-such-warning" not in options
    assert build.accepted([compiler], ["-Werror=no-such-warning"]) == []
    for name, source in {"none": "int f(void) { return 1; }", **FAULTS}.items():
        path = tmp_path / f"{name}.c"
        path.write_text(source)
        done = subprocess.run(
            [compiler, "-std=gnu11", *options, "-c", path, "-o", tmp_path / "x.o"], capture_output=True, text=True
        )
        assert (done.returncode == 0) == (name == "none"), (name, done.stderr)


#: The address of an element, which gcc rejects only since version 14.
MISTAKE = """
    #include <stdint.h>
    #include <linux/types.h>
    struct counters { __u64 one; };
    static inline uint64_t counted(const uint64_t *at) { return *at; }
    static inline uint64_t one(const struct counters *at) { return counted(&at->one); }
"""


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A checkout with one module, which has MISTAKE. An empty file stands for the code that all modules share."""
    library = Path(f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}/pipeline")
    for directory in ("pipeline", library):
        (tmp_path / directory).mkdir(parents=True)
    for name in ("setup.py", "README.md", "pipeline/cold.h", "pipeline/order.ld", "pipeline/_cython.c"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / library / f"_cython{sysconfig.get_config_var('EXT_SUFFIX')}").touch()
    (tmp_path / "pipeline/__init__.py").touch()
    (tmp_path / "pipeline/_faulty.pyx").write_text(
        f'from libc.stdint cimport uint64_t\ncdef extern from *:\n    """{MISTAKE}    """\n'
        "    struct counters:\n        uint64_t one\n    uint64_t one(const counters *at)\n"
        "def read():\n    cdef counters now\n    now.one = 1\n    return one(&now)\n"
    )
    return tmp_path


@pytest.mark.slow
def test_a_build_stops_at_such_a_fault(
    build: ModuleType, faulty: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """For the compiler of this host. In a quick run without Cython's compiler: only to import it takes a second."""
    if is_quick():
        monkeypatch.chdir(faulty)
        Path("pipeline/_faulty.c").write_text(MISTAKE)
        command = build.Build(Distribution({"ext_modules": [Extension("pipeline._faulty", ["pipeline/_faulty.c"])]}))
        command.inplace = True
        command.ensure_finalized()
        with pytest.raises(CompileError):
            command.run()
        assert "incompatible-pointer-types" in capfd.readouterr().err
        return
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=faulty,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "incompatible-pointer-types" in done.stdout + done.stderr


@pytest.mark.expensive
@pytest.mark.slow
def test_clang_accepts_the_core(build: ModuleType, missing: Callable[[str], NoReturn]) -> None:
    """The core is built with gcc; clang finds other mistakes."""
    if shutil.which("clang-19") is None:
        missing("clang-19 is not installed")
    options = build.accepted(["clang-19"], build.STRICT)
    includes = [f"-I{directory}" for directory in (sysconfig.get_path("include"), *build.INCLUDED)]
    sources = chosen(source.with_suffix(".c") for source in sorted((ROOT / "pipeline").rglob("*.pyx")))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for done in threads.map(
            lambda source: subprocess.run(
                ["clang-19", "-fsyntax-only", *options, *includes, source], cwd=ROOT, capture_output=True, text=True
            ),
            sources,
        ):
            assert done.returncode == 0, done.stderr


#: The modules that include pipeline/bus/_push.pxd.
USERS = {"pipeline/bus/_push.pyx", "pipeline/sources/shard/_pacing.pyx", "pipeline/sources/shard/_shard.pyx"}


def modules_of(build: ModuleType, sources: Collection[str] = ()) -> list[Extension]:
    """Return all modules of Cython. What they depend on, which takes most of the time, is only found for `sources`."""
    find = build.included
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "included", lambda source: find(source) if str(source) in sources else set())
        return [module for module in build.extensions() if module.name != build.SHARED]


@pytest.fixture(scope="module")
def extensions(build: ModuleType) -> list[Extension]:
    """All modules with what they depend on; in a quick run only a few."""
    sources = USERS | {*chosen(module.sources[0] for module in modules_of(build))}
    return [module for module in modules_of(build, sources) if module.sources[0] in sources]


@pytest.mark.slow
def test_a_module_is_rebuilt_only_for_files_that_it_includes(
    build: ModuleType, extensions: list[Extension], missing: Callable[[str], NoReturn]
) -> None:
    """The C preprocessor knows which headers it read; an unrelated header must not rebuild everything."""
    if shutil.which("gcc") is None:
        missing("gcc is not installed")
    includes = [f"-I{directory}" for directory in (sysconfig.get_path("include"), *build.INCLUDED)]

    def read(module: Extension) -> set[str]:
        source = Path(module.sources[0]).with_suffix(".c")
        command = ["gcc", "-M", "-include", build.COLD, *includes, source]
        rule = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return {path for path in rule.split() if path.startswith("pipeline/") and path.endswith(".h")}

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for module, headers in zip(extensions, threads.map(read, extensions), strict=True):
            assert {path for path in module.depends if path.endswith(".h")} == headers, module.name


@pytest.mark.slow
def test_a_change_of_a_declaration_rebuilds_its_users_alone(extensions: list[Extension]) -> None:
    assert {module.sources[0] for module in extensions if "pipeline/bus/_push.pxd" in module.depends} == USERS


def test_cached_c_code_serves_other_checkouts(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of a module has the paths of its own files in the checkout, but not that of the environment."""
    hashes = []
    for name in ("one", "two"):
        (tmp_path / name / "env/libc").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        library = tmp_path / name / "env/libc/stdint.pxd"
        for path in ("a.pyx", "b.pyx", library):
            Path(path).write_text("x = 1\n")
        hashes.append([build.file_hash(path) for path in ("./a.pyx", "b.pyx", str(library))])
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 3
    Path("a.pyx").write_text("x = 2\n")
    assert build.file_hash("a.pyx") != hashes[1][0]


class Clone:
    """A checkout with the scripts and an empty package."""

    def __init__(self, root: Path, modules: Path) -> None:
        self.root = root
        self.environment = {**os.environ, "PYTHONPATH": str(modules)}
        for name in ("script", "requirements", "pipeline"):
            (root / name).mkdir(parents=True)
        for name in ("setup", "run"):
            shutil.copy(ROOT / "script" / name, root / "script" / name)
        for name in ("build", "host", "dev"):
            (root / "requirements" / f"{name}.txt").write_text("# nothing\n")
        (root / "setup.py").touch()
        (root / "pipeline" / "__init__.py").touch()
        (root / "backend.py").write_text(BACKEND)
        (root / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "procline"\nversion = "0.1.0"\n'
        )

    @property
    def marker(self) -> Path:
        return self.root / ".venv" / "marker"

    def setup(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [self.root / "script" / "setup", *arguments], env={**self.environment, **environment}, cwd="/",
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PYTHONPATH: an environment that Python makes gets PIP."""
    directory = tmp_path_factory.mktemp("modules")
    (directory / "venv" / "pip").mkdir(parents=True)
    (directory / "venv" / "__init__.py").write_text(VENV)
    (directory / "venv" / "pip" / "__main__.py").write_text(PIP)
    return directory


@pytest.fixture
def clone(tmp_path: Path, modules: Path) -> Clone:
    return Clone(tmp_path / "clone", modules)


@pytest.mark.expensive
@pytest.mark.slow
def test_setup_keeps_an_environment_that_is_active(clone: Clone) -> None:
    """If the environment is first in PATH, its own interpreter is found, which must not count as another one."""
    assert "making .venv" in clone.setup()
    clone.marker.touch()
    directory = clone.root / ".venv"
    active = {"PATH": f"{directory / 'bin'}:{os.environ['PATH']}", "VIRTUAL_ENV": str(directory)}
    assert clone.setup(**active) == "setup: ready: .venv/bin/procline\n"
    assert clone.marker.exists()
    # An environment is not created from another environment either.
    (directory / "procline-host").unlink()
    assert "making .venv" in clone.setup(**active)
    assert not clone.marker.exists()
    home = re.search(r"^home = (.*)$", (directory / "pyvenv.cfg").read_text(), re.MULTILINE)
    assert home and not home[1].startswith(str(clone.root))


@pytest.mark.expensive
@pytest.mark.slow
def test_a_changed_source_is_compiled_without_installing_again(clone: Clone) -> None:
    """By the real pip, except in a quick run."""
    if not is_quick():
        del clone.environment["PYTHONPATH"]
    (clone.root / "setup.py").write_text("import sys\nprint('compiled by', *sys.argv)\n")
    log = clone.root / ".cache" / "setup.log"
    assert "compiling" in clone.setup() and "compiled by" not in log.read_text()
    (clone.root / "pipeline" / "one.pyx").touch()
    assert "compiling" in clone.setup() and "compiled by setup.py build_ext --inplace" in log.read_text()
    (clone.root / "setup.py").touch()
    assert clone.setup() == "setup: ready: .venv/bin/procline\n"
    (clone.root / "setup.py").write_text("")
    assert "compiling" in clone.setup() and "Successfully installed procline" in log.read_text()


def test_all_installations_in_place_share_a_build_directory(build: ModuleType) -> None:
    """pip has a new directory for each, in which every module would have to be compiled."""
    command = build.Build(Distribution())
    command.editable_mode = True
    command.build_lib = command.build_temp = "/tmp/of-pip"
    command.ensure_finalized()
    assert command.build_lib.startswith("build/lib.") and command.build_temp.startswith("build/temp.")


def test_type_checkers_find_an_installation_in_place() -> None:
    """They read the path of a .pth file, but do not call the finders that setuptools writes for other layouts."""
    paths = list(Path(sysconfig.get_path("purelib")).glob("__editable__.procline-*.pth"))
    assert [Path(path.read_text().strip()) for path in paths] == [ROOT]


@pytest.mark.slow
def test_an_interpreter_found_by_a_link_is_the_same(clone: Clone, tmp_path: Path) -> None:
    """For example /usr/bin/python3: the environment records the target of the link."""
    link = tmp_path / "python3"
    link.symlink_to(getattr(sys, "_base_executable", sys.executable))
    clone.setup("--host", PROCLINE_PYTHON=str(link))
    clone.marker.touch()
    for environment in chosen(({}, {"PROCLINE_PYTHON": str(link)})):
        assert clone.setup("--host", **environment) == "setup: ready: .venv/bin/procline\n"
    assert clone.marker.exists()


@pytest.mark.expensive
@pytest.mark.slow
def test_tools_are_added_and_stay(clone: Clone) -> None:
    first = clone.setup("--host")
    assert "tools" not in first and not (clone.root / ".venv" / "procline-dev").exists()
    clone.marker.touch()
    assert "installing tools" in clone.setup()
    for arguments in chosen((("--host",), (), ("--host",))):
        assert clone.setup(*arguments) == "setup: ready: .venv/bin/procline\n"
    assert clone.marker.exists()
    assert clone.setup("--quiet", "--host") == ""
    for changed in chosen(("dev", "host")):
        (clone.root / "requirements" / f"{changed}.txt").write_text("# changed\n")
        if changed == "dev":
            assert clone.setup("--host") == "setup: ready: .venv/bin/procline\n"
        assert "making .venv" in clone.setup(*[] if changed == "dev" else ["--host"]) and not clone.marker.exists()
        clone.marker.touch()


@pytest.mark.expensive
@pytest.mark.slow
def test_tests_of_a_new_checkout_are_compiled_where_tools_are(clone: Clone) -> None:
    """Else the first run of the tests would do it in each of its processes."""
    called = clone.root / "called"
    clone.environment["PYTHONPATH"] += f":{clone.root / 'modules'}"
    (clone.root / "modules").mkdir()
    (clone.root / "modules" / "pytest.py").write_text(
        f"import sys\nwith open({str(called)!r}, 'a') as file:\n    print(*sys.argv[1:], file=file)\nsys.exit(2)\n"
    )
    for name in ("attacks", "shm"):
        (clone.root / "tests" / name).mkdir(parents=True)
    assert "compiling the tests" not in clone.setup("--host") and not called.exists()
    assert "compiling the tests" in clone.setup()
    assert sorted(called.read_text().splitlines()) == [
        "--collect-only -q tests/attacks/",
        "--collect-only -q tests/shm/",
    ]
    (clone.root / "tests" / "__pycache__").mkdir()
    assert clone.setup() == "setup: ready: .venv/bin/procline\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--hots"], {}, "unknown argument --hots"),
        ([], {"PROCLINE_PYTHON": "/bin/false"}, "PROCLINE_PYTHON=/bin/false is no Python 3.11 or newer"),
    ],
)
def test_setup_refuses_unsupported_options_and_hosts(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    clone = Clone(tmp_path / "clone", tmp_path / "no modules")
    done = subprocess.run(
        [clone.root / "script" / "setup", *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "") and message in done.stderr
    assert not (clone.root / ".venv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sudo", [None, "exit 1"])
def test_run_asks_for_root_before_it_builds(clone: Clone, tmp_path: Path, sudo: str | None) -> None:
    built = tmp_path / "built"
    script = clone.root / "script" / "setup"
    script.write_text(f"#!/bin/sh\necho \"$@\" > '{built}'\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname", "sh"):
        (tools / name).symlink_to(shutil.which(name) or "")
    (tools / "id").write_text("#!/bin/sh\necho 1000\n")
    (tools / "id").chmod(0o755)
    if sudo:
        (tools / "sudo").write_text(f"#!/bin/sh\n{sudo}\n")
        (tools / "sudo").chmod(0o755)
    done = subprocess.run(
        [clone.root / "script" / "run"], env={"PATH": str(tools)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (1 if sudo else 2)
    assert "needs root" in done.stdout + done.stderr
    assert not built.exists()


@pytest.mark.slow
def test_run_installs_only_the_packages_for_running(clone: Clone, tmp_path: Path) -> None:
    built = tmp_path / "built"
    (clone.root / "script" / "setup").write_text(f"#!/bin/sh\necho \"$@\" > '{built}'\nexit 7\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "id").write_text("#!/bin/sh\necho 0\n")
    (tools / "id").chmod(0o755)
    done = subprocess.run(
        [clone.root / "script" / "run"], env={"PATH": f"{tools}:{os.environ['PATH']}"}, timeout=60, check=False
    )
    assert done.returncode == 7 and built.read_text() == "--host\n"
    for name in ("test", "lint", "bench"):
        assert '/script/setup" --quiet\n' in (ROOT / "script" / name).read_text()


def test_pylibbpf_is_not_requested_where_it_has_no_wheel() -> None:
    """Otherwise pip would try to build it; and llvmlite is never installed."""
    for name in ("host", "dev"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        older, newer = re.findall(r"^pylibbpf==.*$", text, re.MULTILINE)
        assert "0.0.6 ; python_full_version < '3.12' and platform_machine == 'x86_64'" in older
        assert "0.0.7 ; python_full_version >= '3.12' and python_full_version < '3.14'" in newer
        assert "platform_machine == 'x86_64'" in newer
        assert "llvmlite" not in text and "numba" not in text


@pytest.mark.slow
@pytest.mark.parametrize("inplace", [True, False])
def test_modules_of_the_tests_are_compiled_in_place_only(build: ModuleType, inplace: bool) -> None:
    command = build.Build(Distribution({"ext_modules": modules_of(build)}))
    command.inplace = inplace
    command.finalize_options()
    names = {module.name for module in command.extensions}
    assert "pipeline.shm.writer._writer" in names
    assert ({"tests.shm._inside", "tests.resolver._inside"} <= names) is inplace
