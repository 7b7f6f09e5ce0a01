from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_T = TypeVar("_T")
#: An Area of proc_reader.py, which imports this module: the text, and whether it was cut.
_Area = tuple[bytes, bool]

def absent(proc: int, tgids: npt.NDArray[np.uint32], show_life: Callable[[], object]) -> bytearray: ...
def read_images(
    proc: int,
    tgids: npt.NDArray[np.uint32],
    areas: list[tuple[bytes, int, Callable[[bytes], _T], Callable[[int], _T | None]]],
    links: tuple[bytes, ...],
    path_of: Callable[[bytes], bytes | None],
    show_life: Callable[[], object],
) -> tuple[list[list[_T | None]], list[tuple[bytes | None, ...]]]: ...
def scripts_of(
    paths: list[bytes],
    tasks: npt.NDArray[np.uint8],
    areas: Sequence[_Area | None],
    is_same: npt.NDArray[np.uint8],
    script_of: Callable[[bytes, bytes, bytes], bytes | None],
    show_life: Callable[[], object],
) -> tuple[list[bytes], list[int]]: ...
def join_strings(
    execs: npt.NDArray[np.uint8],
    paths: list[bytes],
    scripts: list[bytes],
    names: list[bytes],
    args: Sequence[_Area | None],
    envs: Sequence[_Area | None],
) -> list[bytes]: ...
