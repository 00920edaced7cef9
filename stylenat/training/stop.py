"""Ctrl-C and SIGTERM while a network trains: noted at once, obeyed between two steps."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Within it the first SIGINT or SIGTERM is noted; a second one acts as it would outside.

    In other threads than the main one, which gets no signals, it does nothing; and a signal that is ignored,
    as after `nohup`, stays so.

    Attributes:
        caught: the signal's number, or None.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            self.caught = number
            self.__exit__(None, None, None)
        elif number == signal.SIGTERM:  # a process that decodes images: its parent ends it
            os._exit(128 + number)
