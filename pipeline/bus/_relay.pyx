"""The public side of the stream: accepts subscribers, checks what they send, and copies what they receive.

libzmq cannot limit what a client makes it keep. Whatever the high-water mark is, it keeps all parts of a multi-part
message that never ends (60 MB of parts: 108 MB) and every subscription, in a tree. It also keeps every connection: 500
connections take 84 MB, which are not returned when the clients have gone. The relay therefore stands in front of it.
Each client is connected to a private socket of libzmq, and only this gets through:

    ZMTP 3 with the mechanism NULL (https://rfc.zeromq.org/spec/23/), a READY command, and then subscriptions (messages
    or commands), PING and PONG; each of one part and of bounded length, bounded in number and rate

Other messages are dropped. A client that breaks a limit loses its connection. In the other direction the relay copies
bytes. What a client does not read stays in the queue that libzmq has for it, except for one buffer of `CHUNK_BYTES`.
Such a queue is limited by its number of messages, and queues of clients that connected at other times hold other
messages: six of them took 353 MiB. Therefore few clients of a user, and of all users, may be *stalled*, which means
that they have read too slowly most of the time for seconds. Beyond that, the one that stalled first is disconnected.

The relay is one thread that does not hold the GIL, because the resolver can hold it for many milliseconds. It allocates
memory at its creation, and a buffer for a client that reads too slowly.
"""

import errno as errors
import os
import signal
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memmove
from posix.unistd cimport close

from pipeline.host._epoll cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLIN, epoll_create1, epoll_ctl, epoll_event, epoll_wait,
)
from pipeline.records._clock cimport CLOCK_MONOTONIC, pl_clock_ns
from pipeline.records._limits cimport HANDSHAKE_MS

from pipeline import paths
from pipeline.bus.sockets import SocketError, is_listening
from pipeline.errors import WriterExistsError

cdef extern from *:
    """
    #include <errno.h>
    #include <malloc.h>
    #include <stddef.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/socket.h>
    #include <sys/un.h>
    #include <unistd.h>

    /* The only calls with structures of the system: accept and its credentials, and connect. */
    static int pl_relay_accept(int listener, unsigned int *uid) {
        struct ucred peer;
        socklen_t bytes = sizeof peer;
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) {
            close(fd);
            errno = ECONNABORTED;
            return -1;
        }
        if (fd >= 0) *uid = peer.uid;
        return fd;
    }
    static int pl_relay_connect(const char *path, size_t length) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd;
        if (length >= sizeof address.sun_path) { errno = ENAMETOOLONG; return -1; }
        memcpy(address.sun_path, path, length);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
            int error = errno;
            close(fd);
            errno = error;
            return -1;
        }
        return fd;
    }
    /* Other C libraries have no such function, or return freed memory themselves. */
    static void pl_relay_give_back(void) {
    #ifdef __GLIBC__
        malloc_trim(0);
    #endif
    }
    static ssize_t pl_relay_send(int fd, const void *data, size_t bytes) { return send(fd, data, bytes, MSG_NOSIGNAL); }
    static ssize_t pl_relay_recv(int fd, void *data, size_t bytes) { return recv(fd, data, bytes, 0); }
    """
    int pl_relay_accept(int listener, unsigned int *uid) nogil
    int pl_relay_connect(const char *path, size_t length) nogil
    void pl_relay_give_back() nogil
    Py_ssize_t pl_relay_send(int fd, const void *data, size_t size) nogil
    Py_ssize_t pl_relay_recv(int fd, void *data, size_t size) nogil
    int EPOLLOUT, EPOLL_CTL_DEL
    int eventfd(unsigned int value, int flags) nogil
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef enum:
    OWN_MAX = 32  # connections of root and the daemon's user together
    USER_MAX = 32  # connections of one other user
    OTHERS_MAX = 96  # connections of all other users together
    CLIENTS = OWN_MAX + OTHERS_MAX
    SUBSCRIPTIONS_MAX = 64  # of one connection at a time
    FILTERS_OF_CLIENT = 8  # subscriptions of one connection that begin with `only|`, see pipeline.bus.stream.narrowing
    FILTERS_OF_USER = 12  # of the connections of one other user: some of the publisher's filters are left for others
    INPUT_MAX = 1024  # bytes of a frame and its header
    FRAMES_BURST = 256  # frames of one connection at once ...
    FRAMES_PER_S = 64  # ... and then each second
    CHUNK = 65536  # bytes copied to a client at once, and kept for a client that reads too slowly
    ACCEPTS = 32  # connections accepted before the others are served ...
    WINDOW_ACCEPTS = 100  # ... and in WINDOW_MS; further ones wait in the kernel's queue
    WINDOW_MS = 50
    COOL_MS = 250  # a connection counts for this long after its end, so a user cannot make new ones without limit
    CHECK_MS = 1000  # how often it is checked whether a client has sent its READY command in time, or has stalled
    STALL_MS = 5000
    USER_STALLED_MAX = 2  # stalled connections of one user; root and the daemon's user may have any number
    OTHERS_STALLED_MAX = 8  # stalled connections of all other users together
    GIVE_BACK_MS = 2000
    # generated: SUBSCRIPTION_*
    SUBSCRIPTION_MAX_BYTES = 64  # length of a subscription, also of one with a filter
    # end of the generated part
    GREETING = 64  # bytes of ZMTP's greeting
    # Flags of ZMTP's frames (RFC 23/ZMTP). 1 << 0 means that more frames of the message follow.
    FRAME_LONG = 1 << 1  # the length has eight bytes
    FRAME_COMMAND = 1 << 2
    EVENTS = 64

    # Tags of the descriptors in the epoll instance: OUTSIDE and INSIDE of each client, then these.
    LISTENER = 2 * CLIENTS
    STOP

    FREE = 0
    COOLS  # ended, but still counted
    GREETS  # the greeting is not complete
    HANDSHAKES  # the READY command is missing
    OPEN

