"""Make the pictures and the film of terminals in the documents, from a real run: docs/site/screens.py [NAME]...

Run it as root, with the Python of .venv. It starts an instance in namespaces of its own, so nothing of this machine is
in the pictures, and what a small host runs: a web application, a build, jobs. Then it runs each command of SCREENS in
a terminal, and draws what the terminal shows, with its colours, to docs/images/NAME.svg. The film `session` shows the
commands of FILM one after the other. It downloads nothing, and the pictures load no font.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import film

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGES = ROOT / "docs" / "images"
INSTALLED = Path("/opt/procline")
HOME = Path("/srv/shop")
RUNTIME = Path("/run/procline")


class Screen(NamedTuple):
    """A picture.

    Attributes:
        name: of the file.
        command: what is typed.
        columns, lines: size of the terminal.
        seconds: how long to wait until it is taken.
        keys: pressed before it is taken, as tmux names them; each may take a second.
        besides: a command that runs meanwhile, and is not in the picture.
    """

    name: str
    command: str
    columns: int = 100
    lines: int = 24
    seconds: float = 4
    keys: tuple[str, ...] = ()
    besides: str = ""


#: A process with a name that would clear the screen, and arguments that would colour it and set its title.
HOSTILE = r"exec -a $'\e[2J\e[31mroot' python3 -c 'import time; time.sleep(60)' $'\e]0;owned\a' '[bold red]' $'\r\n'"

SCREENS = (
    Screen("why", "procline why worker", columns=110, lines=38, seconds=6),
    Screen("tree", "procline tree"),
    Screen("subscribe", "procline subscribe exec exit --timeout 4", lines=20, seconds=7),
    Screen(
        "top-build",
        "procline top",
        seconds=6,
        keys=("/", "while :", "Enter"),
        besides="while :; do make -s -B -j2; done",
    ),
    Screen("top-rates", "procline top --rates", lines=16, seconds=20),
    Screen(
        "top-storm",
        "procline top",
        seconds=8,
        keys=("/", "procline-load", "Enter"),
        besides="procline load mix --rate 2000 --duration 20",
    ),
    Screen("top-details", "procline top", lines=34, keys=("/", "app.py", "Enter", "Enter")),
    Screen("top-past", "procline top", seconds=15, keys=("Space", "[", "[", "[")),
    Screen("top-hostile", "procline top --path 'python3*'", lines=12, besides=HOSTILE),
)


class Scene(NamedTuple):
    """A part of the film: a command that is typed, and screens of it.

    Attributes:
        command: what is typed.
        screens: how long to wait for each screen after the one before, and how long the film shows it, in seconds.
        end: a key that ends the command, if it does not end by itself.
    """

    command: str
    screens: tuple[tuple[float, float], ...]
    end: str = ""


FILM_COLUMNS, FILM_LINES = 110, 38
#: How long the film shows a command that has been typed.
TYPED_S = 1.2
FILM = (
    Scene("procline subscribe exec exit --under app.py --timeout 4", ((2.5, 1.5), (5, 2.5))),
    Scene("procline why worker", ((4, 8),)),
    Scene("procline ps --under app.py --since 4s", ((3, 5),)),
    Scene("procline cost --path make --since 20s", ((4, 5),)),
    Scene("procline top", ((12, 1), (1, 1), (1, 1), (1, 3)), end="q"),
)

#: The web application: it leaves a worker in the background, and each request runs a command through a shell.
APPLICATION = """
import subprocess, time
subprocess.run("worker --queue mail & sleep 0.1", shell=True)
while True:
    subprocess.run("convert-thumbnail $(date +%s).jpg", shell=True)
    time.sleep(0.9)
