"""The subscribers of examples/subscribers: how each is started, and what it prints, as `Subscriber` would return it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "subscribers"
#: Where the modules of Node can be: Debian has no packages of them, so CI does not test this language.
NODE_MODULES = Path(os.environ.get("NODE_PATH") or ROOT / ".cache" / "node" / "node_modules")
#: Packages of Debian that a language needs.
PACKAGES = {
    "c": "gcc libzmq3-dev libmsgpack-c-dev", "perl": "libzmq-ffi-perl libdata-messagepack-perl libjson-xs-perl",
    "node": "nodejs (and `npm install --prefix .cache/node zeromq@6 @msgpack/msgpack@3`)",
}  # fmt: skip
LANGUAGES = tuple(PACKAGES)
#: As .ci/run says: these must be tested.
REQUIRED = os.environ.get("PROCLINE_REQUIRE_LANGUAGES", "").split()


class MissingError(Exception):
    """This host cannot run programs of a language."""


def _check(*command: str) -> None:
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(done.stderr.strip().splitlines()[0] if done.stderr.strip() else f"{command[0]} failed")


def environment() -> dict[str, str]:
    return dict(os.environ, NODE_PATH=str(NODE_MODULES))


@functools.cache
def command(language: str) -> list[str]:
    """Return the command that runs a subscriber; its argument is the endpoint.

    Raises:
        MissingError: this host lacks what the language needs.
    """
    tool = shutil.which("gcc" if language == "c" else language)
    if tool is None:
        raise MissingError(f"no {language}")
    if language == "perl":
        _check(tool, "-MZMQ::FFI", "-MData::MessagePack", "-MJSON::XS", "-e", "1")
        return [tool, str(EXAMPLES / "subscriber.pl")]
    if language == "node":
        _check(tool, "-e", "require('zeromq'); require('@msgpack/msgpack')")
        return [tool, str(EXAMPLES / "subscriber.js")]
    headers = "#include <zmq.h>\n#include <msgpack.h>\n"
    if subprocess.run([tool, "-E", "-"], input=headers, capture_output=True, text=True, check=False).returncode:
        raise MissingError("no zmq.h or msgpack.h")
    directory = tempfile.TemporaryDirectory(prefix="procline-test-")
    _directories.append(directory)
    program = Path(directory.name) / "subscriber"
    subprocess.run(
        [tool, "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, EXAMPLES / "subscriber.c", "-lmsgpack-c", "-lzmq"],
        check=True,
    )  # fmt: skip
    return [str(program)]


def need(language: str) -> None:
    """Skip the test, or fail it if this language is REQUIRED, if this host cannot run its programs."""
    try:
        command(language)
    except MissingError as error:
        reason = f"the subscriber in {language} is NOT TESTED: {error}; it needs {PACKAGES[language]}"
        if language in REQUIRED:
            pytest.fail(f"PROCLINE_REQUIRE_LANGUAGES, but {reason}", pytrace=False)
        pytest.skip(reason)


def available() -> list[str]:
    """Return the languages that this host can run; skip the test if there is none, fail it if one is REQUIRED."""
    found = []
    for language in LANGUAGES:
        try:
            command(language)
        except MissingError as error:
            if language in REQUIRED:
                pytest.fail(f"PROCLINE_REQUIRE_LANGUAGES, but {language}: {error}", pytrace=False)
        else:
            found.append(language)
    if not found:
        pytest.skip("subscribers in other languages are NOT TESTED: this host can run none of them")
    return found


#: Directories of compiled programs. They are removed when the interpreter ends.
_directories: list[tempfile.TemporaryDirectory[str]] = []


class Program:
    """A running subscriber.

    Attributes:
        lines: what it has printed so far, decoded.
    """

    def __init__(self, language: str, endpoint: str) -> None:
        self.language = language
        self.lines: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [*command(language), endpoint], env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, encoding="ascii",
        )  # fmt: skip
        self.complaints: list[str] = []
        self._threads = [
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_complaints, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(json.loads(line))

    def _read_complaints(self) -> None:
        assert self._process.stderr is not None
        self.complaints.extend(self._process.stderr)

    def wait_for(self, condition: Callable[[list[dict[str, Any]]], object], seconds: float = 60) -> None:
        """Wait until a condition on the lines is true."""
        deadline = time.monotonic() + seconds
        while not condition(self.lines):
            assert self._process.poll() is None, f"{self.language} has ended: {self.complaints}"
            assert time.monotonic() < deadline, (
                f"{self.language}, after {seconds} s: {self.complaints}, {len(self.lines)} lines, {self.lines[-3:]}"
            )
            time.sleep(0.02)

    def stop(self) -> None:
        """End it; it must still run."""
        assert self._process.poll() is None, f"{self.language} has ended: {self.complaints}"
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)
        for thread in self._threads:
            thread.join(60)

    def kill(self) -> None:
        """End it, whatever its state is."""
        self._process.kill()
        self._process.wait()


@contextmanager
def running(language: str, endpoint: str) -> Iterator[Program]:
    """Run a subscriber."""
    program = Program(language, endpoint)
    try:
        yield program
    finally:
        program.kill()


def plain(event: Any) -> Any:
    """Return an event of `Subscriber` as these programs print it.

    Text that is not UTF-8 is Latin-1 there, and Perl prints fewer digits of a float.
    """
    if isinstance(event, dict):
        if event.get("event") == "missed":
            return {name: event[name] for name in ("event", "topic", "first", "last") if event.get(name)}
        if event.get("event") == "unwatched" and "unwatched_from_ns" in event:
            return {"event": "unwatched", "period": [event["unwatched_from_ns"], event["unwatched_to_ns"]]}
        return {plain(name): plain(value) for name, value in event.items()}
    if isinstance(event, list | tuple):
        return [plain(value) for value in event]
    if isinstance(event, float):
        return float(f"{event:.9g}")
    if isinstance(event, str):
        try:
            event.encode()
        except UnicodeEncodeError:
            return event.encode("utf-8", "surrogateescape").decode("latin-1")
    return event
