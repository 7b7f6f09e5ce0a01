"""Settings: defaults, file, environment and options, merged once into one frozen object.

Each setting is a field with its limits and its description, and those are the only copies: `example` writes the
commented file ``docs/procline.toml`` from them. Every setting has a default, so no file is needed.

A file is TOML with one table for each section of `Config`. What is set later wins: the file, then the variables of
`ENVIRONMENT`, then the options of the command line. Readers and subscribers do not import this module.
"""

from __future__ import annotations

import difflib
import json
import math
import mmap
import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from pipeline.errors import ConfigError

CONFIG_VARIABLE = "PROCLINE_CONFIG"

#: Variables that stand for a setting. The list is short on purpose: what else differs between hosts goes in a file.
ENVIRONMENT = {
    "PROCLINE_SOURCE": "source",
    "PROCLINE_SHARDS": "shards.count",
    "PROCLINE_RING_BYTES": "capture.ring_bytes",
    "PROCLINE_LOG_LEVEL": "log.level",
    "PROCLINE_LOG_FORMAT": "log.format",
}

MIB = 1 << 20
#: No kernel takes a smaller kernel.pid_max (kernel/pid.c, RESERVED_PIDS + 1).
PID_CAPACITY_MIN = 301
PORT_MAX = 65535
#: Nested tables and lists of a file; a setting has two.
NESTING_MAX = 32

#: Only the owner writes, so that no reader can spoil what others read.
_TABLE_MODE = Meta(
    pattern="^06[04][04]$", extra={"expected": 'a mode that lets nobody but the owner write, such as "0640"'}
)
#: To connect to a Unix socket is to write to it.
_SOCKET_MODE = Meta(
    pattern="^06[06][06]$", extra={"expected": 'a mode that lets others read and write or neither, such as "0660"'}
)


