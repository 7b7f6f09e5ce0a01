"""Commands that change /etc, /opt, /var or the network, run where this host does not notice.

Such a root has copies of these directories, in memory, and can have a network with a loopback device alone. Everything
is gone when its last process has ended.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DIRECTORIES = ("etc", "opt", "var", "root")
_BEGIN = f"""
scratch=$1
shift
mount -t tmpfs tmpfs "$scratch"
for each in {" ".join(DIRECTORIES)}; do
    mkdir -p "$scratch/$each/upper" "$scratch/$each/work"
    mount -t overlay overlay -o "lowerdir=/$each,upperdir=$scratch/$each/upper,workdir=$scratch/$each/work" "/$each"
done
exec "$@"
"""


def entering(scratch: Path, *, own_network: bool = False) -> list[str]:
    """Return the beginning of a command that runs in a new root.

    Args:
        scratch: an empty directory, which nothing else uses.
        own_network: also without the network of this host.
    """
    unshare = ["unshare", "--mount", "--propagation", "private", *(["--net"] if own_network else [])]
    return [*unshare, "sh", "-euc", _BEGIN, "sh", str(scratch)]


class PrivateRoot:
    """A root for several commands.

    Attributes:
        command: the beginning of a command that runs in it.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.command = ["nsenter", "--target", str(process.pid), "--mount", "--net", "--wd=."]

    def run(self, *command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which must be successful."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*self.command, *map(str, command)], capture_output=True, text=True, timeout=120, check=False, **options
        )  # type: ignore[call-overload]
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done


@contextmanager
def private_root(*addresses: str) -> Iterator[PrivateRoot]:
    """Make a root; with addresses, it has a network of its own, whose loopback device has them too."""
    with tempfile.TemporaryDirectory(prefix="procline-test-") as scratch:
        begin: Sequence[str] = entering(Path(scratch), own_network=bool(addresses))
        process = subprocess.Popen([*begin, "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"\n", "no root: mounts are not possible here"
            made = PrivateRoot(process)
            if addresses:
                made.run("ip", "link", "set", "lo", "up")
            for address in addresses:
                made.run("ip", "address", "add", f"{address}/32", "dev", "lo")
            yield made
        finally:
            process.kill()
            process.wait()
