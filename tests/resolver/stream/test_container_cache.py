"""The encoder's cache of what is known about containers: what it finds, notes and refuses."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest

from pipeline.resolver.stream._container_cache import CONTAINERS_MAX, ContainerCache
from pipeline.resolver.stream._encoder import Encoder
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.stream_rows import BOOT, CONTEXT, Row, tables, take

#: Containers that a cache asks about before `take_wanted` is called.
WANTED_MAX = 64


def id_of(number: int) -> str:
    return f"{number:08x}" * 8


def row_of(writer: TableWriter, tgid: int, container: int, **facts: Any) -> Row:
    number = id_of(container)
    cgroup = struct.pack("<QQ", 0, 0) + f"/docker/{number}".encode()
    strings = {"container": number.encode(), "cgroup": cgroup}
    return Row(writer, tgid=tgid, start_boot_ns=tgid, **({"flags": layout.ROW_HEAD} | strings | facts))


def encoder(cache: ContainerCache) -> Encoder:
    made = Encoder(BOOT)
    made.topics_mask = 0xFF
    made.containers = cache
    return made


def shown(made: Encoder, writer: TableWriter, row: Row) -> Any:
    made.add(writer, CONTEXT, 6, row.number, 5)
    (event,) = take(made)
    return event["container_details"]


def test_each_of_many_containers_has_its_own_details() -> None:
    cache = ContainerCache()
    cache.set_all({id_of(each): msgpack.packb({"name": each}) for each in range(CONTAINERS_MAX)})
    with tables() as writer:
        made = encoder(cache)
        for each in range(CONTAINERS_MAX):
            assert shown(made, writer, row_of(writer, 10 + each, each)) == {"name": each}
        assert not cache.is_wanting and cache.take_wanted() == []
        for each in range(CONTAINERS_MAX, CONTAINERS_MAX * 3 // 2):  # up to `used_max`
            assert shown(made, writer, row_of(writer, 10 + each, each)) is None
        assert cache.take_wanted() == [id_of(CONTAINERS_MAX + each) for each in range(WANTED_MAX)]
        assert cache.take_refused() == 0
        assert shown(made, writer, row_of(writer, 5, CONTAINERS_MAX * 3 // 2)) is None
        assert (cache.is_wanting, cache.take_refused(), cache.take_refused()) == (False, 1, 0)
        cache.set_all({id_of(7): msgpack.packb({"name": "seven"}), id_of(8): None})
        rows = [row_of(writer, 2000 + each, each) for each in (7, 8, 9)]
        assert [shown(made, writer, row) for row in rows] == [{"name": "seven"}, None, None]
        assert cache.take_wanted() == [id_of(9)], "of 8 it is known that nothing is known"


def test_a_container_is_noted_once_and_the_rest_is_found_by_the_sweep() -> None:
    cache = ContainerCache()
    with tables() as writer:
        made = encoder(cache)
        rows = [row_of(writer, 10 + each, each) for each in range(WANTED_MAX + 6)]
        for row in [*rows, *rows]:
            assert shown(made, writer, row) is None
        assert cache.is_wanting
        assert cache.take_wanted() == [id_of(each) for each in range(WANTED_MAX)]
        assert not cache.is_wanting and cache.take_wanted() == []
        for _ in range(2):
            assert cache.living(writer) == [id_of(each) for each in range(WANTED_MAX + 6)]
        assert not cache.is_wanting and cache.take_refused() == 0


def test_a_sweep_finds_each_container_of_live_processes_once() -> None:
    cache = ContainerCache()
    with tables() as writer:
        row_of(writer, 10, 1)
        row_of(writer, 11, 1)
        ended = row_of(writer, 12, 2, exit_boot_ns=9)
        writer.py_retire(ended.number)
        Row(writer, tgid=13, start_boot_ns=13, container=id_of(3).encode())
        Row(writer, tgid=14, start_boot_ns=14, cgroup=struct.pack("<QQ", 0, 0) + f"/docker/{id_of(4)}".encode())
        row_of(writer, 15, 5, cgroup=struct.pack("<QQ", 0, 0) + f"/a.service/{id_of(5)}".encode())
        row_of(writer, 16, 6)
        assert cache.living(writer) == [id_of(1), id_of(6)]


@pytest.mark.parametrize("name", ["", "5e", "5e" * 31, "5e" * 33])
def test_an_id_has_64_digits(name: str) -> None:
    with pytest.raises(ValueError, match="no id of a container"):
        ContainerCache().set_all({name: None})
