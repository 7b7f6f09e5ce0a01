"""Which field of an event becomes which field of OpenTelemetry, the Elastic Common Schema (ECS) and OCSF.

``script/generate`` writes the tables of docs/formats.md from this one. It needs only the standard library and the table
of entry fields.

Below the name of a field, a line for each format has its targets as ``NAME:CONVERSION``; `pipeline.formats.values`
defines the conversions. A later field overwrites the target of an earlier one. A format without a line gets the field
under its native name in the namespace of Procline: ``procline.NAME`` in OpenTelemetry and ECS, ``unmapped.NAME`` in
OCSF, which has that object for this purpose. ``-`` leaves the field out of one format. Names of OpenTelemetry are those
of attributes; ``record.NAME`` is a field of the log record.

A field of `pipeline.shm.layout.entry_fields` that the table does not name has no name in any of the formats, and is
under its native name in all of them. ``[own]`` lists those fields of events other than these. Fields of ``[left out]``
are in no format, for the reason behind them.

Names with a dot, and those that are no field of an event, are facts that `pipeline.formats.facts` derives.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.shm.layout import entry_fields

FORMATS = ("otel", "ecs", "ocsf")
#: Where each format has fields that it has no name for.
NAMESPACES = {"otel": "procline", "ecs": "procline", "ocsf": "unmapped"}

#: Versions of the schemas whose names the table uses; the tests compare it with these.
OTEL_SEMCONV_VERSION = "1.44.0"
ECS_VERSION = "9.4.0"
OCSF_VERSION = "1.8.0"

#: Names of unsigned numbers of 64 bits that can be 2^63 or more, in events and in the maps that are their values. They
#: are text also when they are small: otherwise the type of a field would depend on its value.
WIDE = frozenset({
    "user_session", "id", "ssh_session_id", "k8s_session_id", "cgroup_id", "inode", "span_id", "args_id", "envs_id",
    "soft", "hard",
})  # fmt: skip

TABLE = """
[mapped]
order
    otel  procline.order:number
    ecs   event.sequence:number
    ocsf  metadata.sequence:number
time_ns
    otel  record.timeUnixNano:digits record.observedTimeUnixNano:digits
    ecs   @timestamp:iso
    ocsf  time:ms time_dt:iso
event_id
    otel  log.record.uid:text
    ecs   event.id:text
    ocsf  metadata.uid:text
boot_id
    otel  -
    ecs   host.boot.id:text
    ocsf  device.boot_uid:text
pid
    otel  process.pid:number
    ecs   process.pid:number
    ocsf  process.pid:number
tid
    otel  thread.id:number
    ecs   process.thread.id:number
    ocsf  process.tid:number
ppid
    otel  process.parent_pid:pid
    ecs   process.parent.pid:pid
    ocsf  process.parent_process.pid:pid
start_time_ns
    otel  process.creation.time:iso
    ecs   process.start:iso
    ocsf  process.created_time:ms process.created_time_dt:iso
exit_time_ns
    otel  process.exit.time:iso
    ecs   process.end:iso
    ocsf  process.terminated_time:ms process.terminated_time_dt:iso
exit_status
    otel  process.exit.code:number
    ecs   process.exit_code:number
    ocsf  exit_code:number
comm
    otel  procline.comm:text
    ecs   process.thread.name:text process.name:text
    ocsf  process.name:text unmapped.comm:text
path
    otel  process.executable.path:text process.executable.name:basename
    ecs   process.executable:text process.name:basename
    ocsf  process.path:text process.name:basename
cwd
    otel  process.working_directory:text
    ecs   process.working_directory:text
    ocsf  process.working_directory:text
argv
    otel  process.command_args:texts process.command:first
    ecs   process.args:texts process.command_line:joined
    ocsf  process.cmd_line:joined
argc
    otel  process.args_count:number
    ecs   process.args_count:number
envs
    otel  process.environment_variable:variables
    ecs   process.env_vars:texts
    ocsf  process.environment_variables:variable_list
uid
    otel  process.real_user.id:number
    ecs   process.real_user.id:id user.id:id
    ocsf  process.user.uid:id
gid
    ecs   process.real_group.id:id user.group.id:id
    ocsf  process.group.uid:id
euid
    otel  process.user.id:number
    ecs   process.user.id:id user.effective.id:id
    ocsf  process.euid:number
egid
    ecs   process.group.id:id
    ocsf  process.egid:number
suid
    otel  process.saved_user.id:number
    ecs   process.saved_user.id:id
