from collections.abc import Sequence
from typing import final

from pipeline.shm.reader._entry import Entry
from pipeline.shm.reader._view import View

FILE: int
ARGS: int
ENVS: int
NAME: int
CGROUP: int
CONTAINER: int
EXTRA: int
HOT: int
COLD: int
CODE: int

@final
class RowCopies:
    count: int
    hot: bytearray
    cold: bytearray
    numbers: bytearray
    kinds: int
    def __len__(self) -> int: ...
    @property
    def view(self) -> View: ...
    def entry(self, at: int) -> Entry: ...
    def ints(
        self,
        part: int,
        offset: int,
        size: int,
        signed: bool = ...,
        *,
        known: int = ...,
        flags: int = ...,
        unknown: int | None = ...,
        added: int = ...,
    ) -> list[int | None]: ...
    def bits(self, mask: int, *, known: int = ..., negative: bool = ...) -> list[bool | None]: ...
    def group(self, words: Sequence[tuple[int, int, int]]) -> tuple[bytearray, list[int]]: ...
    def lists(self, kind: int, known: int) -> tuple[bytearray, list[tuple[str, ...] | None]]: ...
    def list_groups(self, kind: int, known: int) -> tuple[bytearray, list[tuple[str, ...] | None]]: ...
    def flat_lists(self, kind: int, known: int) -> tuple[bytearray, bytearray, bytearray, bytearray]: ...
    def identities(self) -> list[str | None]: ...
    def cpids(self, tick_ns: int) -> list[str | None]: ...
    def by_code(
        self, values: list[object], codes: bytearray, below: object = ..., lowest: object = ...
    ) -> list[object]: ...
    def argument_lists(self, values: list[tuple[str, ...] | None], codes: bytearray) -> list[list[str] | None]: ...
