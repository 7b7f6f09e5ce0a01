"""The slow, obvious twin of apply: processes as Python objects, events in time order, without rows and references.

Models events when none is lost and none is late. `view` returns the result in the form of `story.dump`, for the
fields that the model has.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.records import declared, dtypes
from pipeline.resolver.entries import entry_extra
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.story import BOOT_UNIX_NS, Event, dump

Identity = tuple[int, int]
Key = tuple[int, int, int]
Limits = tuple[int | None, int]

FIELDS = (
    "ppid", "exec_boot_ns", "exit_boot_ns", "uid", "euid", "comm", "cgroup_id", "inode", "cookie", "exit_code",
    "creator_tgid", "ancestor", "parent", "creator", "previous_owner", "path", "args", "fork_boot_ns", "tid",
    "is_exec", "is_exec_exec", "is_head", "is_replaced", "is_deleted", "is_adopted", "is_predicted", "indexed",
    "cap_attempted", "cap_used", "is_sampled", "limits",
)  # fmt: skip


@dataclass
class Image:
    """One image of one process; a key (tgid, start, number) names it."""

    process: Process
    number: int
    facts: dict[str, object]

    @property
    def key(self) -> Key:
        return (*self.process.identity, self.number)


@dataclass
class Process:
    identity: Identity
    fork_time: int
    creator: Image | None
    parent: Identity
    parent_image: Key | None
    root_ancestor: Key | None
    previous_owner: Key | None
    adopted: bool
    predicted: bool = False
    images: list[Image] = field(default_factory=list)
    end: int = 0
    exit_code: int = 0

    @property
    def head(self) -> Image:
        return self.images[-1]


class Model:
    def __init__(self) -> None:
        self.processes: dict[Identity, Process] = {}
        self.owners: dict[int, Process] = {}  # by tgid, the latest

    def begin(self, tgid: int, start: int, facts: dict[str, object]) -> None:
        """Add a process that the snapshot found."""
        process = Process((tgid, start), start, None, (0, 0), None, None, None, False)
        process.images.append(Image(process, 1, facts))
        self.processes[process.identity] = self.owners[tgid] = process

    def begin_init(self, start: int) -> None:
        """Add process 1 as `Story.begin(1, inode=10)` makes it."""
        self.begin(1, start, {
            "uid": 0, "euid": 0, "comm": b"init", "cgroup_id": 100, "cookie": 1, "tid": 1, "inode": 10, "is_exec": True,
        })  # fmt: skip

    def apply(self, event: Event) -> None:
        header = event.header[0]
        identity = int(header["tgid"]), int(header["start_boot_ns"])
        now = {
            "uid": int(event.task["uid"][0]), "euid": int(event.task["euid"][0]), "comm": event.task["comm"][0],
            "cgroup_id": int(event.task["cgroup_id"][0]), "cookie": int(event.task["cookie"][0]),
            "tid": int(header["tid"]),
        }  # fmt: skip
        parent = int(header["ppid"]), int(header["parent_start_boot_ns"])
        if event.kind == declared.KIND_FORK:
            self._fork(event, identity, parent, now)
            return
        process = self.processes[identity]
        if event.kind == declared.KIND_EXEC:
            body = event.body[0]
            previous = process.head
            path, rest = event.strings[: body["path_bytes"]], event.strings[body["path_bytes"] + body["name_bytes"] :]
            image = {"path": path, "args": rest[: body["args_bytes"]], "inode": int(body["inode"])}
            known = previous.facts | {name: now[name] for name in ("uid", "euid")}
            if known | {name: image[name] for name in ("args", "inode")} == previous.facts:
                # An exec bomb: the running program was executed again.
                previous.facts |= now | image | {"exec_time": event.time, "is_exec": True}
                self._check_parent(process, parent)
                return
            previous.facts["exit"] = event.time
            facts = now | image | {
                "exec_time": event.time, "is_exec": True, "is_exec_exec": previous.facts.get("is_exec", False),
                "ppid": process.parent[0], "parent": process.parent_image, "adopted": process.adopted,
                "predicted": process.predicted,
            }  # fmt: skip
            previous.facts |= {
                "ppid": process.parent[0], "parent": process.parent_image, "adopted": process.adopted,
                "predicted": process.predicted,
            }  # fmt: skip
            process.images.append(Image(process, previous.number + 1, facts))
            self._check_parent(process, parent)
            return
        facts = process.head.facts
        is_sampled = bool(header["flags"] & declared.FLAG_SAMPLED)
        is_changed = now["uid"] != facts["uid"]
        if is_sampled and not is_changed and not facts.get("is_sampled"):
            return  # nothing that is not known
        self._check_parent(process, parent)
        facts |= now
        if event.kind in {declared.KIND_CRED, declared.KIND_SID}:
            facts |= {"is_sampled": is_sampled, "limits": limits_of(event) if is_sampled else None}
        elif is_changed:
            facts["limits"] = None  # they were those of the change before
        if event.kind == declared.KIND_CAPS:
            (told,) = np.frombuffer(event.strings, dtypes.CAPS)
            for name, mask in (("cap_attempted", "caps_attempted"), ("cap_used", "caps_used")):
                process.head.facts[name] = process.head.facts.get(name, 0) | int(told[mask])
        if event.kind == declared.KIND_EXIT:
            process.end, process.exit_code = event.time, int(event.body["exit_code"][0])
            reaper = int(event.body["reaper_tgid"][0]), int(event.body["reaper_start_boot_ns"][0])
            for child in self.processes.values():
                if child.parent == identity and child.end == 0 and reaper in self.processes:
                    self._move(child, self.processes[reaper], predicted=True)

    def _fork(self, event: Event, identity: Identity, parent: Identity, now: dict[str, object]) -> None:
        body = event.body[0]
        creator = self.processes[int(body["creator_tgid"]), int(body["creator_start_boot_ns"])].head
        up = self.processes[parent].head
        before = self.owners.get(identity[0])
        process = Process(
            identity, event.time, creator, parent, up.key, up.key, before.head.key if before else None,
            creator.process.identity != parent,
        )  # fmt: skip
        copied = {name: creator.facts[name] for name in ("path", "args", "inode", "exec_time") if name in creator.facts}
        process.images.append(Image(process, 1, copied | now))
        self.processes[identity] = self.owners[identity[0]] = process

    def _check_parent(self, process: Process, parent: Identity) -> None:
        if parent == process.parent:
            process.predicted = False
        elif parent in self.processes and self.processes[parent].end == 0:
            self._move(process, self.processes[parent], predicted=False)

    def _move(self, process: Process, to: Process, *, predicted: bool) -> None:
        process.parent, process.parent_image = to.identity, to.head.key
        process.root_ancestor = to.head.key
        process.images[0].facts |= {"ppid": to.identity[0], "parent": to.head.key}
        process.adopted = process.creator is None or process.creator.process.identity != to.identity
        process.predicted = predicted

    def view(self) -> dict[Key, dict[str, object]]:
        result: dict[Key, dict[str, object]] = {}
        for process in self.processes.values():
            for image in process.images:
                is_head = image is process.head
                facts = image.facts
                own = facts if not is_head else facts | {
                    "ppid": process.parent[0], "parent": process.parent_image, "adopted": process.adopted,
                    "predicted": process.predicted,
                }  # fmt: skip
                result[image.key] = {
                    "ppid": own["ppid"], "parent": own["parent"], "is_adopted": own["adopted"],
                    "is_predicted": own["predicted"], "exec_boot_ns": facts.get("exec_time", 0),
                    "exit_boot_ns": process.end if is_head else facts["exit"],
                    "exit_code": process.exit_code if is_head else 0,
                    "creator": process.creator.key if process.creator else None,
                    "creator_tgid": process.creator.process.identity[0] if process.creator else 0,
                    "ancestor": process.root_ancestor if image.number == 1 else (*process.identity, image.number - 1),
                    "previous_owner": process.previous_owner, "path": facts.get("path"), "args": facts.get("args"),
                    "inode": facts["inode"], "fork_boot_ns": process.fork_time,
                    "is_exec": facts.get("is_exec", False), "is_exec_exec": facts.get("is_exec_exec", False),
                    "is_head": is_head, "is_replaced": not is_head, "is_deleted": is_head and process.end != 0,
                    "indexed": is_head and self.owners[process.identity[0]] is process,
                    "cap_attempted": facts.get("cap_attempted", 0), "cap_used": facts.get("cap_used", 0),
                    "is_sampled": facts.get("is_sampled", False), "limits": facts.get("limits"),
                    **{name: facts[name] for name in ("uid", "euid", "comm", "cgroup_id", "cookie", "tid")},
                }  # fmt: skip
        return result


def limits_of(event: Event) -> Limits:
    """Between which times the change happened that a comparison found."""
    after = int(np.frombuffer(event.strings, dtypes.SAMPLED)["changed_after_boot_ns"][0]) if event.strings else None
    return (None if after is None else BOOT_UNIX_NS + after, BOOT_UNIX_NS + event.time)


def limits_in(extra: object) -> Limits | None:
    """The same as a row's `extra` has it."""
    if not isinstance(extra, bytes) or not extra:
        return None
    change = entry_extra.unpack(extra).get("sampled_change")
    return None if change is None else (change["changed_after_ns"], change["changed_before_ns"])


def view_of(tables: TableWriter) -> dict[Key, dict[str, object]]:
    """The fields of `Model.view`, read from the tables."""
    result = {}
    for key, row in dump(tables).items():
        flags = row["flags"]
        assert isinstance(flags, int)
        file_ref, args_ref = row["file_ref"], row["args_ref"]
        values = {
            name: bool(flags & getattr(layout, "ROW_" + flag))
            for name, flag in (
                ("is_exec", "IS_EXEC"), ("is_exec_exec", "IS_EXEC_EXEC"), ("is_head", "HEAD"),
                ("is_replaced", "REPLACED"), ("is_deleted", "DELETED"), ("is_adopted", "ADOPTED"),
                ("is_predicted", "ADOPTION_PREDICTED"), ("is_sampled", "CHANGE_SAMPLED"),
            )
        } | {
            "path": file_ref[64:] if isinstance(file_ref, bytes) else None,
            "args": args_ref[4:] if isinstance(args_ref, bytes) else None, "limits": limits_in(row["extra_ref"]),
        }  # fmt: skip
        result[key] = {name: values[name] if name in values else row[name] for name in FIELDS}
    return result
