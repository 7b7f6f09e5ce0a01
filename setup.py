"""Compile the hot path: every ``.pyx`` below ``pipeline`` becomes an extension module beside it.

Those below ``tests`` are compiled in place only, so that no package contains them. The program that makes the processes
of `procline load` is compiled too.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from Cython.Build import Cache, cythonize
from Cython.Build.Dependencies import create_dependency_tree
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.errors import LinkError
from setuptools.modified import newer_group

ROOT = Path(__file__).parent
#: Directories of C headers that modules include by their file names.
INCLUDED = ["pipeline/shm/layout", "pipeline/shm/reader", "pipeline/bpf/programs", "pipeline/records"]
COLD, ORDER = "pipeline/cold.h", "pipeline/order.ld"

#: A plain executable that the package contains, the directory of its sources, and the headers that these include.
PROGRAM, PROGRAM_SOURCES = "pipeline/load/procline-load", "pipeline/load/programs"
PROGRAM_HEADERS = ["pipeline/records", "pipeline/shm/layout", "pipeline/shm/reader"]

#: Cython's own functions (typed memoryviews alone are 16,000 lines of C), which it would repeat in each module.
SHARED = "pipeline._cython"

#: BPF objects for older kernels by machine, as in pipeline/bpf/features.py: three quarters of a megabyte each.
OLD_OBJECTS = {"x86_64": "*.old.bpf.o", "aarch64": "*.old.aarch64.bpf.o"}

#: Less is enough for a test of whether everything compiles and works: -O0 takes a third of the time.
OPTIMIZATION = os.environ.get("PROCLINE_OPTIMIZATION", "-O2")

#: Errors by default in gcc 14 or clang 19. Older compilers only warn about these faults, or do not know the option.
STRICT = [
    "-Werror=incompatible-pointer-types", "-Werror=incompatible-function-pointer-types", "-Werror=int-conversion",
    "-Werror=implicit-function-declaration", "-Werror=implicit-int", "-Werror=return-mismatch", "-Werror=return-type",
    "-Werror=declaration-missing-parameter-type",
]  # fmt: skip


def accepted(compiler: Sequence[str], options: Iterable[str]) -> list[str]:
    """Return the options that the C compiler knows. clang only warns about an option that it does not know."""
    compiled = [*compiler, "-x", "c", "-c", "/dev/null", "-o", "/dev/null"]
    tried = {option: subprocess.run([*compiled, option], capture_output=True, check=False) for option in options}
    return [option for option, done in tried.items() if done.returncode == 0 and not done.stderr]


class InPlace(editable_wheel):
    """Makes `pip install -e` add this directory to Python's path, which mypy and pyright read too.

    setuptools does so by itself if the project names the directory of its packages. Otherwise it installs a finder,
    which only Python calls. Naming the directory in pyproject.toml would change what a wheel contains.
    """

    def finalize_options(self) -> None:
        super().finalize_options()
        self.package_dir = {"": "."}


class Modules(build_py):
    """Leaves out of a wheel the BPF objects for older kernels that only other machines use."""

    def find_data_files(self, package: str, src_dir: str) -> list[str]:
        unused = [pattern for machine, pattern in OLD_OBJECTS.items() if machine != platform.machine()]
        found = super().find_data_files(package, src_dir)
        return [path for path in found if not any(fnmatch(path, pattern) for pattern in unused)]


class Build(build_ext):
    """Makes faults errors that a newer compiler rejects, and has GNU ld since 2.43 lay out functions by ORDER."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.inplace:
            # pip names a new directory for each editable installation. Nothing in it would be up to date, and one
            # changed module would compile all of them.
            tag = f"{self.plat_name}-{sys.implementation.cache_tag}"
            self.build_lib, self.build_temp = f"build/lib.{tag}", f"build/temp.{tag}"
        else:
            self.extensions = [each for each in self.extensions if not each.name.startswith("tests.")]

    def run(self) -> None:
        super().run()
        self.build_program()

    def build_program(self) -> None:
        """Compile PROGRAM, static where the host has a static C library, so that it runs with any other."""
        target = ROOT / PROGRAM if self.inplace else Path(self.build_lib, PROGRAM)
        sources = sorted(map(str, Path(PROGRAM_SOURCES).glob("*.c")))
        headers = [
            str(path) for directory in (PROGRAM_SOURCES, *PROGRAM_HEADERS) for path in Path(directory).glob("*.h")
        ]
        if not newer_group(["setup.py", *sources, *headers], str(target)):
            return
        strict = accepted(self.compiler.compiler, STRICT)
        objects = self.compiler.compile(
            sources, self.build_temp, include_dirs=PROGRAM_HEADERS, extra_postargs=["-O2", "-g0", *strict]
        )
        for static in (["-static"], []):
            try:
                self.compiler.link_executable(
                    objects, target.name, str(target.parent), ["m", "pthread"], extra_postargs=["-s", *static]
                )
                return
            except LinkError:
                if not static:
                    raise

    def build_extensions(self) -> None:
        strict = accepted(self.compiler.compiler, STRICT)
        option = f"-Wl,--section-ordering-file={ORDER}"
        linked = [*self.compiler.linker_so, "-x", "c", "/dev/null", "-o", "/dev/null", option]
        is_ordered = subprocess.run(linked, capture_output=True, check=False).returncode == 0
        for extension in self.extensions:
            extension.extra_compile_args.extend(strict)
            if is_ordered:
                extension.extra_link_args.append(option)
        # Set here, since an editable installation builds with the command's defaults. The largest module comes first,
        # so that none is left to compile alone at the end.
        self.parallel = len(os.sched_getaffinity(0))
        self.extensions.sort(key=lambda extension: Path(extension.sources[0]).stat().st_size, reverse=True)
        super().build_extensions()