"""
FILES = {
    "app.py": APPLICATION,
    "bin/convert-thumbnail": "#!/bin/sh\nhead -c 1000 /dev/urandom | gzip > /dev/null\nexit 0\n",
    "bin/worker": "#!/bin/sh\nwhile sleep 100; do :; done\n",
    "bin/backup": "#!/bin/bash\ntar cf - /etc/ssl 2> /dev/null | gzip > backup.tgz\nsleep 300\n",
    "Makefile": "all: a.o b.o c.o\n\tgcc -o program a.o b.o c.o\n",
    **{f"{name}.c": f"int {name}(void) {{ return 1; }}\n" for name in "bc"},
    "a.c": "int b(void), c(void);\nint main(void) { return b() - c(); }\n",
}


def main() -> None:
    """Start this program again in its own namespaces, and there make the pictures."""
    python = str(INSTALLED / ".venv/bin/python")
    stage = os.environ.get("PROCLINE_SCREENS")
    if stage is None:
        IMAGES.mkdir(exist_ok=True)
        os.environ["PROCLINE_SCREENS"] = "inside"
        unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts", "--ipc"]
        os.execvp(unshare[0], [*unshare, sys.executable, __file__, *sys.argv[1:]])
    if stage == "inside":
        # The paths in the pictures are those of an installed Procline, and of directories that this host does not need.
        for directory in (HOME.parent, INSTALLED.parent, RUNTIME):
            directory.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", directory], check=True)
        INSTALLED.mkdir()
        subprocess.run(["mount", "--bind", ROOT, INSTALLED], check=True)
        os.environ["PROCLINE_SCREENS"] = "mounted"
        os.execv(python, [python, str(INSTALLED / "docs/site/screens.py"), *sys.argv[1:]])
    subprocess.run(["hostname", "web1"], check=True)
    command = INSTALLED.parent / "bin" / "procline"
    command.parent.mkdir()
    command.write_text(f"#!{python} -P\nfrom pipeline.cli.main import run\nrun()\n")
    command.chmod(0o755)
    os.chdir("/")
    os.environ |= {
        "PATH": f"{HOME}/bin:{command.parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8", "HOME": str(HOME),
        "TMUX_TMPDIR": str(HOME.parent),  # two runs at once do not meet
    }  # fmt: skip
    instance = subprocess.Popen(["procline", "run", "--scope", "namespace"], stderr=subprocess.DEVNULL)
    subprocess.run(["procline", "wait", "--timeout", "60"], check=True)
    jobs = start()
    time.sleep(3)
    for screen in SCREENS:
        if not sys.argv[1:] or screen.name in sys.argv[1:]:
            draw(screen)
    if not sys.argv[1:] or "session" in sys.argv[1:]:
        record()
    if not sys.argv[1:] or "build" in sys.argv[1:]:
        script = INSTALLED / "examples" / "build_timeline.py"
        subprocess.run([python, script, IMAGES / "build.svg", "make", "-s", "-B", "-j2"], cwd=HOME, check=True)
        print("screens: build", flush=True)
    for process in (*jobs, instance):
        process.terminate()
        process.wait()


def start() -> list[subprocess.Popen[bytes]]:
    """Start what runs on the small host."""
    for name, text in FILES.items():
        path = HOME / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    build = "while sleep 2; do make -s -B -j2; done"
    as_user = ["setpriv", "--reuid=www-data", "--regid=www-data", "--clear-groups"]
    commands = (["backup"], [*as_user, "/usr/bin/python3", "app.py"], ["sh", "-c", build])
    return [subprocess.Popen(command, cwd=HOME, stdout=subprocess.DEVNULL) for command in commands]


class Terminal:
    """A terminal with a shell, which reads what is typed."""

    def __init__(self, columns: int, lines: int) -> None:
        size = ["-x", str(columns), "-y", str(lines)]
        self.tmux("new-session", "-d", *size, "-c", str(HOME), "sh")

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-L", "screens", "-f", "/dev/null", *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def type(self, text: str) -> None:
        """Type a text."""
        self.tmux("send-keys", "-l", text)

    def press(self, key: str) -> None:
        """Press a key, as tmux names it."""
        self.tmux("send-keys", key)

    def shown(self) -> str:
        """Return what the terminal shows, with escapes for colours."""
        text = self.tmux("capture-pane", "-e", "-p")
        assert "Traceback" not in text and "not found" not in text, text
        return text.rstrip("\n")


@contextlib.contextmanager
def terminal(columns: int, lines: int) -> Iterator[Terminal]:
    """Open a terminal, and close it at the end."""
    made = Terminal(columns, lines)
    try:
        made.tmux("set", "-g", "status", "off")
        time.sleep(0.5)
        yield made
    finally:
        made.tmux("kill-server")


def draw(screen: Screen) -> None:
    """Type a command in a terminal, and draw what it shows."""
    besides = subprocess.Popen(
        ["bash", "-c", screen.besides], cwd=HOME, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        with terminal(screen.columns, screen.lines) as made:
            made.type(screen.command)
            made.press("Enter")
            time.sleep(screen.seconds)
            for key in screen.keys:
                made.press(key)
                time.sleep(1)
            shown = made.shown()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(besides.pid, signal.SIGKILL)
        besides.wait()
    write(screen.name, film.picture(shown, screen.command, screen.columns))


def record() -> None:
    """Type the commands of the film in a terminal, one after the other, and make the film."""
    screens = []
    with terminal(FILM_COLUMNS, FILM_LINES) as made:
        for scene in FILM:
            made.type("clear")
            made.press("Enter")
            time.sleep(0.5)
            made.type(scene.command)
            time.sleep(0.5)
            screens.append(film.Shown(made.shown(), TYPED_S))
            made.press("Enter")
            for wait_s, shown_s in scene.screens:
                time.sleep(wait_s)
                screens.append(film.Shown(made.shown(), shown_s))
            if scene.end:
                made.press(scene.end)
                time.sleep(1)
    write("session", film.film(screens, "procline", FILM_COLUMNS, FILM_LINES))


def write(name: str, picture: str) -> None:
    """Write a picture to the documents."""
    (IMAGES / f"{name}.svg").write_text(picture.rstrip("\n") + "\n", encoding="utf-8")
    print(f"screens: {name}", flush=True)


if __name__ == "__main__":
    if shutil.which("tmux") is None:
        sys.exit("screens: tmux is missing: apt-get install tmux")
    main()