sgid
    ecs   process.saved_group.id:id
user
    otel  process.real_user.name:text
    ecs   process.real_user.name:text user.name:text
    ocsf  process.user.name:text
group
    ecs   process.real_group.name:text user.group.name:text
    ocsf  process.group.name:text
euser
    otel  process.user.name:text process.owner:text
    ecs   process.user.name:text user.effective.name:text
egroup
    ecs   process.group.name:text
auid
    ocsf  process.auid:number
audit_session
    ocsf  process.session.uid:id
cap_effective
    ecs   process.thread.capabilities.effective:capabilities
cap_permitted
    ecs   process.thread.capabilities.permitted:capabilities
tty
    ocsf  process.session.terminal:text
sid
    otel  process.session_leader.pid:pid
    ecs   process.session_leader.pid:pid
pgid
    otel  process.group_leader.pid:pid
    ecs   process.group_leader.pid:pid
ns_pid
    otel  process.vpid:pid
    ecs   process.vpid:pid
    ocsf  process.namespace_pid:pid
cgroup
    otel  process.linux.cgroup:cgroup_line
container_id
    otel  container.id:text
    ecs   container.id:text
    ocsf  process.container.uid:text
container_details.name
    otel  container.name:text
    ecs   container.name:text
    ocsf  process.container.name:text
container_details.image
    otel  container.image.name:text
    ecs   container.image.name:text
container_details.pod
    otel  k8s.pod.name:text
container_details.namespace
    otel  k8s.namespace.name:text
container_details.labels
    ecs   procline.container_details.labels:pairs
entity_id
    ecs   process.entity_id:text
    ocsf  process.uid:text
cpid
    otel  -
    ecs   -
    ocsf  process.cpid:text
parent_entity_id
    ecs   process.parent.entity_id:text
    ocsf  process.parent_process.uid:text
parent.comm
    otel  -
    ecs   process.parent.name:text
    ocsf  process.parent_process.name:text
parent.path
    otel  -
    ecs   process.parent.executable:text process.parent.name:basename
    ocsf  process.parent_process.path:text process.parent_process.name:basename
parent.start_time_ns
    otel  -
    ecs   process.parent.start:iso
    ocsf  process.parent_process.created_time:ms process.parent_process.created_time_dt:iso
earlier_images
    otel  -
    ecs   process.previous:executables
    ocsf  -
lineage
    ocsf  -
ancestors
    otel  -
    ecs   -
    ocsf  process.ancestry:entities
creators
    otel  -
    ecs   -
    ocsf  unmapped.lineage:own
inode
    ocsf  process.file.uid:id
file.path
    otel  file.path:text
    ecs   file.path:text
    ocsf  process.file.path:text
file.basename
    otel  file.name:text
    ecs   file.name:text
    ocsf  process.file.name:text
file.extension
    otel  file.extension:text
    ecs   file.extension:text
    ocsf  process.file.ext:text
file.inode
    otel  file.inode:id
    ecs   file.inode:id
    ocsf  process.file.uid:id
file.mode
    otel  file.mode:octal
    ecs   file.mode:octal
    ocsf  -
file.uid
    otel  file.owner.id:id
    ecs   file.uid:id
    ocsf  process.file.owner.uid:id
file.gid
    otel  file.group.id:id
    ecs   file.gid:id
    ocsf  -
file.user
    otel  file.owner.name:text
    ecs   file.owner:text
    ocsf  process.file.owner.name:text
file.group
    otel  file.group.name:text
    ecs   file.group:text
    ocsf  -
file.mtime_ns
    otel  file.modified:iso
    ecs   file.mtime:iso
    ocsf  process.file.modified_time:ms process.file.modified_time_dt:iso
file.ctime_ns
    otel  file.changed:iso
    ecs   file.ctime:iso
    ocsf  -
file_package.name
    ecs   package.name:text
file_package.version
    ecs   package.version:text
file_package.architecture
    ecs   package.architecture:text
file_sha256
    ecs   process.hash.sha256:text
span
    otel  record.spanId:text
    ecs   span.id:text
    ocsf  -
trace
    otel  record.traceId:text
    ecs   trace.id:text
    ocsf  -
unwatched_from_ns
    otel  procline.unwatched_from:iso
    ecs   event.start:iso
    ocsf  start_time:ms start_time_dt:iso
unwatched_to_ns
    otel  procline.unwatched_to:iso
    ecs   event.end:iso
    ocsf  end_time:ms end_time_dt:iso