cdef struct Client:
    int state
    int outside  # descriptor of the client's connection
    int inside  # descriptor of the connection to libzmq; -1: not yet
    bint is_own
    bint is_parked  # libzmq has closed its side, which is not watched until the rest was sent
    uint32_t uid
    uint32_t outside_events
    uint32_t inside_events
    int64_t since_ns
    int64_t credit_ns  # when the frames that it may send were counted last
    double credit  # frames that it may send
    size_t greeted  # bytes of the greeting so far
    size_t input_size
    size_t sendable  # bytes at the start of `input` that are checked and not sent yet
    uint8_t input[INPUT_MAX]
    uint8_t *rest  # what the client has not read yet, or NULL
    size_t rest_begin
    size_t rest_end
    int64_t unread_ns  # how much longer it had a rest than it had none, of late; from 0 to the time of a stall
    int64_t measured_ns  # when that was true
    int64_t stalled_ns  # since when it is stalled; 0: it is not
    int subscriptions
    int filters  # subscriptions among them that begin with `only|`
    uint8_t prefix_size[SUBSCRIPTIONS_MAX]
    uint8_t prefixes[SUBSCRIPTIONS_MAX][SUBSCRIPTION_MAX_BYTES]


cdef inline int64_t _now_ns() noexcept nogil:
    return <int64_t>pl_clock_ns(CLOCK_MONOTONIC)


