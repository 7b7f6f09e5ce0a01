"""Name, image, labels and pod of the container of an entry, from the runtimes' files on this host.

The files are read when a value is needed, with the rights of the caller. The daemon never reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.host.container_files import Containers, Names
from pipeline.select.units import belongs_to_user
from pipeline.select.where import Fact

#: The fields of an entry that these values need.
NEEDS = ("container_id", "cgroup")


def names_of(entry: Any, containers: Containers) -> Names | None:
    """Return what the files say about the container of an entry; None: nothing, or it is in no container of root's."""
    container_id = entry.get("container_id")
    # The id is part of a cgroup's path. Below user@UID.service, that user can choose it.
    return None if not container_id or belongs_to_user(entry.get("cgroup")) else containers.names_of(container_id)


def facts(containers: Containers) -> dict[str, Fact]:
    """Return the values of an entry that come from the files, by name."""

    def value(name: str) -> Callable[[Any], Any]:
        def of(entry: Any) -> Any:
            found = names_of(entry, containers)
            return None if found is None else getattr(found, name) or None

        return of

    return {
        "container_name": Fact("str", NEEDS, value("name")),
        "container_image": Fact("str", NEEDS, value("image")),
        "container_labels": Fact("map", NEEDS, value("labels")),
        "pod": Fact("str", NEEDS, value("pod")),
        "pod_namespace": Fact("str", NEEDS, value("namespace")),
    }


def text_of(names: Names) -> str:
    """Return a container's names in a line, as in ``web, image nginx:1, of the pod prod/shop``; "": there are none."""
    pod = "/".join(filter(None, [names.namespace, names.pod])) if names.pod else ""
    parts = [names.name, names.image and f"image {names.image}", pod and f"of the pod {pod}"]
    return ", ".join(part for part in parts if part)