def _check_port(key: str, address: str) -> None:
    if int(address.rpartition(":")[2] or 0) > PORT_MAX:
        raise ValueError(f"{key}: expected a port up to {PORT_MAX}, got {address!r}")


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, and a misspelt key is an error."""


class Capture(Section, frozen=True):
    """What the BPF programs record, and how the shards take it over."""

    ring_bytes: Annotated[
        int,
        Meta(
            ge=4096,
            le=1 << 30,
            description="Bytes of the ring buffer of each online CPU: a power of two, at least one page. It is kernel "
            "memory, taken at start. The default holds more than a second of a fork storm, which is what a resolver "
            "needs to be replaced without loss. Make it larger when `lost` in `procline stat` grows.",
        ),
    ] = 8 * MIB
    args_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=32768,
            description="Bytes of arguments that an exec record holds at most; longer ones are cut and flagged. 0: "
            "arguments are not captured.",
        ),
    ] = 32768
    envs_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=32768,
            description="The same for the environment. It holds secrets more often than not, so the default is 0: not "
            "captured.",
        ),
    ] = 0
    drain_interval_min_ms: Annotated[
        float,
        Meta(
            ge=0.1,
            le=1000,
            description="A shard that finds events looks again after this time, in ms. Shorter is fresher and costs "
            "more CPU.",
        ),
    ] = 4.0
    drain_interval_max_ms: Annotated[
        float,
        Meta(
            ge=0.1,
            le=1000,
            description="The interval grows up to this, in ms, while there is much to do. An idle shard sleeps until "
            "an event wakes it.",
        ),
    ] = 8.0
    wakeup_fill_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 30,
            description="A ring with more than this many unread bytes wakes its shard before the interval is over. "
            "0: a quarter of ring_bytes.",
        ),
    ] = 0
    credentials: Annotated[
        Literal["auto", "fentry", "kprobe", "syscalls", "off"],
        Meta(
            description="How changes of credentials, session, terminal and namespaces are seen while a process lives. "
            '"auto": in the kernel\'s own functions (by "fentry", else by "kprobe"), else at the end of the system '
            'calls that make them ("syscalls"), which makes every system call of the host slower by 5 to 40 ns, an '
            "open or a write by 70 to 160; `procline doctor` shows which. A way that is named must work, or the start "
            "fails. "
            '"off": they are seen at the process\'s next fork, exec, exit, change of name or of cgroup.',
        ),
    ] = "auto"
    compat_calls: Annotated[
        Literal["auto", "off"],
        Meta(
            description="Where credentials are seen at the end of system calls (x86-64): whether those in the way of "
            "32-bit programs are looked at too, which any program can make. That makes every system call of the host "
            'slower by 5 to 20 ns more (docs/sources.md). "off": what they change is seen as with '
            'credentials = "off".',
        ),
    ] = "auto"
    task_iterator: Annotated[
        Literal["auto", "off"],
        Meta(
            description="Whether snapshot and repair look at the processes by a BPF task iterator, where the kernel "
            'has one. "off": by /proc alone, where a start time is known to 10 ms until the process\'s next event.',
        ),
    ] = "auto"
    capabilities_usage: Annotated[
        Literal["on", "off"],
        Meta(
            description="Whether entries say which capabilities the kernel asked their process for, and which of them "
            "it had (caps_attempted, caps_used). Needs Linux 6.14; `procline doctor` says whether it is in force. "
            'With "on" each check costs some 60 ns, and each process makes two to four records more.',
        ),
    ] = "off"

    def __post_init__(self) -> None:
        if self.ring_bytes & (self.ring_bytes - 1) or self.ring_bytes % mmap.PAGESIZE:
            raise ValueError(f"ring_bytes: expected a power of two of at least a page, got {self.ring_bytes}")
        if self.drain_interval_max_ms < self.drain_interval_min_ms:
            raise ValueError(
                f"drain_interval_max_ms: expected at least {self.drain_interval_min_ms} (drain_interval_min_ms), "
                f"got {self.drain_interval_max_ms}"
            )
        if self.wakeup_fill_bytes > self.ring_bytes:
            raise ValueError(f"wakeup_fill_bytes: expected at most ring_bytes, got {self.wakeup_fill_bytes}")

    @property
    def wakeup_level_bytes(self) -> int:
        """The fill above which a ring wakes its shard, with the default filled in."""
        return self.wakeup_fill_bytes or self.ring_bytes // 4


class Shards(Section, frozen=True):
    """The processes that drain the rings."""

    count: Annotated[
        Literal["auto"] | Annotated[int, Meta(ge=1, le=256)],
        Meta(
            description='How many processes share the rings: a number, or "auto" for one for each 8 CPUs.',
            extra={"expected": 'a number from 1 to 256, or "auto"'},
        ),
    ] = "auto"

    def resolve(self, ring_count: int) -> int:
        """Return the number of shards for `ring_count` rings; a shard without a ring would be of no use."""
        wanted = 1 + (ring_count - 1) // 8 if self.count == "auto" else self.count
        return max(1, min(wanted, ring_count))


class Frames(Section, frozen=True):
    """The way from the shards to the resolver."""

    max_bytes: Annotated[
        int,
        Meta(ge=65536, le=64 * MIB, description="A frame is closed when it holds this many bytes of records."),
    ] = MIB
    push_hwm_frames: Annotated[
        int,
        Meta(
            ge=1, le=4096, description="Frames under way from one shard; at this number it waits, and the rings fill."
        ),
    ] = 32


class Merge(Section, frozen=True):
    """Bringing the events of all rings in order."""

    stall_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=60_000,
            description="A ring whose shard hands over nothing for this long, in ms, is passed over; what comes from "
            "it afterwards is counted as late.",
        ),
    ] = 1000


class Tables(Section, frozen=True):
    """The shared tables. All sizes are ceilings: memory is taken in steps, as it is needed."""

    max_entries: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 28,
            description="Images of processes, live and exited, that the table can hold; 320 bytes each. At the ceiling "
            "the oldest exited ones go first, live ones never.",
        ),
    ] = 262_144
    chunk_rows: Annotated[int, Meta(ge=64, le=1 << 20, description="The table grows by this many entries.")] = 4096
    names_bytes: Annotated[
        int, Meta(ge=MIB, le=1 << 35, description="Ceiling of executables, paths and names, in bytes.")
    ] = 64 * MIB
    args_bytes: Annotated[int, Meta(ge=MIB, le=1 << 35, description="Ceiling of arguments, in bytes.")] = 256 * MIB
    envs_bytes: Annotated[int, Meta(ge=MIB, le=1 << 35, description="Ceiling of environments, in bytes.")] = 128 * MIB
    pid_capacity: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 22,
            description="Pids in the index, 4 bytes each: at least 301. 0: as many as kernel.pid_max allows.",
        ),
    ] = 0
    key_capacity: Annotated[
        int,
        Meta(
            ge=64,
            le=1 << 20,
            description="Processes that tracers tell of, by (pid, pid namespace), that can be in the index at a time; "
            "20 bytes each.",
        ),
    ] = 65_536
    retention_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400 * 365,
            description="How long an exited process can be looked up, in seconds. Longer while a live one descends "
            "from it, shorter at the ceiling.",
        ),
    ] = 300.0
    chain_max: Annotated[
        int,
        Meta(
            ge=16,
            le=512,
            description="Images and ancestors that a chain may have; what is elided beyond is marked and counted.",
        ),
    ] = 512
    checked: Annotated[
        bool,
        Meta(description="Each row carries a checksum that readers can verify. For tests; it costs the writer time."),
    ] = False

    def __post_init__(self) -> None:
        if 0 < self.pid_capacity < PID_CAPACITY_MIN:
            raise ValueError(f"pid_capacity: expected 0 or at least {PID_CAPACITY_MIN}, got {self.pid_capacity}")


class Repair(Section, frozen=True):
    """Comparing the tables with the live processes."""

    min_interval_ms: Annotated[
        int,
        Meta(ge=10, le=3_600_000, description="After a loss the tables are repaired at most once in this time, in ms."),
    ] = 500
    check_interval_s: Annotated[
        float,
        Meta(ge=0, le=86_400, description="They are compared this often without a loss too, in seconds. 0: never."),
    ] = 120.0


class Args(Section, frozen=True):
    """What becomes of arguments before they reach a table, a reader or a subscriber."""

    show: Annotated[
        Literal["scrubbed", "raw", "none"],
        Meta(
            description='"scrubbed": values that look secret are replaced by asterisks. "raw": kept as they are. '
            '"none": only the name of the program is kept.'
        ),
    ] = "scrubbed"
    custom_sensitive_words: Annotated[
        tuple[str, ...],
        Meta(description="Words beside the built-in ones after which a value is secret; * stands for any letters."),
    ] = ()
    custom_sensitive_patterns: Annotated[
        tuple[str, ...],
        Meta(description="Regular expressions (RE2) beside the built-in ones; what they match is replaced."),
    ] = ()


class Envs(Section, frozen=True):
    """What becomes of environment variables, if they are captured."""

    show_values: Annotated[
        tuple[str, ...],
        Meta(
            description="Names of the variables that are kept with their value; of all others only the name is kept. "
            "If there are any, events have what is kept, too."
        ),
    ] = ()


class Contexts(Section, frozen=True):
    """What is looked up beside what the kernel tells of a process."""

    user_names: Annotated[
        Literal["all", "host", "off"],
        Meta(
            description='Names of users and groups. "all": those of the host, and for processes in a container those '
            'in its own root directory, which is read. "host": processes in containers have none. "off": nobody has.'
        ),
    ] = "all"
    tty_fallback: Annotated[
        bool,
        Meta(
            description="A process without a controlling terminal is shown with the terminal that its standard input "
            "is, if that is one. It costs a look into /proc for each exec of such a process."
        ),
    ] = False


class Access(Section, frozen=True):
    """Who may read. Directories are always open to everyone, files and sockets as said here."""

    group: Annotated[
        str,
        Meta(description='Group of the files and sockets of the instance. "": the group that the daemon runs as.'),
    ] = ""
    tables_mode: Annotated[
        str, _TABLE_MODE, Meta(description="Mode of the tables, without arguments and environments.")
    ] = "0644"
    args_mode: Annotated[str, _TABLE_MODE, Meta(description="Mode of the arguments.")] = "0640"
    envs_mode: Annotated[str, _TABLE_MODE, Meta(description="Mode of the environments.")] = "0600"
    stream_mode: Annotated[
        str,
        _SOCKET_MODE,
        Meta(description="Mode of the stream's socket. Events carry what the tables hold, arguments included."),
    ] = "0660"
    requests_mode: Annotated[
        str,
        _SOCKET_MODE,
        Meta(
            description="Mode of the socket where readers ask about a process that they miss. An answer says where it "
            "is in the tables, and nothing that these do not say."
        ),
    ] = "0666"
    tracers_mode: Annotated[
        str,
        _SOCKET_MODE,
        Meta(description="Mode of the socket of tracers. Who may connect may say anything."),
    ] = "0600"

    @staticmethod
    def bits(mode: str) -> int:
        """Return a mode as chmod takes it."""
        return int(mode, 8)


class Stream(Section, frozen=True):
    """The public stream of events."""

    hwm_messages: Annotated[
        int,
        Meta(
            ge=16,
            le=1 << 24,
            description="Messages kept for each subscriber that is slow; at this number it loses the next ones, and "
            "knows it by their numbers. A message holds up to 64 KiB of events, so the default is 64 MiB at the worst, "
            "shared by all who are slow.",
        ),
    ] = 1024
    heartbeat_ms: Annotated[
        int,
        Meta(ge=50, le=60_000, description="A quiet topic repeats its last number this often, in ms."),
    ] = 1000
    file: Annotated[
        Literal["exec", "all"],
        Meta(
            description="Which events of processes tell the facts of the executable (`file`, and `interpreter` of a "
            'script). "exec": those of an exec; of the others `inode` and `path` name the file. "all": all of them, '
            "which makes the others a sixth longer."
        ),
    ] = "exec"
    tcp_endpoint: Annotated[
        str,
        Meta(
            pattern=r"^(tcp://\S+:[0-9]{1,5})?$",
            extra={"expected": 'an address such as "tcp://127.0.0.1:7717"'},
            description='Also offer the stream at this address, for example "tcp://127.0.0.1:7717". "": only to this '
            "host, by its socket.",
        ),
    ] = ""
    curve_secret_key_file: Annotated[
        str,
        Meta(description="Secret key of the address above, as zmq.auth writes it. The file must be closed to others."),
    ] = ""
    curve_clients_dir: Annotated[
        str, Meta(description="Directory of the public keys that may connect to the address above.")
    ] = ""

    def __post_init__(self) -> None:
        if self.tcp_endpoint:
            for key in ("curve_secret_key_file", "curve_clients_dir"):
                if not getattr(self, key):
                    raise ValueError(f"{key}: expected a path, as tcp_endpoint is set and is never without encryption")
        _check_port("tcp_endpoint", self.tcp_endpoint)


#: HOST:PORT, an IPv6 host in brackets; or nothing.
_ADDRESS = r"^((\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):[0-9]{1,5})?$"


class Metrics(Section, frozen=True):
    """What monitoring is told. Counts and sizes only: no pid, command or user."""

    listen: Annotated[
        str,
        Meta(
            pattern=_ADDRESS,
            extra={"expected": 'an address such as "127.0.0.1:9464"'},
            description='Serve http://HOST:PORT/metrics for Prometheus, for example at "127.0.0.1:9464". It is neither '
            'encrypted nor asks who is there, so it belongs on the loopback address. "": off.',
        ),
    ] = ""
    statsd: Annotated[
        str,
        Meta(
            pattern=_ADDRESS,
            extra={"expected": 'an address such as "127.0.0.1:8125"'},
            description='Push counters over DogStatsD to HOST:PORT, for example "127.0.0.1:8125", where nothing '
            'scrapes. Needs procline[statsd]. "": off.',
        ),
    ] = ""
    statsd_prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z][A-Za-z0-9_.]*$",
            extra={"expected": "letters, digits, dots and underscores"},
            description="Stands before the name of every metric that is pushed.",
        ),
    ] = "datadog.runtime_security"
    statsd_interval_s: Annotated[float, Meta(ge=0.1, le=3600, description="Time between two pushes, in seconds.")] = (
        10.0
    )

    def __post_init__(self) -> None:
        for key in ("listen", "statsd"):
            _check_port(key, getattr(self, key))


class Log(Section, frozen=True):
    """Logs go to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least level that is written.")
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description='"json": one object a line. "console": for people. "auto": by what standard error is.'),
    ] = "auto"


