"""Losses of each host: records of the kernel's and the forwarders' losses, and numbers that never came."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.fleet.catalogue import Catalogue, Loss

#: Cause of numbers that are missing without a record, for example because JetStream dropped their messages.
MISSING = "missing"
#: Cause of the record with which a forwarder begins. It says that nothing is known before it, which is no loss.
BEGIN = "begin"


def all_losses(catalogue: Catalogue) -> list[Loss]:
    """Return the records of a store, then the missing numbers that no record explains."""
    recorded = catalogue.losses()
    return recorded + list(_missing(catalogue, recorded))


def _missing(catalogue: Catalogue, recorded: list[Loss]) -> Iterator[Loss]:
    explained: dict[tuple[str, str, int, str], list[tuple[int, int]]] = {}
    for loss in recorded:
        if loss.first is not None and loss.events is not None:
            explained.setdefault((loss.host, loss.boot, loss.stream, loss.topic), []).append(
                (loss.first, loss.first + loss.events)
            )
    for key, numbers in catalogue.all_numbers():
        host, boot, stream, topic = key
        if topic == "snapshot":  # its numbers are times
            continue
        for interval in explained.get(key, ()):
            # A record reaches into what is stored if its events came after all.
            if numbers.intervals[0][0] <= interval[1]:
                numbers.add(*interval)
        for first, after in numbers.holes():
            ident = f"{host} {boot} {stream} {topic} {first}"
            yield Loss(ident, host, boot, stream, topic, first, after - first, None, None, MISSING)