from_ns
    otel  procline.missed_from:iso
    ecs   event.start:iso
    ocsf  start_time:ms start_time_dt:iso
to_ns
    otel  procline.missed_to:iso
    ecs   event.end:iso
    ocsf  end_time:ms end_time_dt:iso
unwatched_ns
    otel  -
    ecs   event.duration:number
    ocsf  duration:ms
count
    ocsf  count:number

[own]
left lost new topic first last reason stats

[left out]
event
    it decides what the document is, see the table of kinds
fork_time_ns
    `start_time_ns` is the start that the kernel recorded; this is when the fork was seen, microseconds later
created_at_ns
    the later of `exec_time_ns` and the start
exit_code
    the wait status; `exit_cause` and `exit_cause_code` are its parts
symlink_paths
    computed from the first argument
symlink_basename
    computed from the first argument
envc
    the length of `envs`, except where these were cut
envs_truncated
    events have no environment unless it is configured
fsuid
    equal to `euid`, except in file servers
fsgid
    equal to `egid`, except in file servers
fsuser
    as `fsuid`
fsgroup
    as `fsgid`
interpreter
    of a script; `path` and `file` describe the same file
exec_inode
    for the resolver's own checks
cgroup_version
    always 2 where `cgroup` is known
cgroup_source
    how the daemon learned the cgroup
cgroup_created_at_ns
    no schema has it; it is in the native form
container_created_at_ns
    no schema has it; it is in the native form
cookie
    a key of the daemon's BPF maps
is_thread
    the event kind shows it
is_exec
    the event kind shows it
is_exec_exec
    `process.previous` of ECS, and `lineage`, show the images
is_through_symlink
    `name` and `path` show it
is_exited
    `exit_time_ns` shows it
row
    a place in the tables
generation
    a place in the tables
is_head
    a place in the tables
flags
    bits of the tables; `marks` has those that matter as words
"""


class Target(NamedTuple):
    """A field of a format, and the name of the function that makes its value."""

    name: str
    conversion: str


class Mapping(NamedTuple):
    """The names of a field in each format.

    Attributes:
        field: a field of events, or a fact of `pipeline.formats.facts`.
        targets: by format; an empty tuple: left out.
        reason: why it is in no format; empty if it is in one.
        is_own: it has no name in any format, and has its native name in all of them.
    """

    field: str
    targets: dict[str, tuple[Target, ...]]
    reason: str = ""
    is_own: bool = False


def own(form: str, field: str) -> tuple[Target, ...]:
    """Return the target of a field that a format has no name for."""
    return (Target(f"{NAMESPACES[form]}.{field}", "digits" if field in WIDE else "own"),)


def _own(field: str) -> Mapping:
    return Mapping(field, {form: own(form, field) for form in FORMATS}, is_own=True)


def parse(table: str) -> tuple[Mapping, ...]:
    """Return the lines of a table in its order.

    Raises:
        ValueError: a line has a syntax error.
    """
    found: list[Mapping] = []
    section = ""
    for line in table.splitlines():
        text = line.strip()
        if not text:
            continue
        if text.startswith("["):
            section = text
        elif section == "[own]":
            found += map(_own, text.split())
        elif not line.startswith(" "):
            is_mapped = section == "[mapped]"
            found.append(Mapping(text, {form: own(form, text) if is_mapped else () for form in FORMATS}))
        elif section == "[left out]":
            found[-1] = found[-1]._replace(reason=f"{found[-1].reason} {text}".strip())
        else:
            form, *targets = text.split()
            if form not in FORMATS or not targets:
                raise ValueError(f"not a line of the table (FORMAT NAME:CONVERSION ...): {line!r}")
            pairs = [] if targets == ["-"] else [target.rpartition(":") for target in targets]
            found[-1].targets[form] = tuple(Target(name, conversion) for name, _, conversion in pairs)
    return tuple(found)


def completed(mappings: tuple[Mapping, ...], fields: Iterable[str]) -> tuple[Mapping, ...]:
    """Return mappings with those of the fields that they do not name, neither as a whole nor by a part of its value."""
    named = {part for mapping in mappings for part in (mapping.field, mapping.field.partition(".")[0])}
    return (*mappings, *(_own(field) for field in fields if field not in named))


MAPPINGS: tuple[Mapping, ...] = completed(
    parse(TABLE), (field.name for field in entry_fields.FIELDS if field.shown != "property")
)
