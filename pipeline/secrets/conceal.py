"""Hide what the settings say, before anything is stored: arguments and environments in frames and in surveys.

Everything behind this point (tables, stream, dumps, recordings) holds the concealed form only. How a secret is told is
in scrub.py; here it is applied to the strings of records, which are replaced only where they differ. What sshd told of
a client (`ssh_bytes`) is no part of an environment: it is handed on to who looks for sessions, and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np

from pipeline.host.alive import watched
from pipeline.records.kinds import EXEC_ARGS_TRUNCATED, EXEC_ARGS_UNREADABLE, EXEC_ENVS_TRUNCATED, EXEC_ENVS_UNREADABLE
from pipeline.secrets._conceal import Literals, Sieve, digest
from pipeline.secrets.argsenvs import filter_area

if TYPE_CHECKING:
    from pipeline.bus.frames.frame import Frame
    from pipeline.config.schema import Config
    from pipeline.procfs.survey import Survey
    from pipeline.secrets.scrub import Scrubber


def scrubber_of(config: Config) -> Scrubber | None:
    """What hides secrets in arguments, in frames and in single entries alike; None: they are kept as they are."""
    if config.args.show == "raw":
        return None
    from pipeline.secrets.scrub import Scrubber

    return Scrubber(config.args.custom_sensitive_words, config.args.custom_sensitive_patterns, mode=config.args.show)


def digest_of(body: np.void, args: bytes, envs: bytes) -> int:
    """The digest of the strings of an EXEC before anything is hidden. What it says nothing of is absent: what is not
    captured, of which it has the length alone, and of a look at `/proc` what could not be read. (Of an event that says
    so, nobody knows what the exec had: it has no digest, and is like no other.)"""
    flags = int(body["exec_flags"])
    return digest(
        args or (None if flags & (EXEC_ARGS_UNREADABLE | EXEC_ARGS_TRUNCATED) else args),
        envs or (None if flags & (EXEC_ENVS_UNREADABLE | EXEC_ENVS_TRUNCATED) else envs),
    )


class Concealer:
    """What may be kept of arguments and environments.

    Args:
        scrub_argv: NUL-terminated arguments in, the same with secrets hidden out; None: arguments are kept as they are.
        literals: arguments that hold none of them and none of `words` need no scrubbing; None: all may need it.
        words: the same for whole words.
        show_values: names of environment variables that keep their value; of others only the name is kept.

    Attributes:
        sieve: for frames: those that hold nothing to hide come through it as they are.
        take_ssh: told (tgid, start in boot ns, strings) of what sshd executed, where the record has it.
    """

    def __init__(
        self,
        scrub_argv: Callable[[bytes], bytes] | None,
        literals: Iterable[bytes] | None = None,
        words: Iterable[bytes] = (),
        show_values: Collection[str] = (),
    ) -> None:
        self._scrub_argv = scrub_argv
        # A single byte is in nearly every text: then all of them are looked at.
        self.sieve = Sieve(
            None if scrub_argv is None else Literals([b""] if literals is None else literals, words), self._hide
        )
        self._show = frozenset(name.encode() for name in show_values)
        self.take_ssh: Callable[[int, int, bytes], None] | None = None

    @classmethod
    def of(cls, config: Config, scrubber: Scrubber | None) -> Concealer:
        """What the settings say; `scrubber` as `scrubber_of` makes it."""
        if scrubber is None:
            return cls(None, show_values=config.envs.show_values)
        # "none" changes every command line.
        literals = scrubber.literals if config.args.show == "scrubbed" else None
        return cls(scrubber.scrub_argv, literals, scrubber.program_names, config.envs.show_values)

    def _hide(self, frame: Frame, suspected: list[tuple[int, int, int]]) -> Frame:
        """Return the frame, or one with its exec strings replaced where something had to be hidden.

        Records stay where they are in their ring, and as long there (`record_bytes`), whatever became of their strings.
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
                if self.take_ssh is not None:
                    head = frame.head[record]
                    self.take_ssh(int(head["tgid"]), int(head["start_boot_ns"]), envs[kept:])
                envs = envs[:kept]
            new = self.strings(args, envs)
            if new != old:
                changes[number] = (record, at, *new)
                if not int(body["exec_flags"]) & (EXEC_ARGS_UNREADABLE | EXEC_ENVS_UNREADABLE):
                    digests[number] = digest_of(body, args, envs)
        return self._replace(frame, changes, digests.tobytes()) if changes else frame

    def strings(self, args: bytes, envs: bytes) -> tuple[bytes, bytes]:
        """Conceal the arguments and the environment of one process."""
        return self._scrub_argv(args) if args and self._scrub_argv else args, filter_area(envs, self._show)

    def survey(self, survey: Survey, show_life: Callable[[], object] = lambda: None) -> None:
        """Conceal the strings of a survey in place; its digests are of what they were."""
        survey.digests = [0] * len(survey.strings)
        for i, text in enumerate(watched(survey.strings, show_life)):
            row = survey.exec[i]
            kept = int(row["path_bytes"]) + int(row["name_bytes"])
            split = kept + int(row["args_bytes"])
            before = (text[kept:split], text[split:])
            survey.digests[i] = digest_of(row, *before)
            args, envs = self.strings(*before)
            if (args, envs) != before:
                survey.strings[i] = text[:kept] + args + envs
                row["args_bytes"], row["envs_bytes"] = len(args), len(envs)
                survey.head[i]["var_bytes"] = len(survey.strings[i])

    @staticmethod
    def _replace(frame: Frame, changes: dict[int, tuple[int, int, bytes, bytes]], digests: bytes) -> Frame:
        """Copy the frame with other strings: exec body -> (record, where they begin in the blob, args, envs)."""
        head, exec_, blob = frame.head.copy(), frame.exec.copy(), frame.blob
        pieces: list[bytes | memoryview] = []
        done = 0
        for number, (record, at, args, envs) in changes.items():
            pieces += [blob[done:at], args, envs]
            was = int(exec_["args_bytes"][number]) + int(exec_["envs_bytes"][number])
            done = at + was
            exec_["args_bytes"][number], exec_["envs_bytes"][number] = len(args), len(envs)
            exec_["ssh_bytes"][number] = 0
            head["var_bytes"][record] = int(head["var_bytes"][record]) + len(args) + len(envs) - was
        pieces.append(blob[done:])
        return frame.replaced(head.tobytes(), exec_.tobytes(), b"".join(pieces), digests)
