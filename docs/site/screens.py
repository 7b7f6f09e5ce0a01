"""Make the pictures of terminals in the documents, from a real run: docs/site/screens.py [NAME]...

Run it as root, with the Python of .venv. It starts an instance in namespaces of its own, so nothing of this machine is
in the pictures, and what a small host runs: a web application, a build, jobs. Then it runs each command of SCREENS in
a terminal, and draws what the terminal shows, with its colours, to docs/images/NAME.svg. It downloads nothing, and the
pictures load no font.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

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
    Screen("why", "procline why $(pgrep worker)", lines=36, seconds=6),
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
        # The paths in the pictures are those of an installed Procline, and of folders that this host does not need.
        for folder in (HOME.parent, INSTALLED.parent, RUNTIME):
            folder.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", folder], check=True)
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


def draw(screen: Screen) -> None:
    """Type a command in a terminal, and draw what it shows."""
    besides = subprocess.Popen(
        ["bash", "-c", screen.besides], cwd=HOME, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    tmux = ["tmux", "-L", "screens", "-f", "/dev/null"]
    size = ["-x", str(screen.columns), "-y", str(screen.lines)]
    subprocess.run([*tmux, "new-session", "-d", *size, "-c", str(HOME), "sh"], check=True)
    try:
        subprocess.run([*tmux, "set", "-g", "status", "off"], check=True)
        time.sleep(0.5)
        subprocess.run([*tmux, "send-keys", "-l", screen.command], check=True)
        subprocess.run([*tmux, "send-keys", "Enter"], check=True)
        time.sleep(screen.seconds)
        for key in screen.keys:
            subprocess.run([*tmux, "send-keys", key], check=True)
            time.sleep(1)
        shown = subprocess.run([*tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True).stdout
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(besides.pid, signal.SIGKILL)
        besides.wait()
    assert "Traceback" not in shown and "not found" not in shown, shown
    console = Console(record=True, width=screen.columns, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(shown.rstrip("\n")))
    picture = console.export_svg(title=screen.command, theme=MONOKAI, code_format=without_fonts(CONSOLE_SVG_FORMAT))
    (IMAGES / f"{screen.name}.svg").write_text(picture + "\n", encoding="utf-8")
    print(f"screens: {screen.name}", flush=True)


def without_fonts(form: str) -> str:
    """Return the form of a picture without the fonts that it would load from elsewhere."""
    before, _, rest = form.partition("@font-face")
    after = rest[rest.rindex("@font-face") :].partition("}}")[2]
    return (before + after).replace("Fira Code", "ui-monospace, SFMono-Regular, Menlo, Consolas")


if __name__ == "__main__":
    if shutil.which("tmux") is None:
        sys.exit("screens: tmux is missing: apt-get install tmux")
    main()