cdef class Relay:
    """Listens on a public Unix socket and passes checked clients on to a private socket of libzmq.

    Args:
        path: of the public socket. A predecessor's file is replaced; see `WriterExistsError`.
        inner: path of the private socket, which need not exist yet. Clients wait until it does.
        mode: mode of the public socket file.
        group: gid of the public socket file; -1 leaves it unchanged.
        stall_ms: a client is stalled after it had unread bytes for this much longer than it had none.
        handshake_ms: how long a client may take to send its READY command.
        check_ms: how often both times are checked.
        give_back_ms: freed queues are returned to the kernel this long after the end of a stalled connection.

    Raises:
        ConfigError: the path is too long for a Unix socket address.
        WriterExistsError: another process listens on the path.
        SocketError: the socket cannot be bound.
    """

    cdef Client *_clients
    cdef uint8_t *_chunk
    cdef int _epoll, _listener_fd, _stop_fd
    cdef int _used, _window_accepts, _check_ms
    cdef uint32_t _own_uid
    cdef uint64_t _refused, _rejected
    cdef bint _is_stopping, _is_deaf
    cdef int64_t _stop_ns, _window_ns, _stall_ns, _handshake_ns, _give_back_ns
    cdef int64_t _freed_ns  # when the last stalled connection ended; 0: its memory was returned
    cdef bytes _inner
    cdef char *_inner_path
    cdef size_t _inner_length
    cdef object _listener, _path, _identity, _thread

    def __cinit__(self):
        self._epoll = self._stop_fd = self._listener_fd = -1

    def __init__(
        self, path: Path, inner: Path, *, mode: int, group: int = -1, stall_ms: int = STALL_MS,
        handshake_ms: int = HANDSHAKE_MS, check_ms: int = CHECK_MS, give_back_ms: int = GIVE_BACK_MS,
    ) -> None:
        paths.endpoint(path)
        paths.endpoint(inner)
        self._path = path
        self._inner = os.fsencode(inner)
        self._inner_path, self._inner_length = self._inner, len(self._inner)
        self._own_uid = os.geteuid()
        self._stall_ns, self._handshake_ns = stall_ms * 1000000, handshake_ms * 1000000
        self._check_ms, self._give_back_ns = check_ms, give_back_ms * 1000000
        self._clients = <Client *>calloc(CLIENTS, sizeof(Client))
        self._chunk = <uint8_t *>malloc(CHUNK)
        if self._clients == NULL or self._chunk == NULL:
            raise MemoryError
        self._listener = _listen(path, mode, group)
        status = path.stat()
        self._identity = (status.st_dev, status.st_ino)
        self._listener_fd = self._listener.fileno()
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        self._stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self._epoll < 0 or self._stop_fd < 0:
            raise OSError(errno, "cannot create the descriptors of the stream's relay")
        self._watch(EPOLL_CTL_ADD, self._listener_fd, LISTENER, EPOLLIN)
        self._watch(EPOLL_CTL_ADD, self._stop_fd, STOP, EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="stream relay", daemon=True)
        self._thread.start()

    @property
    def refused(self) -> int:
        """Connections that were closed because there were too many."""
        return self._refused

    @property
    def rejected(self) -> int:
        """Connections that were closed because the client broke a limit."""
        return self._rejected

    @property
    def clients(self) -> int:
        """Number of open connections."""
        return self._used

    def close(self, linger_s: float = 0.5) -> None:
        """Accept no more clients, send what libzmq has sent, and close all connections.

        Call it after the private socket was closed.

        Args:
            linger_s: maximum time to wait for clients that have not read everything.
        """
        if self._thread is None:
            return
        self._stop_ns = _now_ns() + <int64_t>(linger_s * 1e9)
        os.eventfd_write(self._stop_fd, 1)
        self._thread.join()
        self._thread = None
        self._listener.close()
        close(self._epoll)
        close(self._stop_fd)
        with suppress(OSError):  # a successor may have replaced the file
            status = self._path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self._path.unlink()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def __dealloc__(self):
        free(self._clients)
        free(self._chunk)

    def _run(self) -> None:
        # A signal must reach the main thread, which it wakes up.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with nogil:
            self._loop()

    # -- the thread ----------------------------------------------------------------------------------------------------

    cdef void _loop(self) noexcept nogil:
        cdef epoll_event ready[EVENTS]
        cdef int count, i, number
        cdef int64_t now, checked = _now_ns()
        while True:
            # While connections are open their handshakes are checked; without one the thread sleeps.
            count = epoll_wait(
                self._epoll, ready, EVENTS,
                10 if self._is_stopping else WINDOW_MS if self._is_deaf
                else self._check_ms if self._used or self._freed_ns else -1,
            )
            if count < 0 and errno != EINTR:
                return
            for i in range(count):
                number = ready[i].data.fd
                if number == LISTENER:
                    self._accept()
                elif number == STOP:
                    self._begin_stop()
                elif self._clients[number >> 1].state >= GREETS:
                    self._serve(&self._clients[number >> 1], number & 1, ready[i].events)
            now = _now_ns()
            if self._is_stopping and (self._used == 0 or now >= self._stop_ns):
                for i in range(CLIENTS):
                    if self._clients[i].state >= GREETS:
                        self._drop(&self._clients[i])
                return
            if self._is_deaf and not self._is_stopping and now - self._window_ns >= WINDOW_MS * 1000000:
                self._is_deaf = False
                self._watch(EPOLL_CTL_MOD, self._listener_fd, LISTENER, EPOLLIN)
            if now - checked >= self._check_ms * <int64_t>1000000:
                checked = now
                for i in range(CLIENTS):
                    if (self._clients[i].state == GREETS or self._clients[i].state == HANDSHAKES) and (
                        now - self._clients[i].since_ns > self._handshake_ns
                    ):
                        self._reject(&self._clients[i])
                self._close_stalled(now)
                if self._freed_ns and now - self._freed_ns >= self._give_back_ns:
                    self._freed_ns = 0
                    pl_relay_give_back()

    cdef void _close_stalled(self, int64_t now) noexcept nogil:
        """Close stalled connections of other users until few enough are left."""
        cdef int i, j, total, most, count
        cdef Client *longest
        for i in range(CLIENTS):
            if self._clients[i].state == OPEN:
                _measure(&self._clients[i], now, self._stall_ns)
        while True:
            total, most = 0, 0
            longest = NULL
            for i in range(CLIENTS):
                if not _counts_as_stalled(&self._clients[i]):
                    continue
                total += 1
                count = 0
                for j in range(CLIENTS):
                    count += _counts_as_stalled(&self._clients[j]) and self._clients[j].uid == self._clients[i].uid
                if count > most or (count == most and self._clients[i].stalled_ns < longest.stalled_ns):
                    most, longest = count, &self._clients[i]
            if most <= USER_STALLED_MAX and total <= OTHERS_STALLED_MAX:
                return
            self._reject(longest)

    cdef void _begin_stop(self) noexcept nogil:
        cdef int i
        self._is_stopping = True
        self._watch(EPOLL_CTL_MOD, self._listener_fd, LISTENER, 0)
        self._watch(EPOLL_CTL_MOD, self._stop_fd, STOP, 0)
        for i in range(CLIENTS):
            # A client that libzmq does not know gets nothing more.
            if self._clients[i].state >= GREETS and self._clients[i].inside < 0:
                self._drop(&self._clients[i])

    cdef int _watch(self, int operation, int fd, int number, uint32_t events) noexcept nogil:
        cdef epoll_event event
        event.events = events
        event.data.fd = number
        return epoll_ctl(self._epoll, operation, fd, &event)

    cdef int _number(self, Client *client) noexcept nogil:
        return <int>(client - self._clients)

    cdef void _heed(self, Client *client, uint32_t outside, uint32_t inside) noexcept nogil:
        """Wait for these events of the two sides."""
        cdef int number = self._number(client) << 1
        if outside != client.outside_events:
            client.outside_events = outside
            self._watch(EPOLL_CTL_MOD, client.outside, number, outside)
        if client.inside >= 0 and not client.is_parked and inside != client.inside_events:
            client.inside_events = inside
            self._watch(EPOLL_CTL_MOD, client.inside, number | 1, inside)

    # -- connections ---------------------------------------------------------------------------------------------------

    cdef void _accept(self) noexcept nogil:
        cdef int i, fd
        cdef uint32_t uid = 0
        cdef Client *client
        cdef int64_t now = _now_ns()
        if now - self._window_ns >= WINDOW_MS * 1000000:
            self._window_ns, self._window_accepts = now, 0
        for i in range(ACCEPTS):
            fd = -1
            if self._window_accepts < WINDOW_ACCEPTS:
                fd = pl_relay_accept(self._listener_fd, &uid)
                if fd < 0 and (errno == EAGAIN or errno == EINTR or errno == ECONNABORTED):
                    return
            if fd < 0:  # too many in this window, or no descriptor is left
                self._is_deaf = True
                self._watch(EPOLL_CTL_MOD, self._listener_fd, LISTENER, 0)
                return
            self._window_accepts += 1
            client = self._place(uid, now)
            if client == NULL:
                self._refused += 1
                close(fd)
                continue
            client.outside, client.inside = fd, -1
            client.uid, client.is_own = uid, uid == 0 or uid == self._own_uid
            client.is_parked = False
            client.since_ns = client.credit_ns = now
            client.credit = FRAMES_BURST
            client.greeted = client.input_size = client.sendable = 0
            client.subscriptions = client.filters = 0
            client.unread_ns = client.stalled_ns = 0
            client.measured_ns = now
            client.outside_events, client.inside_events = EPOLLIN, 0
            if self._watch(EPOLL_CTL_ADD, fd, self._number(client) << 1, EPOLLIN) != 0:
                close(fd)
                continue
            client.state = GREETS
            self._used += 1

    cdef Client *_place(self, uint32_t uid, int64_t now) noexcept nogil:
        """Return a free place for a connection of `uid`, or NULL.

        Open connections stay, because each of them can be a subscriber that must not miss anything. Only if all places
        of other users are taken, a user with fewer connections takes the newest one of the user that has most.
        """
        cdef bint is_own = uid == 0 or uid == self._own_uid
        cdef int i, j, same = 0, others = 0, most = 0, count
        cdef Client *free_one = NULL
        cdef Client *newest = NULL
        for i in range(CLIENTS):
            if self._clients[i].state == COOLS and now - self._clients[i].since_ns >= COOL_MS * 1000000:
                self._clients[i].state = FREE
            if self._clients[i].state == FREE:
                if free_one == NULL:
                    free_one = &self._clients[i]
            elif self._clients[i].is_own:
                same += is_own
            else:
                others += 1
                same += not is_own and self._clients[i].uid == uid
        if is_own:
            return free_one if same < OWN_MAX else NULL
        if same >= USER_MAX:
            return NULL
        if others < OTHERS_MAX:
            return free_one
        for i in range(CLIENTS):
            if self._clients[i].state < GREETS or self._clients[i].is_own:
                continue
            count = 0
            for j in range(CLIENTS):
                count += (
                    self._clients[j].state >= GREETS and not self._clients[j].is_own
                    and self._clients[j].uid == self._clients[i].uid
                )
            if count > most or (count == most and self._clients[i].since_ns > newest.since_ns):
                most, newest = count, &self._clients[i]
        if most <= same + 1:
            return NULL
        self._refused += 1
        self._drop(newest)
        return newest

    cdef void _drop(self, Client *client) noexcept nogil:
        close(client.outside)
        if client.inside >= 0:
            close(client.inside)
        free(client.rest)
        client.rest = NULL
        client.state = FREE if client.is_own else COOLS
        client.since_ns = _now_ns()
        if client.stalled_ns:
            self._freed_ns = client.since_ns
        self._used -= 1

    cdef void _reject(self, Client *client) noexcept nogil:
        self._rejected += 1
        self._drop(client)

    cdef void _serve(self, Client *client, bint is_inside, uint32_t events) noexcept nogil:
        if is_inside:
            if client.inside < 0:
                return  # an event of the connection that had this place before
            if events & EPOLLOUT and not self._send_inside(client):
                return
            if client.rest == NULL:
                self._copy(client)
            elif events & ~<uint32_t>(EPOLLIN | EPOLLOUT) and not client.is_parked:
                # epoll would report this hang-up again and again until the client reads.
                client.is_parked = True
                self._watch(EPOLL_CTL_DEL, client.inside, 0, 0)
        else:
            if client.rest != NULL and events & EPOLLOUT and not self._send_rest(client):
                return
            if client.outside_events & EPOLLIN:
                self._receive(client)
            elif events & ~<uint32_t>(EPOLLIN | EPOLLOUT):
                self._drop(client)  # an error or a hang-up, which epoll always reports

    # -- to the client -------------------------------------------------------------------------------------------------

    cdef void _copy(self, Client *client) noexcept nogil:
        """Copy what libzmq has sent; keep what the client does not take, and read no more until it has."""
        cdef Py_ssize_t got = pl_relay_recv(client.inside, self._chunk, CHUNK)
        cdef Py_ssize_t sent
        if got <= 0:
            if got == 0 or (errno != EAGAIN and errno != EINTR):
                self._drop(client)
            return
        sent = pl_relay_send(client.outside, self._chunk, got)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self._drop(client)
                return
            sent = 0
        if sent < got:
            _measure(client, _now_ns(), self._stall_ns)
            client.rest = <uint8_t *>malloc(got - sent)
            if client.rest == NULL:
                self._drop(client)
                return
            memcpy(client.rest, self._chunk + sent, got - sent)
            client.rest_begin, client.rest_end = 0, got - sent
            self._heed(client, client.outside_events | EPOLLOUT, client.inside_events & ~<uint32_t>EPOLLIN)

    cdef bint _send_rest(self, Client *client) noexcept nogil:
        cdef Py_ssize_t sent = pl_relay_send(
            client.outside, client.rest + client.rest_begin, client.rest_end - client.rest_begin
        )
        if sent < 0:
            if errno == EAGAIN or errno == EINTR:
                return True
            self._drop(client)
            return False
        client.rest_begin += sent
        if client.rest_begin == client.rest_end:
            _measure(client, _now_ns(), self._stall_ns)
            free(client.rest)
            client.rest = NULL
            if client.is_parked:
                client.is_parked = False
                client.inside_events = EPOLLIN
                self._watch(EPOLL_CTL_ADD, client.inside, self._number(client) << 1 | 1, EPOLLIN)
            self._heed(client, client.outside_events & ~<uint32_t>EPOLLOUT, client.inside_events | EPOLLIN)
        return True

    # -- from the client -----------------------------------------------------------------------------------------------

    cdef void _receive(self, Client *client) noexcept nogil:
        cdef Py_ssize_t got = pl_relay_recv(
            client.outside, client.input + client.input_size, INPUT_MAX - client.input_size
        )
        if got <= 0:
            if got == 0 or (errno != EAGAIN and errno != EINTR):
                self._drop(client)
            return
        client.input_size += got
        if not self._check(client):
            self._reject(client)
            return
        self._send_inside(client)

    cdef bint _send_inside(self, Client *client) noexcept nogil:
        """Send the checked input to libzmq; read no more from the client until libzmq has taken it.

        Returns:
            Whether the connection is still open.
        """
        cdef Py_ssize_t sent = 0
        cdef bint is_waiting
        if client.sendable and client.inside < 0:
            client.inside = pl_relay_connect(self._inner_path, self._inner_length)
            if client.inside < 0 or self._watch(
                EPOLL_CTL_ADD, client.inside, self._number(client) << 1 | 1, EPOLLIN
            ) != 0:
                self._drop(client)  # the resolver starts or ends: the client connects again
                client.state = FREE  # which is not its fault, so it need not wait for its place
                return False
            client.inside_events = EPOLLIN
        if client.sendable:
            sent = pl_relay_send(client.inside, client.input, client.sendable)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self._drop(client)
                    return False
                sent = 0
        if sent:
            memmove(client.input, client.input + sent, client.input_size - sent)
            client.input_size -= sent
            client.sendable -= sent
        is_waiting = client.sendable > 0
        self._heed(
            client,
            (client.outside_events & ~<uint32_t>EPOLLIN) if is_waiting else (client.outside_events | EPOLLIN),
            (client.inside_events | EPOLLOUT) if is_waiting else (client.inside_events & ~<uint32_t>EPOLLOUT),
        )
        return True

    cdef bint _check(self, Client *client) noexcept nogil:
        """Check the input behind what is sendable, and remove what libzmq must not receive.

        Returns:
            False if the client has broken a limit.
        """
        cdef size_t left, header, body
        cdef uint8_t *at
        cdef int verdict
        while client.sendable < client.input_size:
            at = client.input + client.sendable
            left = client.input_size - client.sendable
            if client.state == GREETS:
                if not _is_greeting(client.greeted, at[0]):
                    return False
                client.greeted += 1
                client.sendable += 1
                if client.greeted == GREETING:
                    client.state = HANDSHAKES
                continue
            # A frame: flags, the length in one or eight bytes, the body. A client sends no message of several frames.
            if at[0] & ~(FRAME_LONG | FRAME_COMMAND) != 0:
                return False
            if at[0] & FRAME_LONG:
                header = 9
                if left >= 9 and (at[1] | at[2] | at[3] | at[4] | at[5] | at[6]) != 0:
                    return False
                body = <size_t>at[7] << 8 | at[8] if left >= 9 else 0
            else:
                header = 2
                body = at[1] if left >= 2 else 0
            if header + body > INPUT_MAX:
                return False
            if left < header or left < header + body:
                return True
            if not self._may_send(client):
                return False
            verdict = _judge(client, at[0] & FRAME_COMMAND != 0, at + header, body, self._may_filter(client))
            if verdict < 0:
                return False
            if verdict > 0:
                client.sendable += header + body
            else:
                memmove(at, at + header + body, left - header - body)
                client.input_size -= header + body
        return True

    cdef bint _may_filter(self, Client *client) noexcept nogil:
        """Whether one more subscription with a filter is passed on."""
        cdef int i, count = 0
        if client.is_own:
            return client.filters < FILTERS_OF_CLIENT
        for i in range(CLIENTS):
            if self._clients[i].state == OPEN and self._clients[i].uid == client.uid:
                count += self._clients[i].filters
        return client.filters < FILTERS_OF_CLIENT and count < FILTERS_OF_USER

    cdef bint _may_send(self, Client *client) noexcept nogil:
        # As host.rate_limiter.TokenBucket, which is a Python object: this thread does not hold the GIL.
        cdef int64_t now
        if client.credit < 1:
            now = _now_ns()
            client.credit += <double>(now - client.credit_ns) / 1e9 * FRAMES_PER_S
            client.credit_ns = now
            if client.credit > FRAMES_BURST:
                client.credit = FRAMES_BURST
        if client.credit < 1:
            return False
        client.credit -= 1
        return True


