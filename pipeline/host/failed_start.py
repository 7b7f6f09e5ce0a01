"""Notes of starts that failed before the instance had a directory, so that `procline wait` need not wait.

`procline run` writes the file ``.NAME~failed`` beside the instance's directory, and the next start removes it. The file
has only the time: the reason is in the output of `procline run`, which not everyone may read.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from pipeline import files, paths, trust
from pipeline.errors import ProclineError
from pipeline.host.boot import now_boot_ns


def note(name: str) -> None:
    """Note that a start of the instance `name` has failed; without rights to the directory, nothing is noted."""
    with contextlib.suppress(OSError, ProclineError):
        path = path_of(name)
        trust.Directory(path.parent, mine=True, make=0o755).close()
        files.replace(path, str(now_boot_ns()).encode())


def forget(name: str) -> None:
    """Remove the note: a start begins."""
    with contextlib.suppress(OSError, ProclineError):
        path_of(name).unlink(missing_ok=True)


def boot_ns(name: str) -> int:
    """Return when the last start failed, ns since the boot; 0: there is no note, or it could be forged."""
    try:
        return int(trust.read(path_of(name)))
    except (OSError, ValueError, ProclineError):
        return 0


def path_of(name: str) -> Path:
    """Return the path of the note."""
    directory = paths.instance_dir(name)
    return directory.with_name(f".{directory.name}~failed")
