"""When a worker that ended is started again, and when the daemon stops restarting it. child.py starts workers."""

from __future__ import annotations

from collections import deque

from pipeline.config.schema import Supervision
from pipeline.errors import GivingUpError, HopelessError

WINDOW_S = 600.0
_FIRST_PAUSE_S = 0.1


class RestartPolicy:
    """The history of one worker's ends.

    After a single end the worker is started again at once, because readers wait. After several early ends in a row the
    pauses double, and then the daemon stops; so it does after too many ends of any kind. An end is early if the
    worker had not reported that it is ready (`start.report_ready`), however long it lived, or if it lived for less
    than `healthy_ms`.
    """

    def __init__(self, role: str, settings: Supervision) -> None:
        self._role = role
        self._settings = settings
        self._early = 0
        self._deaths: deque[float] = deque()

    def after(
        self, started_s: float, ended_s: float, how: str, *, was_ready: bool = True, is_hopeless: bool = False
    ) -> float:
        """Record an end and return how long to wait before the next start, in seconds.

        Args:
            started_s: monotonic time of the start.
            ended_s: monotonic time of the end.
            how: description of the end, for the message.
            was_ready: the worker had reported that it is ready.
            is_hopeless: the worker reported that it would end the same way again.

        Raises:
            GivingUpError: it must not be started again; HopelessError if `is_hopeless`.
        """
        settings = self._settings
        self._deaths.append(ended_s)
        while self._deaths[0] < ended_s - WINDOW_S:
            self._deaths.popleft()
        is_early = not was_ready or ended_s - started_s < settings.healthy_ms / 1000
        self._early = self._early + 1 if is_early else 0
        if is_hopeless:
            raise HopelessError(f"{self._role} {how}: it cannot run; its last log line has the reason", role=self._role)
        if self._early >= settings.early_deaths_max:
            reason = f"it ended {self._early} times in a row before or soon after it was ready; see the log above"
        elif len(self._deaths) > settings.restarts_max:
            reason = f"it ended {len(self._deaths)} times in {WINDOW_S / 60:.0f} minutes; the log above has the reasons"
        else:
            if self._early <= 1:
                return 0.0
            return min(_FIRST_PAUSE_S * 2 ** (self._early - 2), settings.backoff_max_ms / 1000)
        raise GivingUpError(f"{self._role} {how}: {reason}", role=self._role)
