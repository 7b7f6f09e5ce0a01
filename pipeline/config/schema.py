"""Schema of the settings: each setting with its type, default, limits and description.

This is the only place where these facts are written. `loading` checks values against them, and `rendering` writes the
documented file ``docs/procline.toml`` from them. Every setting has a default, so no configuration file is needed.

Readers and subscribers do not import this module.
"""

from __future__ import annotations

import functools
import mmap
import typing
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from pipeline.config import methods
from pipeline.records.declared import STRING_MAX
from pipeline.records.limits import CHAIN_MAX, PID_MAX

MIB = 1 << 20
#: The kernel accepts no smaller kernel.pid_max (kernel/pid.c, RESERVED_PIDS + 1).
PID_CAPACITY_MIN = 301
PORT_MAX = 65535

#: Only the owner may write; otherwise a reader could change what other readers see.
_TABLE_MODE = Meta(
    pattern="^06[04][04]$",
    extra={"expected": 'an octal mode in which only the owner can write, such as "0640"'},
)
#: Connecting to a Unix socket needs write permission.
_SOCKET_MODE = Meta(
    pattern="^06[06][06]$",
    extra={"expected": 'an octal mode in which others can both read and write or do neither, such as "0660"'},
)


def split_address(text: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; an IPv6 host stands in brackets."""
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_port(key: str, address: str) -> None:
    if address and split_address(address)[1] > PORT_MAX:
        raise ValueError(f"{key}: expected a port up to {PORT_MAX}, got {address!r}")


#: The least size of a ring that is a part of `capture.rings_bytes`, and the largest part of the sum that it may have.
RING_BYTES_MIN = 256 << 10
RING_PART_MAX = 8
#: Linux allows more, but a ring is mapped twice in a row.
RING_BYTES_MAX = 1 << 30


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, and a misspelt key is an error."""


class Capture(Section, frozen=True):
    """What the BPF programs record, and how the shards read it."""

    scope: Annotated[
        Literal["host", "namespace"],
        Meta(
            description='Which processes are recorded. "host": every process, by its pid in the initial pid namespace; '
            'the daemon must be in that namespace. "namespace": only processes of the daemon\'s own pid namespace and '
            "of those below it, by their pids in the daemon's namespace, for a daemon in a container "
            "(docs/sources.md). It needs the source ebpf; in the initial pid namespace both values are the same.",
        ),
    ] = "host"
    rings_bytes: Annotated[
        int,
        Meta(
            ge=4096,
            le=1 << 40,
            description="Size of all ring buffers together, in bytes, if ring_bytes is 0. It is kernel memory and is "
            "allocated at start. Each online CPU has a ring: the largest power of two with which all of them fit, at "
            "most an eighth of this size and at least 256 KiB. So by default a host has 8 MiB for each of up to 8 "
            "CPUs, then 64 MiB in all up to 256 CPUs. Double it when `lost` in `procline stat` grows.",
        ),
    ] = 64 * MIB
    ring_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 30,
            description="Size of the ring buffer of each online CPU, in bytes: a power of two, at least one page. 0: a "
            "part of rings_bytes. 8 MiB hold more than one second of a fork storm on one CPU, long enough to restart "
            "the resolver without loss; 512 KiB hold some 6,000 events.",
        ),
    ] = 0
    args_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=STRING_MAX,
            description="Maximum size of the arguments in an exec record, in bytes. Longer arguments are truncated and "
            "marked. 0: arguments are not captured.",
        ),
    ] = STRING_MAX
    envs_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=STRING_MAX,
            description="Maximum size of the environment in an exec record, in bytes. 0: the environment is not "
            "captured. This is the default because environments often contain secrets.",
        ),
    ] = 0
    freshness_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=1000,
            description="How far the tables may be behind the host, at the 99th percentile, in ms. Events gather for "
            "0.4 to 0.8 of this time, as the measured delays permit. The less often they are read, the less CPU time "
            "the daemon needs. With a connected subscriber they are read every 8 ms, and an event on a quiet host is "
            "read at once. While no program has the tables open, events gather for 250 ms; they are read at once when "
            "a program opens the tables. 0: events do not gather, and each one is applied as soon as possible. Above "
            "1,000 records a second, the rings are read at most once a millisecond.",
        ),
    ] = 20.0
    wakeup_fill_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 30,
            description="A ring with more unread bytes than this wakes its shard before the interval has passed. "
            "0: a quarter of the ring.",
        ),
    ] = 0
    credentials: Annotated[
        Literal["auto", "fentry", "kprobe", "sampled", "syscalls", "off"],
        Meta(
            description="How changes to the credentials, session, terminal and namespaces of a running process are "
            'captured. "fentry" and "kprobe" trace the kernel functions that make the changes. "sampled" compares '
            "all processes with what was last recorded, every sampling_interval_s; it costs other processes nothing, "
            f'and does not see {methods.SAMPLED_MISSES}. "auto" uses the first of these three '
            'that the kernel supports, and "off" if it supports none; `procline doctor` shows which. "syscalls" traces '
            f"the end of the system calls that make the changes. With it, {methods.SYSCALLS_COST}. It sees at once all "
            f"but these, which it sees with the next record of the process: {methods.SYSCALLS_DELAYS} "
            '(docs/sources.md). If you select a method and the kernel rejects it, startup fails. "off": a change is '
            "recorded with the next fork, exec, exit, or change of name or cgroup of the process.",
        ),
    ] = "auto"
    sampling_interval_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=60,
            description='Time in seconds within which a change is found, if credentials uses "sampled", or another '
            "method that does not see all changes on this kernel. Comparisons take at most 0.3 % of one CPU. With too "
            "many processes for that, they are made less often.",
        ),
    ] = 2.0
    compat_calls: Annotated[
        Literal["auto", "off"],
        Meta(
            description='Whether 32-bit system calls are traced too when credentials uses "syscalls" (x86-64 only). '
            f"Any program can make 32-bit system calls. Tracing them is {methods.COMPAT_ADDS_NS[0]} to "
            f"{methods.COMPAT_ADDS_NS[1]} ns of what every system call of the host then takes longer "
            '(docs/sources.md). "off": changes made by 32-bit system calls are recorded as with '
            'credentials = "off".',
        ),
    ] = "auto"
    task_iterator: Annotated[
        Literal["auto", "off"],
        Meta(
            description="Whether snapshots and repairs read processes with a BPF task iterator, if the kernel has one. "
            '"off": they read /proc only, and a start time is accurate to 10 ms until the next event of the process.',
        ),
    ] = "auto"
    capabilities_usage: Annotated[
        Literal["on", "off"],
        Meta(
            description="Whether entries record which capabilities the kernel checked for the process and which of "
            "these checks succeeded (caps_attempted, caps_used). Needs Linux 6.14; `procline doctor` shows whether it "
            'works. "on" adds about 60 ns to each check, about 5 us to the first check of each capability by a '
            "process, and two to four records per process.",
        ),
    ] = "off"
    signal_senders: Annotated[
        Literal["on", "off"],
        Meta(
            description="Whether an exit says which process sent the signal that ended the process "
            "(extra.exit_signal_sender). Every signal of the host then runs another small BPF program."
        ),
    ] = "off"
    calls: Annotated[
        Literal["on", "off"],
        Meta(
            description="Whether the stream has an event for each ptrace(2) that attaches to a process, for each "
            "changed resource limit, and for each seal of a tracing library's memfd, without an agent. "
            "Needs a kernel that allows fentry; `procline doctor` shows whether it does. At most 100 calls of a user "
            "in a second are recorded."
        ),
    ] = "off"

    def __post_init__(self) -> None:
        if self.ring_bytes & (self.ring_bytes - 1) or self.ring_bytes % mmap.PAGESIZE:
            raise ValueError(f"ring_bytes: expected a power of two of at least one page, or 0; got {self.ring_bytes}")
        if self.ring_bytes and self.wakeup_fill_bytes > self.ring_bytes:
            raise ValueError(f"wakeup_fill_bytes: expected at most ring_bytes, got {self.wakeup_fill_bytes}")

    def bytes_of_a_ring(self, count: int) -> int:
        """Return the size of each of `count` rings, in bytes: a power of two."""
        if self.ring_bytes:
            return self.ring_bytes
        share = max(1, self.rings_bytes // max(count, RING_PART_MAX))
        return min(RING_BYTES_MAX, max(RING_BYTES_MIN, 1 << (share.bit_length() - 1)))

    def wakeup_level_bytes(self, ring_bytes: int) -> int:
        """Return the number of unread bytes above which a ring of this size wakes its shard."""
        return min(self.wakeup_fill_bytes or ring_bytes // 4, ring_bytes)


class Shards(Section, frozen=True):
    """The processes that drain the rings."""

    count: Annotated[
        Literal["auto"] | Annotated[int, Meta(ge=1, le=256)],
        Meta(
            description='Number of processes that share the rings. "auto": one, however many CPUs there are, because '
            "it reads events faster than the resolver, which there is only one of, can apply them. While one uses "
            "more than 60 % of a CPU, the number doubles, up to auto_max, and it halves after five quiet minutes.",
            extra={"expected": 'a number from 1 to 256, or "auto"'},
        ),
    ] = "auto"
    auto_max: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description='Maximum number of processes if count is "auto"; there is also at most one for every 4 CPUs. '
            "Each takes about 14 MB of memory.",
        ),
    ] = 2

    def resolve(self, ring_count: int) -> int:
        """Return the number of shards that an instance with `ring_count` rings begins with: at most one for each."""
        return 1 if self.count == "auto" else max(1, min(self.count, ring_count))