cdef void _measure(Client *client, int64_t now, int64_t stall_ns) noexcept nogil:
    """Add the time since the last call to the client's times with or without unread bytes.

    Call it before `rest` becomes NULL, and before it is set.

    A client that reads slowly has a rest almost all the time until libzmq's queue for it is empty, also if it reads a
    little now and then.
    """
    cdef int64_t passed = now - client.measured_ns
    client.measured_ns = now
    client.unread_ns += passed if client.rest != NULL else -passed
    if client.unread_ns <= 0:
        client.unread_ns = client.stalled_ns = 0
    elif client.unread_ns >= stall_ns:
        client.unread_ns = stall_ns
        if client.stalled_ns == 0:
            client.stalled_ns = now


cdef bint _counts_as_stalled(Client *client) noexcept nogil:
    return client.state == OPEN and not client.is_own and client.stalled_ns != 0


cdef bint _is_greeting(size_t at, uint8_t value) noexcept nogil:
    """Whether a byte of the greeting can be one of ZMTP 3 with the mechanism NULL."""
    if at == 0:
        return value == 0xFF
    if at == 9:
        return value == 0x7F
    if at == 10:
        return value >= 3
    if 12 <= at < 16:
        return value == (<const uint8_t *>b"NULL")[at - 12]
    if 16 <= at < 32:
        return value == 0
    return True


