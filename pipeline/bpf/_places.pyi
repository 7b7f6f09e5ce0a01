import numpy as np
import numpy.typing as npt

def exchange(words: npt.NDArray[np.uint64], place: int, before: int, after: int) -> bool: ...
