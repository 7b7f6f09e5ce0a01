import zmq

from pipeline.bus._libzmq import PushSocket

class FramePush:
    def __init__(self, socket: zmq.Socket[bytes] | PushSocket) -> None: ...
    def __call__(self, message: bytes) -> bool: ...
