"""Name, image, labels and pod of the container of an entry, as its instance or the runtimes' files on this host say it.

The files are read with the rights of the caller, when a value is needed that the entry lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.select.where import Fact
from pipeline.software.container_files import Containers, Names

#: The fields of an entry that these values need.
NEEDS = ("container_id", "container_trust", "container_details")
#: The keys of `container_details` that are known here; those of a newer daemon are not used.
_DETAILS = ("name", "image", "pod", "namespace", "labels")


def names_of(entry: Any, containers: Containers) -> Names | None:
    """Return what is known about the container of an entry; None: nothing, or it is in no container of root's."""
    if details := entry.get("container_details"):
        return Names("", **{key: details[key] for key in _DETAILS if key in details})
    return containers.names_of(entry["container_id"]) if is_believed(entry) else None


def is_believed(entry: Any) -> bool:
    """Return whether an entry is in a container of root's, as far as its cgroup shows.

    If the container is known by version 1 alone, `container_trust` is null, and the files of the runtimes decide.
    """
    return bool(entry.get("container_id")) and entry.get("container_trust") != "user"


def facts(containers: Containers) -> dict[str, Fact]:
    """Return the values of an entry that come from the runtimes' files, by name."""

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
