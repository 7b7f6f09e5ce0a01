"""Have a recording replayed into tables of its own, for `ProcessTable.open`.

A recording has events, not tables. One way makes tables of it: an instance that replays it, as `procline replay`,
`procline top --replay` and `procline timeline --replay` use. It consists of other programs with much more code than a
reader, so it is started as a program (`pipeline.cli.ask.replayed`), which ends when this process ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from pipeline import errors

_PROGRAM = "pipeline.cli.ask.replayed"
#: How long the instance may take to end; it ends by itself even if this process does not wait.
_STOP_S = 45


class Replay:
    """An instance that has replayed a recording, until `stop`.

    Args:
        file: the recording.
        partial: accept a file that is cut off or damaged, and read what is before that place.

    Attributes:
        directory: the instance's runtime directory, on tmpfs.
        last_boot_ns: time of the last event, ns on the boot clock of the recording.

    Raises:
        ConfigError, FrameError: the file cannot be replayed.
        UnsupportedError, ProclineError: the instance did not start.
    """

    def __init__(self, file: Path, *, partial: bool) -> None:
        command = [sys.executable, "-P", "-m", _PROGRAM, str(file.absolute()), *(["--partial"] if partial else [])]
        with tempfile.TemporaryFile() as log:
            # In a session of its own, Ctrl-C on the terminal reaches only this process.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
            try:
                assert self._process.stdout is not None
                said = self._process.stdout.readline()
                if not said:
                    self.stop()
                    log.seek(0)
                    lines = log.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
                    raise errors.ProclineError(f"cannot replay {file}: {lines[-1]}")
                answer = json.loads(said)
                if "error" in answer:
                    raise _error(file, answer["error"], answer["message"], partial=partial)
            except BaseException:
                self.stop()
                raise
        self.directory = Path(answer["directory"])
        self.last_boot_ns = int(answer["last_boot_ns"])

    def stop(self) -> None:
        """End the instance and remove its tables; readers keep what they have mapped. May be called twice."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _error(file: Path, name: str, message: str, *, partial: bool) -> errors.ProclineError:
    if name == "FrameError":
        reason = message.removeprefix(f"{file.absolute()}: ")
        hint = "" if partial or "cut off" not in reason else "; partial=True reads what is before that"
        return errors.FrameError(f"{message}{hint}", peer=str(file), reason=reason)
    kind = getattr(errors, name, None)
    is_known = isinstance(kind, type) and issubclass(kind, errors.ProclineError)
    return kind(message) if is_known else errors.ProclineError(message)  # type: ignore[misc]
