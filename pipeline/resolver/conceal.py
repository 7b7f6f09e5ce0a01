"""Hide what the settings say, before anything is stored: arguments and environments in frames and in surveys.

Everything behind this point (tables, stream, dumps, recordings of the resolver) holds the concealed form only. How a
secret is told is in scrub.py; here it is applied to the strings of records, which are replaced only where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline import events
from pipeline.resolver.argsenvs import filter_area

if TYPE_CHECKING:
    from pipeline.bus.frames import Frame
    from pipeline.resolver.survey import Survey


class Concealer:
    """What may be kept of arguments and environments.

    Args:
        scrub_argv: NUL-terminated arguments in, the same with secrets hidden out; None: arguments are kept as they are.
        show_values: names of environment variables that keep their value; of others only the name is kept.
    """

    def __init__(self, scrub_argv: Callable[[bytes], bytes] | None, show_values: Collection[str] = ()) -> None:
        self._scrub_argv = scrub_argv
        self._show = frozenset(name.encode() for name in show_values)

    def frame(self, frame: Frame) -> Frame:
        """Return the frame, or one with its exec strings replaced where something had to be hidden."""
        bodies = frame.exec
        if not len(bodies) or (self._scrub_argv is None and not bodies["envs_bytes"].any()):
            return frame
        is_exec = (frame.head["kind"] == events.KIND_EXEC) & ((frame.head["flags"] & events.FLAG_HEAD_ONLY) == 0)
        ends = np.cumsum(frame.head["var_bytes"], dtype=np.int64)
        records = np.flatnonzero(is_exec)
        begins = (ends[records] - frame.head["var_bytes"][records]).tolist()
        kept = (bodies["path_bytes"] + bodies["name_bytes"]).tolist()
        args, envs = bodies["args_bytes"].tolist(), bodies["envs_bytes"].tolist()
        blob = frame.blob
        changes: dict[int, tuple[bytes, bytes]] = {}
        for i, begin in enumerate(begins):
            at = begin + kept[i]
            old_args = bytes(blob[at : at + args[i]])
            old_envs = bytes(blob[at + args[i] : at + args[i] + envs[i]])
            new = self.strings(old_args, old_envs)
            if new != (old_args, old_envs):
                changes[i] = new
        return self._replace(frame, records, begins, kept, changes) if changes else frame

    def strings(self, args: bytes, envs: bytes) -> tuple[bytes, bytes]:
        """Conceal the arguments and the environment of one process."""
        return self._scrub_argv(args) if args and self._scrub_argv else args, filter_area(envs, self._show)

    def survey(self, survey: Survey) -> None:
        """Conceal the strings of a survey in place."""
        for i, text in enumerate(survey.strings):
            row = survey.exec[i]
            kept = int(row["path_bytes"]) + int(row["name_bytes"])
            split = kept + int(row["args_bytes"])
            before = (text[kept:split], text[split:])
            args, envs = self.strings(*before)
            if (args, envs) != before:
                survey.strings[i] = text[:kept] + args + envs
                row["args_bytes"], row["envs_bytes"] = len(args), len(envs)
                survey.head[i]["var_bytes"] = len(survey.strings[i])

    def _replace(
        self,
        frame: Frame,
        records: npt.NDArray[np.intp],
        begins: list[int],
        kept: list[int],
        changes: dict[int, tuple[bytes, bytes]],
    ) -> Frame:
        from pipeline.bus.frames import Frame

        copy = Frame()
        for name in Frame.__slots__:
            setattr(copy, name, getattr(frame, name))
        copy.head, copy.exec = frame.head.copy(), frame.exec.copy()
        pieces: list[bytes | memoryview] = []
        done = 0
        for i, (args, envs) in changes.items():
            at = begins[i] + kept[i]
            pieces += [frame.blob[done:at], args, envs]
            done = at + int(frame.exec["args_bytes"][i]) + int(frame.exec["envs_bytes"][i])
            copy.exec["args_bytes"][i], copy.exec["envs_bytes"][i] = len(args), len(envs)
            var_bytes = kept[i] + len(args) + len(envs)
            rest = int(frame.head["var_bytes"][records[i]]) - kept[i] - (done - at)
            copy.head["var_bytes"][records[i]] = var_bytes + rest
        pieces.append(frame.blob[done:])
        copy.blob = memoryview(b"".join(pieces))
        return copy
