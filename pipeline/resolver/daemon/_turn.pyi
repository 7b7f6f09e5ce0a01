from collections.abc import Callable, Iterable

from pipeline.bpf._positions import ProducerPositions
from pipeline.bus.frames._frame import Frame
from pipeline.bus.stream.messages import Message
from pipeline.errors import FrameError
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.daemon._gathering import Gathering
from pipeline.resolver.daemon._losses import SharedCounters
from pipeline.resolver.daemon._waiting import FrameSocket, TurnWaiter
from pipeline.resolver.merge._merger import Merger
from pipeline.resolver.stream._encoder import Encoder
from pipeline.secrets._conceal import Sieve
from pipeline.shm.writer._writer import TableWriter

class FrameReader:
    def __init__(
        self,
        boot_id: bytes,
        ring_count: int,
        sieve: Sieve,
        translate: Callable[[bytes | memoryview], bytes] | None = None,
        receive_context: Callable[[bytes | memoryview], object] | None = None,
        *,
        capture_id: int = 0,
    ) -> None: ...
    def read(self, message: bytes | memoryview) -> list[Frame]: ...

class Turn:
    ended_boot_ns: int
    is_idle: bool
    heartbeat_boot_ns: int
    is_calm: bool
    is_wanted: bool
    has_lost: bool
    def __init__(
        self,
        *,
        tables: TableWriter,
        merger: Merger,
        applier: Applier,
        encoder: Encoder,
        frames: FrameSocket,
        reader: FrameReader,
        positions: ProducerPositions | None,
        batch_events: int,
        evicts: bool,
        send: Callable[[Iterable[Message]], object],
        reject: Callable[[FrameError], object],
        follow_up: Callable[[], object],
        gathering: Gathering | None = None,
        losses: SharedCounters | None = None,
    ) -> None: ...
    def run(self) -> int: ...
    def follow(
        self,
        waiter: TurnWaiter,
        idle_ms: float,
        gather_ms: float,
        due_ns: int,
        latest_ns: int,
        rest_until_boot_ns: int,
    ) -> int: ...
    def rest(self, now_boot_ns: int) -> None: ...
    def beat(self, now_boot_ns: int) -> None: ...
    def commit(self) -> None: ...
    @property
    def wants_names(self) -> bool: ...
    def wait_ms(self) -> float: ...
