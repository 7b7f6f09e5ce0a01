from collections.abc import Buffer
from typing import Any

class Skipped: ...

SKIPPED: Skipped

def scan(message: Buffer) -> dict[str, Any]: ...
def check(
    count: int,
    head: Buffer,
    task: Buffer,
    fork: Buffer,
    exec_: Buffer,
    exit_: Buffer,
    blob: Buffer,
    from_pos: int,
    to_pos: int,
) -> None: ...