class Frames(Section, frozen=True):
    """Transport of records from the shards to the resolver."""

    max_bytes: Annotated[
        int,
        Meta(ge=65536, le=64 * MIB, description="A frame is closed when it holds this many bytes of records."),
    ] = MIB
    push_hwm_frames: Annotated[
        int,
        Meta(
            ge=1,
            le=4096,
            description="Maximum number of frames queued between one shard and the resolver. When the queue is full, "
            "the shard waits and its rings fill.",
        ),
    ] = 32


class Merge(Section, frozen=True):
    """Merging the events of all rings into one order."""

    stall_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=60_000,
            description="The resolver stops waiting for a ring when its shard has delivered nothing for this long, in "
            "ms. Events of this ring that arrive afterwards are counted as late.",
        ),
    ] = 1000


class Tables(Section, frozen=True):
    """The shared tables. All sizes are upper limits: memory is allocated in steps as needed."""

    max_entries: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 28,
            description="Maximum number of process images in the table, of live and exited processes; 320 bytes each, "
            "and 64 more for a process that has ended. "
            "At the limit the oldest exited images are evicted; live images never are.",
        ),
    ] = 262_144
    chunk_rows: Annotated[int, Meta(ge=64, le=1 << 20, description="Number of entries by which the table grows.")] = (
        4096
    )
    names_bytes: Annotated[
        int, Meta(ge=MIB, le=1 << 35, description="Maximum size of all executables, paths and names, in bytes.")
    ] = 64 * MIB
    args_bytes: Annotated[int, Meta(ge=MIB, le=1 << 35, description="Maximum size of all arguments, in bytes.")] = (
        256 * MIB
    )
    envs_bytes: Annotated[int, Meta(ge=MIB, le=1 << 35, description="Maximum size of all environments, in bytes.")] = (
        128 * MIB
    )
    pid_capacity: Annotated[
        int,
        Meta(
            ge=0,
            le=PID_MAX,
            description="Number of pids in the index, 4 bytes each: at least 301. 0: the value of kernel.pid_max.",
        ),
    ] = 0
    key_capacity: Annotated[
        int,
        Meta(
            ge=64,
            le=1 << 20,
            description="Maximum number of processes reported by tracers that the index by (pid, pid namespace) holds "
            "at a time; 20 bytes each.",
        ),
    ] = 65_536
    retention_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400 * 365,
            description="How long an exited process remains in the tables, in seconds. It remains longer while it has "
            "a live descendant, and is evicted earlier when a table is full.",
        ),
    ] = 300.0
    chain_max: Annotated[
        int,
        Meta(
            ge=16,
            le=CHAIN_MAX,
            description="Maximum number of images of one process that stay linked. If a process has more, only the "
            "first image and the newest ones stay in the chain. The entry at the cut has the mark `elided`, and the "
            "images left out are counted.",
        ),
    ] = CHAIN_MAX
    checked: Annotated[
        bool,
        Meta(description="Store a checksum in each row that readers can verify. For tests: it slows down the writer."),
    ] = False

    def __post_init__(self) -> None:
        if 0 < self.pid_capacity < PID_CAPACITY_MIN:
            raise ValueError(f"pid_capacity: expected 0 or at least {PID_CAPACITY_MIN}, got {self.pid_capacity}")


