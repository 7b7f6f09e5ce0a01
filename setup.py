"""Compile the hot path: every ``.pyx`` below ``pipeline`` becomes an extension module beside it."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
HEADERS = [*sorted((ROOT / "pipeline").rglob("*.h")), *sorted((ROOT / "pipeline").rglob("*.pxd"))]

extensions = [
    Extension(
        ".".join(source.relative_to(ROOT).with_suffix("").parts),
        [str(source.relative_to(ROOT))],
        include_dirs=["pipeline/shm", "pipeline/bpf"],
        depends=[str(header.relative_to(ROOT)) for header in HEADERS],
        # Frame pointers cost nothing measurable and let perf name our functions.
        extra_compile_args=["-O2", "-fno-omit-frame-pointer", "-Wno-unused-function"],
    )
    for source in sorted((ROOT / "pipeline").rglob("*.pyx"))
]

setup(
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
    )
)
