"""Fields of an entry and of an event, declared once.

From this table ``script/generate`` writes the properties of `Entry` that only copy (in ``_entry.pyx`` and its stub),
the groups of fields that the encoder only copies (``event_fields.pxi``), and the table in docs/wire-schema.md. Code
that shows all fields uses ENTRY_FIELDS or EVENT_FIELDS. This module does not need numpy.

A line contains the name of a field, where it is shown, its type, the source of its value, and its meaning. A field is
shown in ``both``, in an ``entry`` or in an ``event``; ``exit`` means entries and ``exit`` events, and ``some`` means
some events. A ``property`` is an attribute of `Entry` that its JSON form lacks. The source is ``computed`` (by hand),
or a field of the row followed by conditions:

- ``known NAME``: null unless KNOWN_NAME is set
- ``nonzero``: null if it is 0
- ``set``: null if it is 4294967295
- ``time``: boot-clock ns, shown as Unix ns; null if it is 0
- ``cached``: the property of `Entry` is written by hand, with a cache
- ``named NAME``: the property of `Entry` has this name, because one of its methods has that of the field

``flag NAME`` is true if ROW_NAME is set, ``no flag NAME`` is the opposite; ``known NAME`` may follow. ``state NAME`` is
a state of `pipeline.shm.layout.declared.STATES`, ``directory NAME`` one of `pipeline.records.declared.DIRECTORIES`.

A line ``>>> VALUE`` below a field is the example in the docstring of a property that only copies: the value in the
entry of tests/docs/example_host.py. Without such a line, the value there is None or False.

A line in brackets begins a group. All fields of a group marked ``copied`` have such values, and the encoder writes them
with a generated function. The other groups of the encoder are written by hand.
"""

from __future__ import annotations

from pipeline.shm.layout.field_table import EntryField, parse

