"""The static types of numpy arrays in the interface of the reader. They have no effect at run time."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

# Texts, because numpy does not evaluate the types of the values of its own types.
#: Any values.
AnyArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.generic[object]]]"
AnyDtype: TypeAlias = "np.dtype[np.generic[object]]"
#: Times and periods in ns, which Python has only as numbers.
TimeArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.datetime64[int]]]"
PeriodArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.timedelta64[int]]]"
#: Integers of any width.
IntegerArray: TypeAlias = (
    "np.ndarray[tuple[int], np.dtype["
    "np.int8 | np.int16 | np.int32 | np.int64 | np.uint8 | np.uint16 | np.uint32 | np.uint64]]"
)
