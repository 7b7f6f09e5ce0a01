"""Results of reads in bulk that are not simply an array."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


class AncestorPids(NamedTuple):
    """The result of `ProcessTable.ancestor_pids_many`.

    Attributes:
        pid: the numbers that were asked for.
        found: whether the table has the process.
        ancestors: shape (n, depth): the pids of its ancestors, nearest first, 0 behind the last one.
    """

    pid: npt.NDArray[np.uint32]
    found: npt.NDArray[np.bool_]
    ancestors: npt.NDArray[np.uint32]