class Repair(Section, frozen=True):
    """Comparing the tables with the live processes."""

    min_interval_ms: Annotated[
        int,
        Meta(ge=10, le=3_600_000, description="Shortest time between two repairs after lost events, in ms."),
    ] = 500
    check_interval_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="Time between two comparisons that are made even without lost events, in seconds. 0: never.",
        ),
    ] = 120.0


class Args(Section, frozen=True):
    """How arguments are changed before they reach a table, a reader or a subscriber."""

    show: Annotated[
        Literal["scrubbed", "raw", "none"],
        Meta(
            description='"scrubbed": values that look like secrets are replaced with asterisks. "raw": arguments are '
            'stored unchanged. "none": only the name of the program is stored.'
        ),
    ] = "scrubbed"
    custom_sensitive_words: Annotated[
        tuple[str, ...],
        Meta(
            description="Names of options and settings with secret values, in addition to the built-in ones. * matches "
            "any letters."
        ),
    ] = ()
    custom_sensitive_patterns: Annotated[
        tuple[str, ...],
        Meta(
            description="Regular expressions (RE2) in addition to the built-in ones. The text that they match is "
            "replaced."
        ),
    ] = ()


class Envs(Section, frozen=True):
    """How environment variables are changed, if they are captured (capture.envs_bytes)."""

    show: Annotated[
        Literal["names", "listed", "all"],
        Meta(
            description='"names": only the names of variables are stored. "listed": those in show_values keep their '
            'value. "all": variables are stored unchanged, with all secrets. If values are stored, events include '
            "the stored environment too."
        ),
    ] = "listed"
    show_values: Annotated[
        tuple[str, ...],
        Meta(description='Names of variables that are stored with their value, if show is "listed".'),
    ] = ()