def included(source: Path) -> set[Path]:
    """Return the files that a module's object file depends on: each `.pxd` and, through them, each C header.

    Cython finds the `.pxd` files, but not a header that is only named in C code or by another header.

    Args:
        source: of the module, relative to ROOT; so are the paths returned.
    """
    tree = create_dependency_tree(quiet=True)
    found = {Path(os.path.relpath(path, ROOT)) for path in tree.all_dependencies(str(ROOT / source))}
    found = {path for path in found if path.parts[0] == "pipeline"}  # not Cython's own
    unread = sorted(found)
    while unread:
        for name in re.findall(r'(?:extern from|#include) "([^"]+)"', (ROOT / unread.pop()).read_text()):
            for header in {Path(directory, name) for directory in (source.parent, *INCLUDED)} - found:
                if (ROOT / header).exists():
                    found.add(header)
                    unread.append(header)
    return found - {source}


def extensions() -> list[Extension]:
    sources = {
        ".".join(source.relative_to(ROOT).with_suffix("").parts): source.relative_to(ROOT)
        for directory in ("pipeline", "tests")
        for source in sorted((ROOT / directory).rglob("*.pyx"))
    }
    depends = {name: included(source) for name, source in sources.items()}
    sources[SHARED] = Path(*SHARED.split(".")).with_suffix(".c")  # written by Cython
    return [
        Extension(
            name,
            [str(source)],
            include_dirs=INCLUDED,
            depends=["setup.py", COLD, ORDER, *sorted(map(str, depends.get(name, ())))],
            extra_compile_args=[
                # No debugging information, which Python's own options ask for: it takes a sixth of the time.
                OPTIMIZATION, "-g0", "-Wno-unused-function",
                # Frame pointers cost nothing measurable and let perf name our functions.
                "-fno-omit-frame-pointer",
                # Fewer cache lines and pages for a wake-up that finds them cold: no table of jumps on the way to other
                # libraries, failures out of the way, and see ORDER.
                "-fno-plt", "-include", COLD, "-ffunction-sections",
            ],
        )
        for name, source in sources.items()
    ]  # fmt: skip


def is_outdated(modules: Iterable[Extension]) -> bool:
    """Whether Cython's options, which are in this file, changed after a module was translated."""
    translated = [path for module in modules if (path := (ROOT / module.sources[0]).with_suffix(".c")).exists()]
    return any(path.stat().st_mtime < Path(__file__).stat().st_mtime for path in translated)


def file_hash(path: str) -> str:
    """Return a checksum of a file that a module is translated from, for Cython's cache.

    Cython's own function also counts the path. That of Cython's declarations (`libc/stdint.pxd`) leads into the virtual
    environment, so that a module that uses one would be translated again in each checkout.
    """
    source = Path(path)
    name = source.name if source.is_absolute() else str(source)
    return hashlib.sha256(f"{name}\0".encode() + source.read_bytes()).hexdigest()


# Cython's processes may import this file again.
if __name__ == "__main__":
    # pip asks for the requirements and the metadata first, in runs of their own, and an sdist has no C code.
    is_only_described = not {"sdist", "egg_info", "dist_info"}.isdisjoint(sys.argv)
    modules = [] if is_only_described else extensions()
    # A directory that keeps C code by its sources, so that another checkout does not translate them again.
    has_cache = "CYTHON_CACHE_DIR" in os.environ
    Cache.file_hash = file_hash
    setup(
        cmdclass={"build_ext": Build, "build_py": Modules, "editable_wheel": InPlace},
        ext_modules=cythonize(
            modules,
            force=is_outdated(modules),
            cache=has_cache,
            nthreads=len(os.sched_getaffinity(0)),
            language_level=3,
            shared_utility_qualified_name=SHARED,
            compiler_directives={
                "boundscheck": False,
                "wraparound": False,
                "cdivision": True,
                "initializedcheck": False,
                "embedsignature": True,
                "freethreading_compatible": False,
            },
        ),
    )
