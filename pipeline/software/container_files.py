"""Name, image and labels of containers, from the files of their runtimes.

This module reads only files that root alone can change: `pipeline.trust` checks every directory on the path. The names
are therefore those that root's runtime recorded. The labels, such as the name of a pod, come from the user or program
that started the container through that runtime. Files inside a container are never read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pipeline import trust
from pipeline.errors import UntrustedError

#: Larger files are not read.
FILE_BYTES_MAX = 32 << 20
#: Maximum number of entries of a directory that are compared.
NAMES_MAX = 20_000
#: Maximum number of labels of a container; the first ones by name are kept. Longer names and values are cut.
LABELS_MAX, LABEL_CHARACTERS_MAX = 64, 256
#: Containers that a `Containers` remembers.
REMEMBERED_MAX = 4096
_ID = re.compile(r"[0-9a-fA-F]{64}\Z")


class Names(NamedTuple):
    """The contents of a runtime's file about a container. None, or no labels: the file says nothing about it.

    Attributes:
        file: the file.
        name, image: of the container.
        pod, namespace: of its Kubernetes pod.
        labels: Docker's labels, or the annotations of an OCI runtime, among them those of Kubernetes.
    """

    file: str
    name: str | None = None
    image: str | None = None
    pod: str | None = None
    namespace: str | None = None
    labels: Mapping[str, str] = MappingProxyType({})


class NotAllowedError(Exception):
    """The caller may not read the runtime's files."""


def names_of(container_id: str, root: str = "/") -> Names | None:
    """Return what the runtimes' files say about a container; None if no file knows it.

    Args:
        container_id: its whole id.
        root: where the host's files are.

    Raises:
        NotAllowedError: a runtime's directory exists, but the caller may not read it.
    """
    if not _ID.match(container_id):
        return None
    is_denied = False
    for source in _SOURCES:
        try:
            if (found := source(root.rstrip("/"), container_id)) is not None:
                return found
        except PermissionError:
            is_denied = True
        except (OSError, UntrustedError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            continue  # absent, of another user, or of an unknown form
    if is_denied:
        raise NotAllowedError
    return None


class Containers:
    """The containers of this host, for a command that shows many processes. It remembers what it has read.

    Args:
        root: where the host's files are.

    Attributes:
        is_denied: a runtime's directory exists, but the caller may not read it.
    """

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._known: dict[str, Names | None] = {}
        self.is_denied = False

    def names_of(self, container_id: str) -> Names | None:
        """Return what the runtimes' files say about a container; None: nothing, or they cannot be read."""
        if container_id not in self._known:
            if len(self._known) >= REMEMBERED_MAX:
                self._known.clear()
            try:
                self._known[container_id] = names_of(container_id, self._root)
            except NotAllowedError:
                self.is_denied = True
                self._known[container_id] = None
        return self._known[container_id]


def _docker(root: str, container_id: str) -> Names | None:
    path = f"{root}/var/lib/docker/containers/{container_id}/config.v2.json"
    content = _json(path)
    config = content.get("Config") or {}
    return Names(
        path, _name(content.get("Name")), _text(config.get("Image")), labels=_labels(config.get("Labels"))
    )  # fmt: skip


def _podman(root: str, container_id: str) -> Names | None:
    storage = f"{root}/var/lib/containers/storage"
    for directory in sorted(_listed(storage, lambda name: name.endswith("-containers"))):
        for file in ("containers.json", "volatile-containers.json"):
            path = f"{storage}/{directory}/{file}"
            try:
                containers = _json(path)
            except FileNotFoundError:
                continue
            for each in containers:
                if each.get("id") == container_id:
                    more = json.loads(each.get("metadata") or "{}")
                    name = (each.get("names") or [more.get("name")])[0]
                    return Names(path, _name(name), _text(more.get("image-name")), _text(more.get("pod-name")))
    return None


def _crio(root: str, container_id: str) -> Names | None:
    path = f"{root}/run/containers/storage/overlay-containers/{container_id}/userdata/config.json"
    return _oci(path)


def _containerd(root: str, container_id: str) -> Names | None:
    tasks = f"{root}/run/containerd/io.containerd.runtime.v2.task"
    for namespace in sorted(_listed(tasks, lambda name: True)):
        try:
            if found := _oci(f"{tasks}/{namespace}/{container_id}/config.json"):
                return found
        except FileNotFoundError:
            continue
    return None


#: Keys of the name, image, pod and namespace among the annotations of an OCI runtime's configuration.
_ANNOTATIONS = (
    ("io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name"),
    ("io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName", "io.kubernetes.cri-o.Image"),
    ("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"),
    ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"),
)


def _oci(path: str) -> Names | None:
    notes = _json(path).get("annotations") or {}
    found = [next((_text(notes[key]) for key in keys if notes.get(key)), None) for keys in _ANNOTATIONS]
    name, image, pod, namespace = found
    return Names(path, name, image, pod, namespace, _labels(notes)) if any(found) else None


def _kubernetes(root: str, container_id: str) -> Names | None:
    """The kubelet names its links to log files POD_NAMESPACE_CONTAINER-ID.log."""
    directory = f"{root}/var/log/containers"
    for name in _listed(directory, lambda name: name.endswith(f"-{container_id}.log")):
        pod, _, rest = name.removesuffix(f"-{container_id}.log").partition("_")
        namespace, _, container = rest.partition("_")
        if container:
            return Names(f"{directory}/{name}", container, None, pod, namespace)
    return None


_SOURCES: tuple[Callable[[str, str], Names | None], ...] = (_docker, _crio, _podman, _containerd, _kubernetes)


def read_trusted(path: str) -> bytes:
    """Return the content of a file that only root, or the caller, can change.

    Raises:
        OSError: it does not exist or cannot be read.
        UntrustedError: another user could have changed it.
        ValueError: it is too large.
    """
    parent, _, name = path.rpartition("/")
    with trust.Directory(parent, mine=True) as directory, os.fdopen(directory.open(name), "rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"{path} is too large")
    return content


def _json(path: str) -> Any:
    return json.loads(read_trusted(path))


def _listed(path: str, is_wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield names in a directory that only root, or the caller, can change."""
    with trust.Directory(path, mine=True) as directory, os.scandir(f"/proc/self/fd/{directory.fd}") as entries:
        for count, entry in enumerate(entries):
            if count == NAMES_MAX:
                return
            if is_wanted(entry.name):
                yield entry.name


def _text(value: object) -> str | None:
    return value[:LABEL_CHARACTERS_MAX] if isinstance(value, str) and value else None


def _name(value: object) -> str | None:
    """Return a name without the slash that Docker puts before it."""
    return _text(value.removeprefix("/")) if isinstance(value, str) else None


def _labels(value: object) -> dict[str, str]:
    """Return the labels of a file that are texts, as many as are kept."""
    if not isinstance(value, dict):
        return {}
    texts = sorted((name, text) for name, text in value.items() if isinstance(text, str))
    return {name[:LABEL_CHARACTERS_MAX]: text[:LABEL_CHARACTERS_MAX] for name, text in texts[:LABELS_MAX]}


def has_files(root: str = "/") -> bool:
    """Whether any container runtime keeps files on this host."""
    places = ("var/lib/docker", "var/lib/containers/storage", "run/containerd", "run/containers/storage")
    return any(Path(root, place).exists() for place in places)