class Contexts(Section, frozen=True):
    """Facts that are read in addition to what the kernel reports about a process."""

    user_names: Annotated[
        Literal["all", "host", "off"],
        Meta(
            description='Which user and group names are resolved. "all": names of the host, and for a process in a '
            'container the names in the container\'s own root directory, which is read for this. "host": names of the '
            'host only; processes in containers have no names. "off": none.'
        ),
    ] = "all"
    container_details: Annotated[
        Literal["all", "names", "off"],
        Meta(
            description="What entries and events say about a container besides its id. It is read from the files of "
            'Docker, containerd, CRI-O, podman and the kubelet that only root can change. "all": its name, image, pod '
            'and labels (annotations). "names": all but the labels, which may hold secrets. "off": these files are '
            "not read."
        ),
    ] = "all"
    script_files: Annotated[
        bool,
        Meta(
            description="Whether entries of scripts say which file was invoked (`extra.script_file`): its path, inode, "
            "owner, mode and mount. The kernel reports only the interpreter, so the file is read a little later, below "
            "the root of the process."
        ),
    ] = False
    file_packages: Annotated[
        bool,
        Meta(
            description="Whether entries and events name the Debian package that installed the executable of a process "
            "(`file_package`), by the host's files of dpkg. Executables in containers have none."
        ),
    ] = False
    file_hashes: Annotated[
        bool,
        Meta(
            description="Whether entries and events have the SHA-256 of the executable of a process (`file_sha256`). "
            "It is read once, a little after the first exec; later events have it from the start. Executables on file "
            "systems that users can mount (tmpfs, overlay, FUSE) have none."
        ),
    ] = False
    file_hash_bytes: Annotated[
        int,
        Meta(ge=1, le=1 << 34, description="Executables with more bytes than this have no hash."),
    ] = 128 << 20
    tty_fallback: Annotated[
        bool,
        Meta(
            description="Whether a process without a controlling terminal is shown with the terminal of its standard "
            "input, if that is a terminal. This reads /proc for each exec of such a process."
        ),
    ] = False


