"""Compile the hot path: every ``.pyx`` below ``pipeline`` becomes an extension module beside it."""

import subprocess
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
COLD, ORDER = "pipeline/cold.h", "pipeline/order.ld"
HEADERS = [*sorted((ROOT / "pipeline").rglob("*.h")), *sorted((ROOT / "pipeline").rglob("*.pxd"))]

extensions = [
    Extension(
        ".".join(source.relative_to(ROOT).with_suffix("").parts),
        [str(source.relative_to(ROOT))],
        include_dirs=["pipeline/shm", "pipeline/bpf"],
        depends=["setup.py", ORDER, *(str(header.relative_to(ROOT)) for header in HEADERS)],
        extra_compile_args=[
            "-O2", "-Wno-unused-function",
            # Frame pointers cost nothing measurable and let perf name our functions.
            "-fno-omit-frame-pointer",
            # Fewer cache lines and pages for a wake-up that finds them cold: no table of jumps on the way to other
            # libraries, failures out of the way, and see ORDER.
            "-fno-plt", "-include", COLD, "-ffunction-sections",
        ],
    )
    for source in sorted((ROOT / "pipeline").rglob("*.pyx"))
]  # fmt: skip


class Build(build_ext):
    """Has functions laid out by ORDER, where the linker can: GNU ld since 2.43."""

    def build_extensions(self) -> None:
        option = f"-Wl,--section-ordering-file={ORDER}"
        linked = [*self.compiler.linker_so, "-x", "c", "/dev/null", "-o", "/dev/null", option]
        if subprocess.run(linked, capture_output=True, check=False).returncode == 0:
            for extension in self.extensions:
                extension.extra_link_args.append(option)
        super().build_extensions()


setup(
    cmdclass={"build_ext": Build},
    ext_modules=cythonize(
        extensions,
        language_level=3,
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
