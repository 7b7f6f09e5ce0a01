"""Conceal arguments and environments in frames and surveys, as the settings require, before anything is stored.

Everything after this point (tables, stream, dumps, recordings) contains the concealed form only. scrub.py determines
what is a secret; this module applies it to the strings of records, which are replaced only if they differ. Facts about
an ssh client, which sshd put into its environment (`ssh_bytes`), are not part of the stored environment: they are
passed to the code that tracks sessions, and dropped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np

from pipeline.host.alive import watched
from pipeline.records.declared import (
    EXEC_ARGS_TRUNCATED,
    EXEC_ARGS_UNREADABLE,
    EXEC_ENVS_TRUNCATED,
    EXEC_ENVS_UNREADABLE,
)
from pipeline.secrets._conceal import Literals, Sieve, digest, digests_of
from pipeline.secrets.argsenvs import filter_area

if TYPE_CHECKING:
    from pipeline.bus.frames.frame import Frame
    from pipeline.config.schema import Config
    from pipeline.procfs.survey import Survey
    from pipeline.secrets.scrub import Scrubber


def scrubber_of(config: Config) -> Scrubber | None:
    """Return the scrubber for arguments in frames and in single entries; None: arguments are stored unchanged."""
    if config.args.show == "raw":
        return None
    from pipeline.secrets.scrub import Scrubber

    return Scrubber(config.args.custom_sensitive_words, config.args.custom_sensitive_patterns, mode=config.args.show)


def shown_envs(config: Config) -> frozenset[str] | None:
    """Return the names of environment variables that are stored with their value; None: all are."""
    if config.envs.show == "all":
        return None
    return frozenset(config.envs.show_values if config.envs.show == "listed" else ())


def digest_of(body: np.void, args: bytes, envs: bytes) -> int:
    """Return the digest of the strings of an EXEC record before anything was hidden.

    Strings that the record does not contain count as absent: strings that are not captured, of which it has only the
    length, and strings that could not be read from ``/proc``. (If an event marks its strings as unreadable, they are
    unknown: it gets no digest and differs from every other.)

    Args:
        body: the EXEC record.
        args: its arguments, a NUL after each.
        envs: its environment, a NUL after each variable.
    """
    flags = int(body["exec_flags"])
    return digest(
        args or (None if flags & (EXEC_ARGS_UNREADABLE | EXEC_ARGS_TRUNCATED) else args),
        envs or (None if flags & (EXEC_ENVS_UNREADABLE | EXEC_ENVS_TRUNCATED) else envs),
    )


class Concealer:
    """Removes from arguments and environments what must not be stored.

    Args:
        scrub_argv: returns arguments (a NUL after each) with their secrets hidden; None: arguments are stored
            unchanged.
        literals: arguments that contain none of these and none of `words` need no scrubbing; None: all may need it.
        words: the same, for whole words.
        show_values: names of environment variables that are stored with their value; of others only the name is stored.
            None: all variables are stored unchanged.
        on_ssh_exec: called with (tgid, start in boot ns, strings) for a program that sshd executed, if the record has
            the facts of the client.

    Attributes:
        sieve: processes frames; a frame with nothing to hide passes unchanged.
    """

    def __init__(
        self,
        scrub_argv: Callable[[bytes], bytes] | None,
        literals: Iterable[bytes] | None = None,
        words: Iterable[bytes] = (),
        show_values: Collection[str] | None = (),
        on_ssh_exec: Callable[[int, int, bytes], None] | None = None,
    ) -> None:
        self._scrub_argv = scrub_argv
        # The empty literal is in every text, so all of them are scrubbed.
        self._literals = None if scrub_argv is None else Literals([b""] if literals is None else literals, words)
        self.sieve = Sieve(self._literals, self._hide)
        self._show = None if show_values is None else frozenset(os.fsencode(name) for name in show_values)
        self._on_ssh_exec = on_ssh_exec

    @classmethod
    def of(
        cls,
        config: Config,
        scrubber: Scrubber | None,
        on_ssh_exec: Callable[[int, int, bytes], None] | None = None,
    ) -> Concealer:
        """Return the concealer for the settings.

        Args:
            config: the settings.
            scrubber: the result of `scrubber_of`.
            on_ssh_exec: see Concealer.
        """
        if scrubber is None:
            return cls(None, show_values=shown_envs(config), on_ssh_exec=on_ssh_exec)
        # "none" changes every command line, so no literals can exclude any.
        literals = scrubber.literals if config.args.show == "scrubbed" else None
        return cls(scrubber.scrub_argv, literals, scrubber.program_names, shown_envs(config), on_ssh_exec)

    def _hide(self, frame: Frame, suspected: list[tuple[int, int, int]]) -> Frame:
        """Return the frame, or a copy with other exec strings if something had to be hidden.

        Positions and sizes of records in their ring (`record_bytes`) do not change with their strings.
        """
        blob, bodies = frame.blob, frame.exec
        changes: dict[int, tuple[int, int, bytes, bytes]] = {}
        digests = np.zeros(frame.exec_count, np.uint64)
        for number, record, begin in suspected:
            body = bodies[number]
            at = begin + int(body["path_bytes"]) + int(body["name_bytes"])
            middle = at + int(body["args_bytes"])
            old = (bytes(blob[at:middle]), bytes(blob[middle : middle + int(body["envs_bytes"])]))
            args, envs = old
            if body["ssh_bytes"]:
                kept = max(0, len(envs) - int(body["ssh_bytes"]))
                if self._on_ssh_exec is not None:
                    header = frame.header[record]
                    self._on_ssh_exec(int(header["tgid"]), int(header["start_boot_ns"]), envs[kept:])
                envs = envs[:kept]
            new = self.strings(args, envs)
            if new != old:
                changes[number] = (record, at, *new)
                if not int(body["exec_flags"]) & (EXEC_ARGS_UNREADABLE | EXEC_ENVS_UNREADABLE):
                    digests[number] = digest_of(body, args, envs)
        return self._replace(frame, changes, digests.tobytes()) if changes else frame

    def strings(self, args: bytes, envs: bytes) -> tuple[bytes, bytes]:
        """Conceal the arguments and the environment of one process."""
        if args and self._scrub_argv is not None:
            args = self._scrub_argv(args)
        return args, envs if self._show is None else filter_area(envs, self._show)

    def survey(self, survey: Survey, show_life: Callable[[], object] = lambda: None) -> None:
        """Conceal the strings of a survey in place. Its digests are those of the original strings.

        Args:
            survey: the survey.
            show_life: see `pipeline.host.alive`.
        """
        execs = survey.exec.view(np.uint8)
        survey.digests, suspected = digests_of(execs, survey.strings, self._literals, self._show is not None)
        for i in watched(suspected, show_life):
            text, row = survey.strings[i], survey.exec[i]
            kept = int(row["path_bytes"]) + int(row["name_bytes"])
            split = kept + int(row["args_bytes"])
            before = (text[kept:split], text[split:])
            args, envs = self.strings(*before)
            if (args, envs) != before:
                survey.strings[i] = text[:kept] + args + envs
                row["args_bytes"], row["envs_bytes"] = len(args), len(envs)
                survey.header[i]["var_bytes"] = len(survey.strings[i])

    @staticmethod
    def _replace(frame: Frame, changes: dict[int, tuple[int, int, bytes, bytes]], digests: bytes) -> Frame:
        """Return a copy of the frame with other strings.

        Args:
            frame: the frame.
            changes: by number of the exec body: the record, the offset of its strings in the blob, arguments,
                environment.
            digests: see `digest_of`; uint64 for each exec body.
        """
        header, exec_, blob = frame.header.copy(), frame.exec.copy(), frame.blob
        pieces: list[bytes | memoryview] = []
        done = 0
        for number, (record, at, args, envs) in changes.items():
            pieces += [blob[done:at], args, envs]
            was = int(exec_["args_bytes"][number]) + int(exec_["envs_bytes"][number])
            done = at + was
            exec_["args_bytes"][number], exec_["envs_bytes"][number] = len(args), len(envs)
            exec_["ssh_bytes"][number] = 0
            header["var_bytes"][record] = int(header["var_bytes"][record]) + len(args) + len(envs) - was
        pieces.append(blob[done:])
        return frame.replaced(header.tobytes(), exec_.tobytes(), b"".join(pieces), digests)