class Access(Section, frozen=True):
    """Read permissions. Everyone can enter the directories; files and sockets have the modes below."""

    group: Annotated[
        str,
        Meta(description='Group of the files and sockets of the instance. "": the group of the daemon.'),
    ] = ""
    tables_mode: Annotated[
        str, _TABLE_MODE, Meta(description="Mode of the tables, except arguments and environments.")
    ] = "0644"
    args_mode: Annotated[str, _TABLE_MODE, Meta(description="Mode of the arguments.")] = "0640"
    envs_mode: Annotated[str, _TABLE_MODE, Meta(description="Mode of the environments.")] = "0600"
    stream_mode: Annotated[
        str,
        _SOCKET_MODE,
        Meta(description="Mode of the stream's socket. Events contain what the tables contain, including arguments."),
    ] = "0660"
    requests_mode: Annotated[
        str,
        _SOCKET_MODE,
        Meta(
            description="Mode of the socket on which readers ask for a process that the tables do not have. An answer "
            "contains only the position of the process in the tables."
        ),
    ] = "0666"
    tracers_mode: Annotated[
        str,
        _SOCKET_MODE,
        Meta(description="Mode of the socket of tracers. Any client that can connect can inject events."),
    ] = "0600"

    @staticmethod
    def bits(mode: str) -> int:
        """Return a mode as chmod(2) takes it."""
        return int(mode, 8)


class Stream(Section, frozen=True):
    """The public stream of events."""

    hwm_messages: Annotated[
        int,
        Meta(
            ge=16,
            le=1 << 24,
            description="Maximum number of messages queued for a slow subscriber. Further messages for it are dropped; "
            "it detects the loss by the sequence numbers. A message holds up to 72 KiB of events, so the default is at "
            "most 72 MiB for each subscriber that does not read.",
        ),
    ] = 1024
    heartbeat_ms: Annotated[
        int,
        Meta(
            ge=50,
            le=60_000,
            description="Interval at which a topic without events repeats its last sequence number, in ms.",
        ),
    ] = 1000
    file: Annotated[
        Literal["exec", "all"],
        Meta(
            description="Which process events contain the facts of the executable (`file`, and `interpreter` for a "
            'script). "exec": only exec events; in other events `inode` and `path` identify the file. "all": all '
            "events, which makes the others about a sixth longer."
        ),
    ] = "exec"
    journal_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 40,
            description="Size of the journal, the last messages of the stream, from which subscribers read again what "
            "they missed. An event takes about 2.6 KB, so the default holds 10 s of a storm of 5,000 events a "
            "second. It is in memory (tmpfs), which is used only as far as events were kept, and never more than a "
            "quarter of what is free. 0: no journal.",
        ),
    ] = 128 << 20
    journal_keep_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="The journal keeps a topic while it has a subscriber, and this long after the last one has "
            "gone, in s.",
        ),
    ] = 300.0
    journal_topics: Annotated[
        tuple[str, ...],
        Meta(
            description="Topics that the journal always keeps, also without a subscriber, for example "
            '["proc.exec", "proc.exit"]. Each costs as much as a subscriber of the topic.'
        ),
    ] = ()
    tcp_endpoint: Annotated[
        str,
        Meta(
            pattern=r"^(tcp://\S+:[0-9]{1,5})?$",
            extra={"expected": 'an address such as "tcp://127.0.0.1:7717"'},
            description='Also publish the stream at this address, for example "tcp://127.0.0.1:7717". "": the stream '
            "is available on this host only, through its socket.",
        ),
    ] = ""
    curve_secret_key_file: Annotated[
        str,
        Meta(
            description="File with the secret key for tcp_endpoint, in the format of zmq.auth. Other users must not be "
            "able to read it."
        ),
    ] = ""
    curve_clients_dir: Annotated[
        str, Meta(description="Directory with the public keys of the clients that may connect to tcp_endpoint.")
    ] = ""

    def __post_init__(self) -> None:
        if self.tcp_endpoint:
            for key in ("curve_secret_key_file", "curve_clients_dir"):
                if not getattr(self, key):
                    raise ValueError(f"{key}: expected a path, because tcp_endpoint is set and is always encrypted")
        _check_port("tcp_endpoint", self.tcp_endpoint)
        for topic in self.journal_topics:
            from pipeline.shm.layout.declared import TOPICS  # deferred: most configurations name none

            if topic not in TOPICS:
                raise ValueError(f"journal_topics: expected topics of {', '.join(TOPICS)}, got {topic!r}")


