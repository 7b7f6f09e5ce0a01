"""The maker of mutants. `python -m tests.mutants.run` tries those of the resolver and the tables."""

from __future__ import annotations

from tests.mutants.mutants import mutants

SOURCE = '''"""A module with a < b and 1."""
LIMIT = 5


def f(a: int | None, b: int = 1) -> bool:
    """Whether a < b.

    Not more than 3.
    """
    # a == b
    if a is None and b < 10:
        g.notify("a < b", 7)
        return not b
    for each in range(b):
        self.count += each
    raise ValueError(f"{a + b}")
'''


def test_each_operator_number_and_statement_is_changed_once() -> None:
    assert [(each.line, each.after.strip()) for each in mutants(SOURCE)] == [
        (11, "if a is None and b <= 10:"), (11, "if a is not None and b < 10:"), (11, "if a is None or b < 10:"),
        (11, "if a is None and b < 11:"), (11, "if not (a is None and b < 10):"),
        (12, 'g.notify("a < b", 8)'), (12, "pass"), (13, "return b"),
        (15, "self.count -= each"), (15, "pass"),
    ]  # fmt: skip


def test_a_mutant_changes_one_line() -> None:
    for mutant in mutants(SOURCE):
        changed = mutant.apply(SOURCE).split("\n")
        assert [old != new for old, new in zip(SOURCE.split("\n"), changed, strict=True)].count(True) == 1