cdef bint _is_command(const uint8_t *body, size_t size, const char *name, size_t length) noexcept nogil:
    return size > length and body[0] == length and memcmp(body + 1, name, length) == 0


cdef int _judge(
    Client *client, bint is_command, const uint8_t *body, size_t size, bint may_filter
) noexcept nogil:
    """Decide about a frame: 1 pass it on, 0 drop it, -1 close the connection."""
    if client.state == HANDSHAKES:
        if not is_command or not _is_command(body, size, b"READY", 5):
            return -1
        client.state = OPEN
        return 1
    if not is_command:
        if size == 0 or body[0] > 1:
            return 0  # an XSUB peer can send arbitrary messages upstream
        return _subscribe(client, body[0] == 1, body + 1, size - 1, may_filter)
    if _is_command(body, size, b"SUBSCRIBE", 9):
        return _subscribe(client, True, body + 10, size - 10, may_filter)
    if _is_command(body, size, b"CANCEL", 6):
        return _subscribe(client, False, body + 7, size - 7, may_filter)
    if _is_command(body, size, b"PING", 4):
        return 1 if size >= 7 else -1  # libzmq reads the two bytes of the TTL without a check
    if _is_command(body, size, b"PONG", 4):
        return 1
    return -1


cdef int _subscribe(
    Client *client, bint is_added, const uint8_t *prefix, size_t size, bint may_filter
) noexcept nogil:
    cdef int i, last
    cdef bint is_filter = size > 5 and memcmp(prefix, b"only|", 5) == 0
    if size > SUBSCRIPTION_MAX_BYTES:
        return -1
    for i in range(client.subscriptions):
        if client.prefix_size[i] == size and memcmp(client.prefixes[i], prefix, size) == 0:
            if not is_added:
                last = client.subscriptions - 1
                client.prefix_size[i] = client.prefix_size[last]
                memcpy(client.prefixes[i], client.prefixes[last], SUBSCRIPTION_MAX_BYTES)
                client.subscriptions = last
                client.filters -= is_filter
            return 1
    if not is_added or (is_filter and not may_filter):
        return 0  # a subscriber notices that its filter is not in use
    if client.subscriptions == SUBSCRIPTIONS_MAX:
        return -1
    memcpy(client.prefixes[client.subscriptions], prefix, size)
    client.prefix_size[client.subscriptions] = <uint8_t>size
    client.subscriptions += 1
    client.filters += is_filter
    return 1


def _listen(path: Path, mode: int, group: int) -> socket.socket:
    """Return a socket that listens at `path`, where a file appears only when it does, and with its mode."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SocketError(f"cannot bind {path}: the file is not a socket; move it away")
        if is_listening(path):
            raise WriterExistsError(f"another process listens on {path}: stop it first")
    made = path.with_name(".p")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(made))
        finally:
            os.umask(before)
        if group != -1:
            os.chown(made, -1, group)
        made.chmod(mode)
        listener.listen(512)
        made.rename(path)
    except OSError as error:
        listener.close()
        if error.errno == errors.ENOENT:
            raise SocketError(f"cannot bind {path}: the directory {path.parent} does not exist") from None
        raise SocketError(f"cannot bind {path}: {error.strerror}") from None
    return listener