#: HOST:PORT with an IPv6 host in brackets, or empty.
_ADDRESS = r"^((\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):[0-9]{1,5})?$"


class Metrics(Section, frozen=True):
    """Metrics for monitoring. They are counts and sizes only: no pid, command or user."""

    listen: Annotated[
        str,
        Meta(
            pattern=_ADDRESS,
            extra={"expected": 'an address such as "127.0.0.1:9464"'},
            description="Address at which http://HOST:PORT/metrics is served for Prometheus, for example "
            '"127.0.0.1:9464". It has no encryption and no authentication, so use a loopback address. "": off.',
        ),
    ] = ""
    statsd: Annotated[
        str,
        Meta(
            pattern=_ADDRESS,
            extra={"expected": 'an address such as "127.0.0.1:8125"'},
            description="Address (HOST:PORT) to which counters are sent over DogStatsD, for example "
            '"127.0.0.1:8125". Use it where no Prometheus server reads the metrics. Needs procline[statsd]. "": off.',
        ),
    ] = ""
    statsd_prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z][A-Za-z0-9_.]*$",
            extra={"expected": "letters, digits, dots and underscores"},
            description="Prefix of the name of every metric that is sent over DogStatsD.",
        ),
    ] = "datadog.runtime_security"
    statsd_interval_s: Annotated[
        float, Meta(ge=0.1, le=3600, description="Time between two transmissions over DogStatsD, in seconds.")
    ] = 10.0

    def __post_init__(self) -> None:
        for key in ("listen", "statsd"):
            _check_port(key, getattr(self, key))


