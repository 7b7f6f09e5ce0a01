"""Details of containers from the runtimes' files, which the resolver writes to files and readers look up.

Rows store only the id of a container. The resolver reads the files of the runtimes, which only root can read, and keeps
one file for each container, below ``containers`` in the instance's directory. Each file is replaced as a whole:

    ID.json          {"name": …, "image": …, "pod": …, "namespace": …, "labels": {…}}

Readers import this module.
"""

from __future__ import annotations

import os
from typing import Any

from pipeline.shm.names.details import read

DIRECTORY = "containers"
#: The keys of a container's details, in this order. Each is None, or empty, if the files do not say it.
KEYS = ("name", "image", "pod", "namespace", "labels")


def file_name(container_id: str) -> str:
    """Return the name of the file of a container, whose id is 64 hexadecimal digits."""
    return f"{container_id}.json"


def details(directory: str, container_id: str) -> dict[str, Any] | None:
    """Return what is known about a container; None: nothing, or not yet.

    Args:
        directory: the instance's runtime directory.
        container_id: 64 hexadecimal digits.
    """
    path = os.path.join(directory, DIRECTORY, file_name(container_id))  # noqa: PTH118 - no pathlib in readers
    content = read(path)
    return None if content is None else content | {"labels": dict(content["labels"])}