TABLE = """
[header]
event                    event     str    computed
    `fork`, `exec`, `exit`, `cred`, `comm`, `cgroup`, `sid`, `caps`, `reparent`, or the kind of a context event
seq                      event     uint   computed  number in the topic, from 1
order                    event     uint   computed  number in the stream, over all topics
time_ns                  event     int    computed  when it happened, see [Times](#times)
pid                      both      uint   computed
    process id (tgid) in the root pid namespace; of a `foreign` process, in its own
tid                      both      uint   computed  thread of the last event
ppid                     both      uint   computed  pid of the current parent (`real_parent`); 0: none, or unknown
[times copied]
start_time_ns            both      int    hot.start_boot_ns time cached  start of the process; with pid its identity
fork_time_ns             both      int    cold.fork_boot_ns time  when the fork was seen
    >>> 1700000092022002000
exec_time_ns             both      int    hot.exec_boot_ns time
    when this image was loaded, the last time if it was loaded several times; for a fork, when the image of its parent
    was
    >>> 1700000092022003000
exit_time_ns             both      int    hot.exit_boot_ns time
    end of the image: the end of the process, or the exec that replaced it; null: it runs
    >>> 1700000092022780000
[end]
created_at_ns            both      int    computed  when the image came to be: the later of exec and fork
exit_code                both      int    computed
    wait status, as waitpid(2) returns it; null: it runs, or the end was not seen
exit_cause               both      str    computed  `exited`, `signaled`, `coredumped`
exit_cause_code          both      uint   computed  exit code, or number of the signal
[image]
comm                     both      str    computed  task name
path                     both      str    computed
    the executable, below the global root of its mount tree; for a script its interpreter, which `inode` and `file`
    describe too
script_path              both      str    computed  the script that was invoked
name                     both      str    computed  what was invoked
[directories copied]
cwd                      both      str    directory cwd
    working directory at the exec, below the daemon's root directory; of a process that was found in /proc, at that
    moment; null: unknown, deleted, not reachable from there, or longer than 4096 bytes
    >>> '/home/alice'
[arguments]
symlink_paths            both      [str]  computed
    of busybox, or of an executable reached through a symbolic link: its two usual paths by `argv[0]`
symlink_basename         both      str    computed  the last part of these paths
argv                     both      [str]  computed  arguments as stored, so scrubbed unless configured otherwise
argc                     both      uint   cold.argc known ARGS
    how many arguments there were, also if `argv` was cut; 65535: that many, or more
    >>> 2
args_truncated           both      bool   flag ARGS_TRUNCATED  `argv` is not complete
envs                     both      [str]  computed
    KEY=VALUE; null in events unless configured, as the segment has a tighter mode than the socket. The
    setting `envs.show` decides which variables have their value; the others have only their name
envc                     both      uint   cold.envc known ENVS
    how many variables there were; null where environments are not captured, as by default (`capture.envs_bytes`)
    >>> 0
envs_truncated           both      bool   flag ENVS_TRUNCATED
    `envs` is not complete; false where environments are not captured
[ids copied]
uid                      both      uint   hot.uid known CREDS
    real user id, as the initial user namespace numbers it; so are the other ids
    >>> 1000
gid                      both      uint   hot.gid known CREDS  real group id, as the initial user namespace numbers it
    >>> 1000
euid                     both      uint   cold.euid known CREDS
    effective user id, as the initial user namespace numbers it
    >>> 1000
egid                     both      uint   cold.egid known CREDS
    effective group id, as the initial user namespace numbers it
    >>> 1000
suid                     both      uint   cold.suid known CREDS
    saved user id, as the initial user namespace numbers it
    >>> 1000
sgid                     both      uint   cold.sgid known CREDS
    saved group id, as the initial user namespace numbers it
    >>> 1000
fsuid                    both      uint   cold.fsuid known CREDS
    user id for access to files, as the initial user namespace numbers it
    >>> 1000
fsgid                    both      uint   cold.fsgid known CREDS
    group id for access to files, as the initial user namespace numbers it
    >>> 1000
[names]
user                     both      str    computed
    name of `uid`, for a process in a container that inside it; null: none, or not known yet
group                    both      str    computed  name of `gid`
euser                    both      str    computed  name of `euid`
egroup                   both      str    computed  name of `egid`
fsuser                   both      str    computed  name of `fsuid`
fsgroup                  both      str    computed  name of `fsgid`
[privileges copied]
auid                     both      uint   cold.auid known AUID set  login uid; null: never set, or unknown
    >>> 1000
audit_session            both      uint   cold.audit_session known AUID set
    number of the audit session; null: never set, or unknown
    >>> 3
cap_effective            both      uint   cold.cap_effective known CAPS
    mask of the effective capabilities: bit n is capability n
    >>> 0
cap_permitted            both      uint   cold.cap_permitted known CAPS
    mask of the permitted capabilities: bit n is capability n
    >>> 0
caps_attempted           both      uint   cold.cap_attempted
    mask of capabilities that were checked for the image; 0 unless `capture.capabilities_usage` is on or an agent
    reports them
    >>> 0
caps_used                both      uint   cold.cap_used
    mask of those capabilities of `caps_attempted` that it had
    >>> 0
no_new_privs             both      bool   state no_new_privs
    PR_SET_NO_NEW_PRIVS is set: an exec cannot add privileges. As of the last event of the process; null: unknown
seccomp_mode             both      str    state seccomp_mode
    `disabled`, `strict` or `filter`, as of the last event of the process; null: unknown
    >>> 'disabled'
[terminal]
tty                      both      str    computed  controlling terminal, such as `pts0`; in events empty: none
[session copied]
sid                      both      uint   cold.sid known SID  pid of the session leader
    >>> 1
pgid                     both      uint   cold.pgid known SID  pid of the process group leader
    >>> 1
[executable]
inode                    both      uint   hot.inode known FILE nonzero  inode of the executable
    >>> 13379
file                     both      map    computed
    facts of the executable, see [Files](#files); of exec events only, unless `stream.file` is `"all"`: other events
    name the file by `inode` and `path`, and an entry has all of it
interpreter              both      map    computed
    of a script: its interpreter, in the same form and of the same events as `file`. As the kernel runs the interpreter,
    `path`, `inode` and `file` describe it too; `script_path` is what was invoked. null: no script
file_package             both      map    computed
    the Debian package that installed the executable: `name`, `version` and `architecture`, see [Packages and
    hashes](#packages-and-hashes). All three are null for a file of this host that belongs to no package. null: not
    known, not known yet, or `contexts.file_packages` is off
file_sha256              both      str    computed
    SHA-256 of the content of the executable, 64 hexadecimal digits; null: not known, not known yet, on a file
    system that users can mount (tmpfs, overlay, FUSE), or `contexts.file_hashes` is off
[namespaces copied]
exec_inode               both      uint   cold.exec_inode nonzero
    executable that the kernel reported with the event: of a fork that of the forking process, of an exec that of the
    image before, otherwise (a snapshot, a change) its own
    >>> 69222
ns_pid                   both      uint   cold.ns_pid known NS nonzero  pid in the innermost pid namespace
    >>> 8675
pid_ns                   both      uint   cold.pid_ns known NS nonzero
    pid namespace: its inode, as `readlink /proc/PID/ns/pid` shows it
    >>> 4026531836
mnt_ns                   both      uint   cold.mnt_ns known NS nonzero  mount namespace: its inode
    >>> 4026531832
net_ns                   both      uint   cold.net_ns known NS nonzero  network namespace: its inode
    >>> 4026531840
user_ns                  both      uint   cold.user_ns known NS nonzero  user namespace: its inode
    >>> 4026531837
[cgroup]
cgroup                   both      str    computed  path of the cgroup, version 2
cgroup_id                both      uint   hot.cgroup_id known CGROUP nonzero
    number of the directory of the cgroup (version 2)
    >>> 100
cgroup_version           both      uint   computed
    of `cgroup` and `cgroup_id`, so 2; null where these are, also if a container is known by version 1
cgroup_source            both      str    computed
    what reported that cgroup first: `event`, `procfs` (the start, a repair, or a source without BPF), `inherited`
    (nothing: it is that of the parent at the fork, and so is `container_id`, until an event or a read of /proc confirms
    or corrects both); null: unknown, as for processes that only the kernel's process maps reported
cgroup_created_at_ns     both      int    computed
    when that cgroup was created; null: before the capture began, or not seen
container_id             both      str    computed
    by the path of version 2, otherwise by those of version 1 ([sources.md](sources.md))
container_trust          both      str    computed
    who could have named the cgroup that `container_id` is a part of: `root`: only root; `user`: somebody else too, so
    the id proves nothing ([security.md](security.md#containers)); null: no container, or its cgroup of version 2 is not
    known
container_created_at_ns  both      int    computed
    when the container's own cgroup was created, not one below it; null: as for the cgroup, or the container is known by
    version 1
container_details        both      map    computed
    what the files of its runtime say about the container: `name`, `image`, `pod`, `namespace` and `labels`, see
    [Containers](#containers); null: nothing, not read yet, turned off by `contexts.container_details`, or somebody
    other than root could have named the cgroup
[identity]
entity_id                both      str    computed
    identity: boot id (32 hex digits), `-`, pid in hex (of a `foreign` process: pid namespace in hex, `.`, pid in hex),
    `-`, start on the boot clock (ns) in hex
cpid                     both      str    computed  OCSF's Common Process Identifier; coarse (ticks), never a key
parent_entity_id         both      str    computed  of the current parent; null: not retained, or unknown
creator_pid              both      uint   computed
    of the process that forked this one, also if its parent is another one now
creator_entity_id        both      str    computed  of the same process
[origin copied]
fork_flags               both      uint   cold.fork_flags nonzero
    clone flags without the exit signal; null: none, or unknown
    >>> None
cookie                   both      uint   cold.cookie nonzero  identifies the image in the BPF maps
    >>> 1006
user_session             both      uint   cold.user_session nonzero
    number of the ssh session. An event `user_session` reports its facts once (`ssh_session_id` in its `context` is the
    number); an entry has them in `ssh_session`, as long as they are known. The authentication is known only where sshd
    has `ExposeAuthInfo yes`. Which of these facts a user can change:
    [security.md](security.md#what-is-believed-of-an-ssh-session)
    >>> 3
[source]
ssh_session              entry     map    computed
    facts of that session: id, username, client_ip, client_port, auth_method and public_key, each null where it is
    unknown
source                   both      str    computed
    where the entry comes from: `event`, `map`, `procfs_fallback`, `procfs_snapshot`, `placeholder` or `unknown`
[statements copied]
images                   both      uint   hot.images named image_number
    images of this process up to this one, from 1, which a fork makes; an exec of what runs already (same file,
    arguments, environment and credentials) makes none
    >>> 2
is_thread                both      bool   no flag IS_EXEC
    a fork made this image, not an exec. It is no thread: threads have no entries
is_exec                  both      bool   flag IS_EXEC  an exec made this image
    >>> True
is_exec_exec             both      bool   flag IS_EXEC_EXEC  an exec made this image, and the one before
is_parent_missing        both      bool   flag PARENT_MISSING  the parent or the previous image was not the expected one
is_adopted               both      bool   flag ADOPTED  the current parent is not the creator
is_kworker               both      bool   flag KTHREAD  a kernel thread
is_through_symlink       both      bool   flag THROUGH_SYMLINK
    a symbolic link was followed on the way to the executable
[rest]
is_head                  entry     bool   flag HEAD  newest image of its process
    >>> True
is_exited                both      bool   computed  the process has ended
marks                    both      [str]  computed
    what is uncertain ([concepts.md](concepts.md)): `adopted`, `adoption_predicted`, `exit_unseen`, `before_capture`,
    `gap`, `elided`; `ns_init`: the process is the init of its pid namespace; `start_ticks`: its start is from `/proc`,
    so `start_time_ns` is exact to one clock tick (10 ms); `head_only`: the ring had room for the header of its record
    alone, so only its identity is known; `foreign`: `pid`, `ppid` and `creator_pid` are numbers of the namespace
    `pid_ns`; `change_sampled`: the last change of credentials, session, terminal or namespaces was found later than
    it happened, by a comparison: `sampled_change` of [Extra](#extra) has the limits, if they are known
flags                    both      uint   hot.flags
    bits of the row, of which `marks` and the fields that begin with `is_` are made
    ([memory-layout.md](memory-layout.md#hot-row-128-bytes-two-cache-lines))
    >>> 1048709
row                      entry     uint   computed  row of the table; with `generation` the address of the image
generation               entry     uint   hot.generation  changes when the row is freed
    >>> 1
extra                    both      map    computed  what few processes have, see [Extra](#extra)
lineage                  event     [map]  computed
    ancestors at the event, nearest first, earlier images among them: pid, start_time_ns, comm, path, entity_id
lineage_truncated        event     bool   computed  there are more than eight, or the chain leads out of the table
lineage_complete         event     bool   computed
    true: the chain leads to pid 1 without a gap, also beyond `lineage`; false: an ancestor is unknown or not the
    expected one, or the chain ends elsewhere; null: unknown (more than 256 images), or a kernel thread
[cost copied]
cpu_user_ns              exit      uint   costs.cpu_user_ns known COST
    CPU time that the process used in user mode, all threads included, from its fork to its end. Events other than
    `exit` lack this and the following fields. null: it runs, the end was not seen, or the source has no eBPF. See
    [cost.md](cost.md)
    >>> 412000
cpu_system_ns            exit      uint   costs.cpu_system_ns known COST
    CPU time that the process used in the kernel, all threads included; with `cpu_user_ns` it is the time that it ran
    >>> 301000
children_cpu_ns          exit      uint   costs.children_cpu_ns known COST
    CPU time of the descendants that were waited for, by this process or by a descendant between them
    >>> 0
max_rss_bytes            exit      uint   costs.max_rss_bytes known COST
    largest resident memory (ru_maxrss), including that of the program that the process was forked from
    >>> 3145728
minor_faults             exit      uint   costs.minor_faults known COST
    page faults without a read from storage; of this and the next three 4294967295 means that many, or more
    >>> 0
major_faults             exit      uint   costs.major_faults known COST  page faults that read from storage
    >>> 0
voluntary_switches       exit      uint   costs.voluntary_switches known COST
    how often a thread waited for something and left its CPU
    >>> 0
involuntary_switches     exit      uint   costs.involuntary_switches known COST
    how often a thread lost its CPU to another
    >>> 0
read_bytes               exit      uint   costs.read_bytes known IO
    bytes read from storage; what the page cache had does not count. null: also if the kernel does not count this
    >>> 0
write_bytes              exit      uint   costs.write_bytes known IO
    bytes written to files on storage, also if they are still in the page cache
    >>> 0
[last]
changed_after_ns         some      int    computed
    `cred` and `sid` only, since 1.9: a comparison found the change, which happened after this time and before
    `time_ns`. null: if `marks` has `change_sampled`, it is not known when the change happened; otherwise the change was
    recorded when it was seen. Most are seen at once, but not [all](#times)
new_parent               some      map    computed  `reparent` only: like one of `lineage`
context                  some      map    computed
    context events only: the keys of its kind; `target`, where it has one, like one of `lineage`; `error`: null,
    `no_process_context` (the process is unknown; all fields but the pid are null), `broken_lineage`, or `failed: ` and
    the reason
[properties]
start_boot_ns            property  uint   hot.start_boot_ns
    start time on the boot clock; with pid and boot id the identity. 0: unknown
    >>> 92022001000
known                    property  uint   hot.known
    groups of fields that hold a value, as bits; a field of another group is null
    >>> 524287
is_before_capture        property  bool   flag BEFORE_CAPTURE
    the process began before the capture: creator and earlier images are unknown
is_adoption_predicted    property  bool   flag ADOPTION_PREDICTED
    the current parent is the one that the kernel was expected to choose; not confirmed yet
is_foreign               property  bool   flag FOREIGN
    known by its number in a pid namespace, as a tracer there reported it: `pid`, `ppid` and `creator_pid` are numbers
    of the namespace `pid_ns`
is_ns_init               property  bool   flag NS_INIT  init of its pid namespace
is_start_coarse          property  bool   flag START_TICKS
    the start time comes from /proc: the beginning of a clock tick (10 ms)
is_replaced              property  bool   flag REPLACED  an exec has replaced this image; exit_time_ns says when
is_exit_unseen           property  bool   flag EXIT_UNSEEN  the end was inferred; its time is an upper bound
"""

FIELDS: tuple[EntryField, ...] = parse(TABLE)

#: Keys of an entry's JSON form, in this order; each is also an attribute of `Entry` (see ``named`` above).
ENTRY_FIELDS = tuple(field.name for field in FIELDS if field.shown in ("both", "entry", "exit"))
#: Keys of an event, in this order; an exit event also has EXIT_FIELDS, a reparent event `new_parent`, a cred or sid
#: event `changed_after_ns`.
EVENT_FIELDS = tuple(field.name for field in FIELDS if field.shown in ("both", "event"))
EXIT_FIELDS = tuple(field.name for field in FIELDS if field.shown == "exit")
