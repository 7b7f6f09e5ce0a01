"""What mypy --strict must accept and reject in a program with a `Subscriber`. script/lint checks it; it is not run."""

from __future__ import annotations

from pathlib import Path

from pipeline import (
    Ancestor,
    ContextEvent,
    CredEvent,
    Event,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    GapEvent,
    LossEvent,
    ProcessEvent,
    ReparentEvent,
    Selection,
    SnapshotEvent,
    StatsEvent,
    Subscriber,
)
from pipeline.errors import ClosedError, InUseError, NoProcessError


def on_gap(event: GapEvent) -> None:
    """Tell both kinds of gaps apart."""
    if event["event"] == "missed":
        print(event["topic"], event["count"], event["reason"])
    else:
        print(event["unwatched_from_ns"], event["unwatched_to_ns"])


def on_loss(event: LossEvent) -> None:
    """Read the fields of a loss."""
    print(sum(event["new"].values()), sum(event["lost"].values()))


def with_a_callback() -> None:
    """All events are about processes, so their fields need no check."""
    for event in Subscriber(topics=["exec"], on_gap=print):
        print(event["pid"], event["argv"], [ancestor["comm"] for ancestor in event["lineage"]])
        print(event["cpu_user_ns"])  # type: ignore[typeddict-item]
        print(event["no_such_field"])  # type: ignore[typeddict-item]
    with Subscriber("x", topics=("exec", "proc.exit"), on_gap=on_gap, on_loss=on_loss, timeout=3) as subscriber:
        for event in subscriber:
            if event["event"] == "exit":
                print(event["cpu_user_ns"])
            elif event["event"] == "snapshot":
                print(event["left"], event["row"])
            elif event["event"] == "reparent":
                print(event["new_parent"]["pid"])


def without_a_callback() -> None:
    """There can be a gap, so a check is needed."""
    for event in Subscriber(topics=["exec"]):
        print(event["pid"])  # type: ignore[typeddict-item]
        if event["event"] == "exec":
            print(event["pid"])
        if "pid" in event:
            print(event["pid"])
        if event["event"] == "loss":
            print(event["lost"])
        if event["event"] == "stats":
            print(event["time_ns"])


def every_option_and_property() -> None:
    """Everything that is public has a type."""
    with Subscriber(
        "x",
        ["fork"],
        select=Selection(users=["root"], units=["ssh"], containers=["0123"], paths=["*/sh"], under=[1]),
        snapshot=True,
        on_gap=on_gap,
        on_loss=on_loss,
        path=Path("/x"),
        endpoint=None,
        curve=None,
        timeout=1.0,
        idle_timeout=2,
        follow=False,
        connect_timeout=1,
        receive_hwm=10,
    ) as subscriber:
        events: list[Event] = subscriber.read(1)
        number: int = len(events) + subscriber.missed + subscriber.repeats + subscriber.refused + subscriber.fileno()
        by_topic: dict[str, int] = subscriber.missed_by_topic
        unwatched: list[tuple[int, int]] = subscriber.unwatched
        text: str = subscriber.host
        is_so: bool = subscriber.closed or subscriber.is_incomplete
        print(number, by_topic, unwatched, text, is_so)


async def in_an_event_loop() -> list[ProcessEvent]:
    """The same types with async for."""
    async with Subscriber(topics=["proc"], on_gap=on_gap) as subscriber:
        found = await subscriber.read_async(timeout=1)
        async for event in subscriber:
            found.append(event)
        return found


def takes_any(subscriber: Subscriber) -> None:
    """The class without parameters is that of all events."""
    try:
        subscriber.read()
    except (ClosedError, InUseError, NoProcessError):
        subscriber.close()


def nearest(event: ForkEvent | ExecEvent | ExitEvent | CredEvent | ContextEvent | ReparentEvent) -> Ancestor:
    """All kinds have a lineage."""
    return event["lineage"][0]


def kind(event: SnapshotEvent | StatsEvent) -> str:
    """All kinds have a name."""
    return event["event"]


topics = ["exec"]
takes_any(Subscriber(topics=topics, on_gap=on_gap))
takes_any(Subscriber(topics=["sys.loss"], on_gap=on_gap))
takes_any(Subscriber(topics=["exec"], on_gap=on_gap))
