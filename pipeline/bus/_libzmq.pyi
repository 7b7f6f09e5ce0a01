from typing import Any

import zmq

class NativeSocket:
    def __init__(self, socket: zmq.Socket[Any]) -> None: ...
    def is_readable(self) -> bool: ...
