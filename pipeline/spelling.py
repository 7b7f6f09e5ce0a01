"""Name what was probably meant by a word that is not known."""

from __future__ import annotations

TYPE_CHECKING = False  # see paths.py
if TYPE_CHECKING:
    from collections.abc import Iterable


def similar(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known word that is most similar, or "" if none is similar enough.

    Args:
        word: the unknown word.
        known: the words that there are.
        cutoff: the smallest ratio of `difflib.SequenceMatcher` that counts as similar.

    Example:
        >>> similar("exitt", ["fork", "exec", "exit"])
        'exit'
    """
    import difflib  # only for a mistake

    return "".join(difflib.get_close_matches(word, list(known), 1, cutoff))


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a question that names the most similar of the known words, or `otherwise` if none is similar.

    Example:
        >>> did_you_mean("exitt", ["fork", "exec", "exit"])
        'did you mean exit?'
    """
    near = similar(word, known)
    return f"did you mean {near}?" if near else otherwise
