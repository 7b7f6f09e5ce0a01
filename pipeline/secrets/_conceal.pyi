from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from pipeline.bus.frames.frame import Frame

class Literals:
    def __init__(self, literals: Iterable[bytes], words: Iterable[bytes] = ()) -> None: ...

class Sieve:
    def __init__(
        self, literals: Literals | None, hide: Callable[[Frame, list[tuple[int, int, int]]], Frame]
    ) -> None: ...
    def frame(self, frame: Frame) -> Frame: ...

def digests_of(
    execs: npt.NDArray[np.uint8], strings: list[bytes], literals: Literals | None, hides_envs: bool
) -> tuple[list[int], list[int]]: ...
def digest(args: bytes | None, envs: bytes | None) -> int: ...