class Forward(Section, frozen=True):
    """`procline forward`: where the events of this host go. The daemon itself does not use these settings."""

    to: Annotated[
        str,
        Meta(
            pattern=r"^(|(nats|tls)://\S+|jsonl(:[^\x00]+)?)$",
            extra={"expected": '"nats://HOST:PORT", "tls://HOST:PORT", "jsonl" or "jsonl:FILE"'},
            description='The destination. "nats://HOST:PORT" or "tls://HOST:PORT": JetStream of a NATS server; several '
            'addresses of one cluster are separated by commas. "jsonl": JSON lines on standard output. "jsonl:FILE": '
            "JSON lines in a file. Empty: none, so `procline forward` needs --to.",
        ),
    ] = ""
    host: Annotated[
        str,
        Meta(
            pattern=r"^[\x21-\x7e]{0,253}$",
            extra={"expected": "at most 253 printable characters of ASCII without spaces"},
            description="Name of this host in subjects and messages. Each host needs a different name. Empty: the "
            "host name of the system.",
        ),
    ] = ""
    stream: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{1,64}$",
            extra={"expected": "up to 64 letters, digits, _ and -"},
            description="Name of the stream in JetStream. It must accept the subjects procline.>, and allow direct "
            "access. --create-stream creates it.",
        ),
    ] = "PROCLINE"
    topics: Annotated[
        tuple[str, ...],
        Meta(
            max_length=16,
            description="Topics that are forwarded, such as proc.exec, or families of topics, such as proc. Empty: "
            "all of them.",
        ),
    ] = ()
    format: Annotated[
        Literal["native", "otel", "ecs", "ocsf"],
        Meta(
            description="Names of the fields: those of Procline, or of another schema (docs/formats.md). "
            "`procline fleet` needs native."
        ),
    ] = "native"
    compress: Annotated[bool, Meta(description="Whether messages are compressed with zstd.")] = True
    batch_events: Annotated[
        int, Meta(ge=1, le=10_000, description="A message has at most this many events, and at most 512 KiB of them.")
    ] = 500
    batch_ms: Annotated[
        int, Meta(ge=0, le=60_000, description="How long an event waits for others to share a message, in ms.")
    ] = 100
    buffer_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 34,
            description="Without a spool, memory for messages that the server has not confirmed, in bytes. When it is "
            "full, the oldest messages are dropped, and the stream gets a record of the gap.",
        ),
    ] = 64 * MIB
    spool: Annotated[
        str,
        Meta(
            description="Directory for messages that the server has not confirmed. Only the forwarder may use it. "
            "Empty: they are only in memory, and lost when the forwarder ends. The next one reads them again from "
            "the daemon's journal, as far back as the journal reaches."
        ),
    ] = ""
    spool_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 40,
            description="Size of the spool, in bytes. When it is full, the oldest messages are dropped, and the stream "
            "gets a record of the gap.",
        ),
    ] = 1 << 30
    credentials: Annotated[
        str,
        Meta(
            description="File with the credentials for NATS: a JWT with its key (.creds), or a key alone (SU...). "
            "Empty: procline-forward.creds of systemd's credentials, if there is one."
        ),
    ] = ""
    tls_ca: Annotated[
        str,
        Meta(
            description="File with the certificates of the authorities that may sign the server's certificate. If "
            "this is set, a connection without TLS is rejected. Empty: procline-forward.ca of systemd's credentials, "
            "if there is one, otherwise the authorities that the system trusts."
        ),
    ] = ""
    tls_cert: Annotated[
        str,
        Meta(
            description="File with the certificate of this host, for servers that require one. Empty: "
            "procline-forward.cert of systemd's credentials, if there is one."
        ),
    ] = ""
    tls_key: Annotated[
        str,
        Meta(
            description="File with the key of tls_cert. Empty: procline-forward.key of systemd's credentials, if there "
            "is one, otherwise the key is in tls_cert."
        ),
    ] = ""
    stream_max_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 50,
            description="--create-stream: the server removes the oldest messages beyond this size, in bytes. "
            "0: no limit.",
        ),
    ] = 10 << 30
    stream_max_age_h: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="--create-stream: the server removes messages at this age, in hours. 0: no limit.",
        ),
    ] = 0
    stream_replicas: Annotated[
        int, Meta(ge=1, le=5, description="--create-stream: number of servers of the cluster that keep a copy.")
    ] = 1
    jsonl_bytes: Annotated[
        int,
        Meta(
            ge=1 << 16,
            le=1 << 40,
            description="jsonl:FILE is renamed to FILE.1 when it has this size, in bytes, and a new one begins.",
        ),
    ] = 100 * MIB
    jsonl_files: Annotated[int, Meta(ge=0, le=1000, description="How many renamed files of jsonl:FILE are kept.")] = 5
    drain_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="How long the forwarder, when it is stopped, waits for the confirmation of all messages, in "
            "seconds. With a spool, the next forwarder sends the rest.",
        ),
    ] = 5.0
    metrics_listen: Annotated[
        str,
        Meta(
            pattern=_ADDRESS,
            extra={"expected": 'an address such as "127.0.0.1:9472"'},
            description="Address for Prometheus to read the forwarder's figures from, such as 127.0.0.1:9472. Empty: "
            "none.",
        ),
    ] = ""

    def __post_init__(self) -> None:
        _check_port("metrics_listen", self.metrics_listen)