class Supervision(Section, frozen=True):
    """Starting, watching and restarting the daemon's processes."""

    backoff_max_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=600_000,
            description="A process that died is started again at once; if it then dies early, the pause before each "
            "further start doubles from 100 ms up to this, in ms.",
        ),
    ] = 1000
    healthy_ms: Annotated[
        int,
        Meta(ge=100, le=600_000, description="A process that was ready and lived this long, in ms, did not die early."),
    ] = 300
    early_deaths_max: Annotated[
        int,
        Meta(ge=1, le=1000, description="After this many early deaths in a row the daemon gives up and ends."),
    ] = 8
    restarts_max: Annotated[
        int,
        Meta(ge=1, le=100_000, description="It also gives up after this many restarts of one process in 10 minutes."),
    ] = 100
    start_timeout_s: Annotated[
        float,
        Meta(
            ge=1, le=3600, description="It gives up too when the tables are not complete after this time, in seconds."
        ),
    ] = 60.0
    stop_timeout_s: Annotated[
        float,
        Meta(ge=0.1, le=3600, description="Time for a process to drain at the end, in seconds, before it is killed."),
    ] = 10.0
    share_cpu: Annotated[
        bool,
        Meta(
            description="Keep resolver and shards on one CPU for as long as it is idle: events are in the tables "
            "a third sooner. On a busy host they run wherever the scheduler puts them."
        ),
    ] = True


