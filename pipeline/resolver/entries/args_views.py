"""Views of an entry's arguments and environment: the functions of specification 3.4 and 3.5.

Covers the computed views (argv0, argv, scrubbed argv, envs, envp), the form in which both resolvers store them, and
small questions about an entry. The shared objects themselves are in `argsenvs`.
"""

from __future__ import annotations

from collections.abc import Collection

from pipeline.records.limits import KTHREADD
from pipeline.resolver.entries.cache_entry import Process, ProcessCacheEntry
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.secrets.argsenvs import ArgScrubber, ArgsEntry, EnvsEntry, is_command_line
from pipeline.shm.names.symlinks import is_busybox

__all__ = [
    "argv_scrubbed", "envp", "envs", "get_process_argv", "get_process_argv0", "is_busybox", "is_kworker",
    "is_through_sym_link", "kept", "scrubber_or_default",
]  # fmt: skip


def get_process_argv(pr: Process) -> tuple[list[str] | None, bool]:
    """Return the arguments after argv[0] as they are stored, and whether they were truncated. None: unknown.

    Example:
        >>> get_process_argv(ProcessCacheEntry(pid=8675, args_entry=ArgsEntry(["date", "+%s"])))
        (['+%s'], False)
    """
    args = pr.args_entry
    if args is None:
        return pr.view("argv"), pr.args_truncated
    pr.set_view("argv", args.argv)
    return args.argv, _args_truncated(pr)


def get_process_argv0(pr: Process) -> tuple[str, bool]:
    """Return the first argument, "" if there is none, and whether the arguments were truncated.

    Example:
        >>> get_process_argv0(ProcessCacheEntry(pid=8675, args_entry=ArgsEntry(["date", "+%s"])))
        ('date', False)
    """
    args = pr.args_entry
    if args is None:
        return pr.view("argv0") or "", pr.args_truncated
    pr.set_view("argv0", args.argv0)
    return args.argv0, _args_truncated(pr)


def argv_scrubbed(pr: Process, scrubber: ArgScrubber | None) -> tuple[list[str] | None, bool]:
    """Return the arguments after argv[0] with secrets hidden; entries with the same arguments share the list."""
    args = pr.args_entry
    if args is None:
        return pr.view("argv"), pr.args_truncated
    hidden = args.scrubbed(scrubber)
    pr.set_view("argv_scrubbed", hidden)
    return hidden, _args_truncated(pr)


def envs(pr: Process, allow: Collection[str] | None) -> tuple[list[str] | None, bool]:
    """Return names of variables, with values of allowed names only, and whether the environment was truncated."""
    entry = pr.envs_entry
    if entry is None:
        return pr.view("envs"), pr.envs_truncated
    shown, is_truncated = entry.filter(allow)
    pr.set_view("envs", shown)
    return shown, _envs_truncated(pr, is_truncated)


def envp(pr: Process) -> tuple[list[str] | None, bool]:
    """Return whole variables as they are stored, and whether the environment was truncated."""
    entry = pr.envs_entry
    if entry is None:
        return pr.view("envp"), pr.envs_truncated
    pr.set_view("envp", entry.values)
    return entry.values, _envs_truncated(pr, entry.is_truncated)


def scrubber_or_default(scrubber: ArgScrubber | None, opts: ResolverOpts) -> ArgScrubber | None:
    """Return the scrubber of a resolver: without one the built-in one, unless `opts` asks for raw values."""
    if scrubber is not None or opts.raw_values:
        return scrubber
    from pipeline.secrets.scrub import Scrubber  # imported here, so that its engine is loaded only if it is used

    return Scrubber()


def kept(
    args: ArgsEntry | None, envs: EnvsEntry | None, scrubber: ArgScrubber | None, opts: ResolverOpts
) -> tuple[ArgsEntry | None, EnvsEntry | None]:
    """Return the form of arguments and environment that the tables contain, which other users may map."""
    if opts.raw_values:
        return args, envs
    if args is not None and scrubber is not None and args.values:
        args = ArgsEntry([_kept_argv0(args, scrubber), *args.scrubbed(scrubber)], args.is_truncated)
    if envs is not None:
        shown, is_cut = envs.filter(opts.shown_envs)
        envs = EnvsEntry(shown or (), is_cut)
    return args, envs


def _kept_argv0(args: ArgsEntry, scrubber: ArgScrubber) -> str:
    """Return argv[0], scrubbed if it is a command line: a process may write a title over its arguments."""
    argv0 = args.argv0
    if not is_command_line(argv0, not any(args.values[1:])):
        return argv0
    hidden, _ = scrubber.scrub([argv0])
    return hidden[0] if hidden else argv0.split(maxsplit=1)[0]


def _args_truncated(pr: Process) -> bool:
    args = pr.args_entry
    cut = pr.args_truncated
    if args is not None and args.is_truncated and not cut:
        pr.args_truncated = cut = True
    return cut


def _envs_truncated(pr: Process, is_truncated: bool) -> bool:
    cut = pr.envs_truncated
    if is_truncated and not cut:
        pr.envs_truncated = cut = True
    return cut


def is_kworker(ppid: int, pid: int) -> bool:
    """Whether these are the pids of a kernel thread: kthreadd or a child of it.

    Example:
        >>> is_kworker(ppid=2, pid=17), is_kworker(ppid=1, pid=901)
        (True, False)
    """
    return ppid == KTHREADD or pid == KTHREADD


def is_through_sym_link(entry: ProcessCacheEntry) -> bool:
    """Whether the kernel followed a symbolic link to reach the executable.

    Example:
        >>> is_through_sym_link(ProcessCacheEntry(pid=8675, is_through_symlink=True))
        True
    """
    return entry.is_through_symlink
