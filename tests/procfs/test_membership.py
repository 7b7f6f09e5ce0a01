"""Membership agrees with NumPy's own function, and does without what that imports."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.procfs.membership import is_in

NUMBERS = st.lists(st.one_of(st.integers(0, 20), st.integers(0, (1 << 32) - 1)), max_size=30)


@given(NUMBERS, NUMBERS)
def test_it_agrees_with_numpy(values: list[int], others: list[int]) -> None:
    one, other = np.array(values, np.uint32), np.array(others, np.uint32)
    assert is_in(one, other).tolist() == np.isin(one, other).tolist()


@pytest.mark.parametrize(
    ("values", "others", "expected"),
    [
        (np.array([b"pts/1", b"pts/10", b""], "S8"), np.array([b"pts/1"]), [True, False, False]),
        (np.array([1 << 63, 5], np.uint64), np.array([5, (1 << 64) - 1], np.uint64), [False, True]),
        (np.zeros(0, np.uint32), np.array([5], np.uint32), []),
    ],
)
def test_names_and_large_numbers(
    values: np.ndarray[Any, Any], others: np.ndarray[Any, Any], expected: list[bool]
) -> None:
    assert is_in(values, others).tolist() == expected


def test_no_masked_arrays_are_imported() -> None:
    program = (
        "import sys; import numpy as np; from pipeline.procfs.membership import is_in\n"
        "print(is_in(np.array([5]), np.array([5, 1 << 60])), 'numpy.ma' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[ True] False\n", done.stderr
