import numpy as np
import numpy.typing as npt

from pipeline.resolver.merge._queues import Batch
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream._name_cache import NameCache
from pipeline.resolver.stream._row_filters import RowFilters
from pipeline.shm.writer._writer import TableWriter

def times(batch: Batch) -> npt.NDArray[np.uint64]: ...
def places(batch: Batch) -> list[tuple[int, int]]: ...
def matching(filters: RowFilters, tables: TableWriter, names: NameCache | None, topic: int, row: int) -> int: ...
def add_many(
    encoder: Encoder,
    tables: TableWriter,
    topics: npt.NDArray[np.uint8],
    kinds: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.uint32],
    times_boot_ns: npt.NDArray[np.uint64],
) -> None: ...
