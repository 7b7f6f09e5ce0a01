"""Make wheels of packages that are installed: `python wheels.py DIR NAME...`. Standard library only.

A host has no index of packages. What pip installs there comes from a directory with the wheels of a wheelhouse and
these.
"""

from __future__ import annotations

import importlib.metadata
import sys
import zipfile
from pathlib import Path


def main() -> None:
    """Write a wheel for each package."""
    directory, *names = sys.argv[1:]
    Path(directory).mkdir(parents=True, exist_ok=True)
    for found in map(importlib.metadata.distribution, names):
        tags = [line[5:] for line in (found.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: ")]
        name = f"{found.metadata['Name'].replace('-', '_').replace('.', '_')}-{found.version}-{tags[0]}.whl"
        with zipfile.ZipFile(Path(directory, name), "w") as wheel:
            for file in found.files or ():
                # Programs in bin/ are made again, and compiled modules too.
                if ".." not in file.parts and file.suffix != ".pyc" and Path(str(file.locate())).exists():
                    wheel.write(str(file.locate()), str(file))


if __name__ == "__main__":
    main()