class Config(Section, frozen=True):
    """All settings of an instance."""

    source: Annotated[
        str,
        Meta(
            pattern="^(ebpf|proc-connector|tracer|replay:.+)$",
            extra={"expected": '"ebpf", "proc-connector", "tracer" or "replay:FILE"'},
            description='Where events come from: "ebpf", "proc-connector" (netlink, no BPF), "tracer" (whoever sends '
            'frames to the socket in tracers/), or "replay:FILE".',
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
    log: Log = Log()
    supervision: Supervision = Supervision()

    def to_json(self) -> bytes:
        """Return the settings as a worker process gets them."""
        return msgspec.json.encode(self)

    @staticmethod
    def from_json(data: bytes) -> Config:
        """Return the settings that `to_json` wrote."""
        return msgspec.json.decode(data, type=Config)


Value = str | int | float | bool | tuple[str, ...]


class Setting(typing.NamedTuple):
    """One setting: its full name, value and description."""

    key: str
    value: Value
    description: str


def settings(config: Config) -> Iterator[Setting]:
    """Yield every setting of `config`, section by section, those without a section first."""
    yield from sorted(_walk(config, ""), key=lambda setting: "." in setting.key)


def _walk(section: Section, prefix: str) -> Iterator[Setting]:
    hints = typing.get_type_hints(type(section), include_extras=True)
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            metas = [meta for meta in getattr(hints[name], "__metadata__", ()) if isinstance(meta, Meta)]
            yield Setting(prefix + name, value, " ".join(meta.description for meta in metas if meta.description))


def load(
    file: Path | None = None,
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Merge defaults, file, environment and options.

    Args:
        file: a TOML file; without it the one that `CONFIG_VARIABLE` names, if any.
        options: settings by their full name (``capture.ring_bytes``); None values are left out.
        environ: where the variables of `ENVIRONMENT` are looked up.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, a value is not allowed. The message has the place, the
            key and what was expected.
    """
    return load_with_origins(file, options, environ)[0]


def load_with_origins(
    file: Path | None = None,
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Config, dict[str, str]]:
    """Do as `load` does and also return where each setting that is no default was set."""
    if file is None and environ.get(CONFIG_VARIABLE):
        file = Path(environ[CONFIG_VARIABLE])
    merged: dict[str, typing.Any] = {}
    origins: dict[str, str] = {}
    if file is not None:
        merged = _read(file)
        origins = {key: str(file) for key in _keys(merged)}
    for variable, key in ENVIRONMENT.items():
        if environ.get(variable):
            _put(merged, key, parse_value(environ[variable]))
            origins[key] = variable
    for key, value in (options or {}).items():
        if value is not None:
            _put(merged, key, value)
            origins[key] = "command line"
    try:
        config = msgspec.convert(merged, Config)
    except msgspec.ValidationError as error:
        raise _explain(error, merged, origins) from None
    for key, value, _ in settings(config):
        _check_text(key, value, origins.get(key, "settings"))
    return config, origins


def _check_text(key: str, value: Value, place: str) -> None:
    """Refuse strings that no system call and no worker's specification can hold."""
    for text in value if isinstance(value, tuple) else (value,):
        if not isinstance(text, str):
            continue
        if "\0" in text:
            raise ConfigError(f"{place}: {key}: expected text without NUL, got {text!r}", key=key, value=value)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{place}: {key}: expected UTF-8, got {text!r}", key=key, value=value) from None


def parse_value(text: str) -> object:
    """Return `text` as a TOML value, or as a string if it is none, so that quotes can be left out.

    Raises:
        ConfigError: it is nested too deeply.
    """
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:  # an integer with too many digits is one, beside TOMLDecodeError
        return text
    except RecursionError:
        value = None
    if value is None or _depth(value) > NESTING_MAX:
        raise ConfigError(
            f"{text[:40]}...: nested too deeply: a setting is a number, a word or a list of words", key=None, value=text
        )
    return value


def parse_option(text: str) -> tuple[str, object]:
    """Split ``KEY=VALUE``.

    Raises:
        ConfigError: there is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r}: expected KEY=VALUE, for example log.level=debug", key=key, value=None)
    return key.strip(), parse_value(value.strip())


def example() -> str:
    """Return a file with every setting, its description and its default, all commented out."""
    lines = [
        "# Settings of Procline. Each line below shows a default: remove the # and change it.",
        "# Check the result with: procline config --config FILE",
    ]
    section = ""
    for key, value, description in settings(Config()):
        parent, _, name = key.rpartition(".")
        if parent != section:
            section = parent
            about = (getattr(Config(), parent).__doc__ or "").split("\n")[0]
            lines += ["", "", f"# {about}", f"[{parent}]"]
        variables = [variable for variable, meant in ENVIRONMENT.items() if meant == key]
        text = description + "".join(f" Also by {variable} in the environment." for variable in variables)
        lines += ["", *(f"# {line}" for line in _wrap(text))]
        lines.append(f"#{name} = {toml(value)}")
    return "\n".join(lines) + "\n"


def as_toml(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """Return `config` as a file; a setting found in `origins` says in a comment where it was set."""
    lines: list[str] = []
    section = ""
    for key, value, _ in settings(config):
        parent, _, name = key.rpartition(".")
        if parent != section:
            section = parent
            lines += ["", f"[{parent}]"]
        origin = (origins or {}).get(key)
        lines.append(f"{name} = {toml(value)}" + (f"  # {origin}" if origin else ""))
    return "\n".join(lines) + "\n"


def toml(value: Value) -> str:
    """Return one value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are all TOML's too; of the characters TOML wants escaped, JSON leaves only DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(toml(item) for item in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return repr(value)


def _read(file: Path) -> dict[str, typing.Any]:
    tree: dict[str, typing.Any] | None
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", key="config", value=str(file)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 (byte {error.start})", key="config", value=str(file)) from None
    except ValueError as error:  # TOMLDecodeError, or an integer with too many digits
        raise ConfigError(f"{file}: is not valid TOML: {error}", key="config", value=str(file)) from None
    except RecursionError:
        tree = None
    if tree is None or _depth(tree) > NESTING_MAX:
        raise ConfigError(
            f"{file}: is nested too deeply: a setting is in a section, and is a number, a word or a list of words",
            key="config",
            value=str(file),
        )
    return tree


def _depth(value: object) -> int:
    """Return how many tables and lists are within each other, one more than NESTING_MAX for all deeper ones."""
    level, depth = [value], 0
    while depth <= NESTING_MAX:
        level = [
            inner for outer in level if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]  # fmt: skip
        if not level:
            break
        depth += 1
    return depth


def _keys(tree: Mapping[str, typing.Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def _put(tree: dict[str, typing.Any], key: str, value: object) -> None:
    """Set ``a.b`` in nested dicts; what stands in the way and is no table is left for the validation to find."""
    section, dot, name = key.rpartition(".")
    if not dot:
        tree[name] = value
        return
    below = tree.setdefault(section, {})
    if isinstance(below, dict):
        below[name] = value


def _explain(
    error: msgspec.ValidationError, merged: Mapping[str, typing.Any], origins: Mapping[str, str]
) -> ConfigError:
    """Turn a message of msgspec ("... - at `$.capture.ring_bytes`") into one that names place, key and reason."""
    text, _, path = str(error).partition(" - at `$")
    key = re.sub(r"\[.*", "", path.rstrip("`").lstrip("."))
    section = key
    if own := re.match(r"(\w+): (.*)", text):  # raised by a __post_init__, which knows its field and not its section
        key, reason = f"{section}.{own[1]}", own[2]
    elif unknown := re.match(r"Object contains unknown field `(.*)`", text):
        key, reason = f"{section}.{unknown[1]}".lstrip("."), _unknown(section, unknown[1])
    else:
        reason = f"expected {_expected(key) or text.removeprefix('Expected ').partition(', got')[0]}"
        reason += f", got {_get(merged, key)!r}"
    place = origins.get(key) or next((origins[k] for k in origins if k.startswith(f"{section}.")), "settings")
    return ConfigError(f"{place}: {key}: {reason}", key=key, value=_get(merged, key))


def _unknown(section: str, name: str) -> str:
    fields = _get(Config(), section).__struct_fields__
    near = difflib.get_close_matches(name, fields, n=1)
    return "unknown setting; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(fields)}")


def _expected(key: str) -> str:
    """Return what a setting takes, where msgspec's words for it (a pattern, an enum) would help nobody."""
    section, _, name = key.rpartition(".")
    hint = typing.get_type_hints(type(_get(Config(), section)), include_extras=True).get(name)
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, Meta) and meta.extra:
            return meta.extra["expected"]
    base = getattr(hint, "__origin__", None)
    return " or ".join(repr(choice) for choice in typing.get_args(base)) if typing.get_origin(base) is Literal else ""


def _get(tree: typing.Any, key: str) -> typing.Any:
    """Return what stands at ``a.b`` in nested dicts or sections, None if nothing does."""
    for part in filter(None, key.split(".")):
        tree = tree.get(part) if isinstance(tree, dict) else getattr(tree, part, None)
    return tree


def _wrap(text: str, width: int = 116) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > width and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return lines