class Log(Section, frozen=True):
    """Logs, which are written to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The lowest level that is written.")
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "console"],
        Meta(
            description='"json": one JSON object per line. "console": readable lines. "auto": "console" if standard '
            'error is a terminal or the journal of systemd, otherwise "json". In the journal each line has a priority.'
        ),
    ] = "auto"


class Supervision(Section, frozen=True):
    """Starting, watching and restarting the processes of the daemon."""

    backoff_max_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=600_000,
            description="Longest pause before a restart, in ms. A process that ended is restarted at once. If it ends "
            "early again, the pause doubles with each restart, from 100 ms up to this value.",
        ),
    ] = 1000
    healthy_ms: Annotated[
        int,
        Meta(
            ge=100,
            le=600_000,
            description="A process that became ready and then ran for at least this long, in ms, did not end early.",
        ),
    ] = 300
    early_deaths_max: Annotated[
        int,
        Meta(ge=1, le=1000, description="The daemon stops after a process has ended early this many times in a row."),
    ] = 8
    restarts_max: Annotated[
        int,
        Meta(
            ge=1, le=100_000, description="The daemon stops after this many restarts of one process within 10 minutes."
        ),
    ] = 100
    start_timeout_s: Annotated[
        float,
        Meta(
            ge=1,
            le=3600,
            description="The daemon stops if the tables are not complete this long after the start, in seconds.",
        ),
    ] = 60.0
    stop_timeout_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3600,
            description="How long a process may take to drain when the daemon stops, in seconds, before it is killed.",
        ),
    ] = 10.0
    keep_tables: Annotated[
        bool,
        Meta(
            description="Whether the tables remain when the daemon stops, so that the next one continues with them "
            "and keeps the history. Meanwhile readers get the processes that the tables have, for up to 10 s, and "
            '"stale" for others. For a service manager that removes the directory when the daemon is stopped for good, '
            "as procline.service does. false: the directory is removed.",
        ),
    ] = False
    share_cpu: Annotated[
        bool,
        Meta(
            description="Whether the resolver and the shards share one CPU while that CPU is otherwise idle: then "
            "neither has to wake a sleeping CPU for the other (docs/performance.md#latency). On a busy host the "
            "workers may run on any CPU."
        ),
    ] = True


class Config(Section, frozen=True):
    """All settings of an instance."""

    source: Annotated[
        str,
        Meta(
            pattern="^(ebpf|proc-connector|tracer|replay:.+)$",
            extra={"expected": '"ebpf", "proc-connector", "tracer" or "replay:FILE"'},
            description='Where events come from. "ebpf": BPF programs. "proc-connector": netlink, without BPF. '
            '"tracer": clients that send frames to the socket in tracers/. "replay:FILE": a recording.',
        ),
    ] = "ebpf"
    capture: Capture = Capture()
    shards: Shards = Shards()
    frames: Frames = Frames()
    merge: Merge = Merge()
    tables: Tables = Tables()
    repair: Repair = Repair()
    args: Args = Args()
    envs: Envs = Envs()
    contexts: Contexts = Contexts()
    access: Access = Access()
    stream: Stream = Stream()
    metrics: Metrics = Metrics()
    forward: Forward = Forward()
    log: Log = Log()
    supervision: Supervision = Supervision()

    def to_json(self) -> bytes:
        """Return the settings in the form in which they are passed to a worker process."""
        return msgspec.json.encode(self)

    @staticmethod
    def from_json(data: bytes) -> Config:
        """Return the settings that `to_json` encoded."""
        return msgspec.json.decode(data, type=Config)


Value = str | int | float | bool | tuple[str, ...]


@functools.cache
def hints_of(section: type[Section]) -> dict[str, typing.Any]:
    """Return the types of a section's fields. They are strings in the class, and evaluating them takes a while."""
    return typing.get_type_hints(section, include_extras=True)


class Setting(typing.NamedTuple):
    """One setting: its full name, value and description."""

    key: str
    value: Value
    description: str


def settings(config: Config) -> Iterator[Setting]:
    """Yield every setting of `config` section by section; settings without a section come first."""
    for section, key, value in _walk_sorted(config):
        hint = hints_of(section)[key.rpartition(".")[2]]
        metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]
        yield Setting(key, value, " ".join(meta.description for meta in metas if meta.description))


def values(config: Config) -> Iterator[tuple[str, Value]]:
    """Yield the full name and the value of every setting, in the order of `settings`, without its description."""
    for _, key, value in _walk_sorted(config):
        yield key, value


def _walk_sorted(config: Config) -> list[tuple[type[Section], str, Value]]:
    return sorted(_walk(config, ""), key=lambda found: "." in found[1])


def _walk(section: Section, prefix: str) -> Iterator[tuple[type[Section], str, Value]]:
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield type(section), prefix + name, value
