"""epoll(7), for the compiled loops that sleep on descriptors.

`pl_epoll_wait` waits for a number of nanoseconds. epoll_wait(2) counts whole milliseconds, so a wait of 0.2 ms would
take one. The kernel has epoll_pwait2(2) since Linux 5.11. It is called by its number, because glibc has a function for
it since 2.35 only. If the kernel lacks it, or a seccomp filter that does not know it rejects it, the wait takes whole
milliseconds.
"""

from libc.stdint cimport int64_t, uint32_t


cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLIN
    uint32_t EPOLLET


cdef extern from *:
    """
    #include <errno.h>
    #include <limits.h>
    #include <stdint.h>
    #include <sys/epoll.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    #ifdef __NR_epoll_pwait2
    #define PL_EPOLL_PWAIT2 __NR_epoll_pwait2
    #else
    #define PL_EPOLL_PWAIT2 441 /* the headers are older than the call; x86-64 and aarch64 have the same number */
    #endif

    /* As epoll_wait(2), with `ns` in nanoseconds, which must not be negative. Without epoll_pwait2 the wait is rounded
     * down, so it never ends late. It is at least 1 ms, because a caller that waits again for the rest would otherwise
     * spin. */
    static inline int pl_epoll_wait(int epfd, struct epoll_event *events, int count, int64_t ns)
    {
        static int is_refused; /* an answer for the whole life of the process: a filter cannot be removed */
        struct { int64_t sec, nsec; } timeout = { ns / 1000000000, ns % 1000000000 }; /* struct __kernel_timespec */
        int64_t ms;

        if (!__atomic_load_n(&is_refused, __ATOMIC_RELAXED)) {
            long woken = syscall(PL_EPOLL_PWAIT2, epfd, events, count, &timeout, NULL, (size_t)0);

            /* The call itself never fails with EPERM. Filters use it or ENOSYS for calls that they do not know. */
            if (woken >= 0 || (errno != ENOSYS && errno != EPERM))
                return (int)woken;
            __atomic_store_n(&is_refused, 1, __ATOMIC_RELAXED);
        }
        ms = ns / 1000000;
        if (ms == 0 && ns > 0)
            ms = 1;
        return epoll_wait(epfd, events, count, ms < INT_MAX ? (int)ms : INT_MAX);
    }
    """
    int pl_epoll_wait(int epfd, epoll_event *events, int count, int64_t ns) noexcept nogil
