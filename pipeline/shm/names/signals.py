"""Names of signals. Readers import this module, so it uses the standard library only."""

from __future__ import annotations


def signal_name(number: int | None) -> str:
    """Return the name of a signal, for example of `Entry.exit_signal`. It never raises an error.

    Real-time signals are counted from the first one that programs can use, as ``kill -l`` of bash does. The name of an
    unknown number is a text with the number, and that of None is ``no signal``.

    Example:
        >>> signal_name(9), signal_name(38), signal_name(200), signal_name(None)
        ('SIGKILL', 'SIGRTMIN+4', 'signal 200', 'no signal')
    """
    import signal  # deferred: it makes three classes, and most entries have no signal

    if number is None:
        return "no signal"
    try:
        return signal.Signals(number).name
    except ValueError:
        if isinstance(number, int) and signal.SIGRTMIN < number < signal.SIGRTMAX:
            return f"SIGRTMIN+{number - signal.SIGRTMIN}"
        return f"signal {number}"
