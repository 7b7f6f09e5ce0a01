"""When a worker that ended is started again, and when it is no use. Times only; starting is child.py's."""

from __future__ import annotations

from collections import deque

from pipeline.config.schema import Supervision
from pipeline.errors import GivingUpError, HopelessError

WINDOW_S = 600.0
_FIRST_PAUSE_S = 0.1


class RestartPolicy:
    """The history of one worker's deaths.

    A single death is answered at once, because readers wait. Early deaths in a row are a loop: they are answered with
    pauses that double, and then the daemon ends; so it does after too many deaths of any kind. A death is early if the
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
        """Take note of an end and return how long to wait before the next start, in seconds.

        Args:
            started_s: monotonic time of the start.
            ended_s: monotonic time of the end.
            how: the end in words, for the message.
            was_ready: the worker had reported that it is ready.
            is_hopeless: the worker said that it would end the same way again.

        Raises:
            GivingUpError: it is not to be started again; HopelessError where `is_hopeless`.
        """
        settings = self._settings
        self._deaths.append(ended_s)
        while self._deaths[0] < ended_s - WINDOW_S:
            self._deaths.popleft()
        is_early = not was_ready or ended_s - started_s < settings.healthy_ms / 1000
        self._early = self._early + 1 if is_early else 0
        if is_hopeless:
            raise HopelessError(
                f"{self._role} {how}: it says that it cannot work; its last log line says why", role=self._role
            )
        if self._early >= settings.early_deaths_max:
            reason = f"it died {self._early} times in a row before it was ready or right after; the log above says why"
        elif len(self._deaths) > settings.restarts_max:
            reason = f"it died {len(self._deaths)} times in {WINDOW_S / 60:.0f} minutes"
        else:
            if self._early <= 1:
                return 0.0
            return min(_FIRST_PAUSE_S * 2 ** (self._early - 2), settings.backoff_max_ms / 1000)
        raise GivingUpError(f"{self._role} {how}: {reason}", role=self._role)
