"""Functions of the journal's checksums that only tests call, from Python.

setup.py compiles this module in place, as the core, but no package contains it.
"""

cimport pipeline.bus.stream._blocks as _blocks


def folds() -> int:
    """Return how many bytes are folded with one instruction; 0: checksums are computed by tables."""
    return _blocks.FOLDS


def set_folds(int count) -> None:
    """Compute checksums as on a CPU that folds `count` bytes with one instruction; this CPU must be able to do so."""
    _blocks.FOLDS = count
