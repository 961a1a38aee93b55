"""Interrupts that arrive while Python, or a library, runs what is not ready for them.

What is raised in a weak reference's callback or in ``__del__`` is printed and dropped, and the
handler of a signal may run at any of their lines. An interrupt dropped there is sent again a moment
later. A library's own clearing up may fail at an interrupt, and raise something else in its place.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_MOMENT_SECONDS: Final = 0.02


def interrupt(*_: object) -> NoReturn:
    """Handle SIGTERM as Ctrl-C, once: nothing stops the clearing up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def interrupts_arrive() -> Iterator[None]:
    """Send an interrupt again that was raised where nobody could catch it."""
    before = sys.unraisablehook
    timers: list[threading.Timer] = []

    def hook(unraisable: UnraisableHookArgs) -> None:
        in_main = threading.current_thread() is threading.main_thread()
        if not (in_main and issubclass(unraisable.exc_type, KeyboardInterrupt)):
            before(unraisable)
            return
        signal.signal(signal.SIGTERM, interrupt)
        timers.append(threading.Timer(_MOMENT_SECONDS, _send))
        timers[-1].daemon = True
        timers[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()


def came_of_interrupt(error: BaseException) -> bool:
    """Whether an exception was raised while an interrupt was on its way up."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, KeyboardInterrupt):
            return True
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            waiting += [each.__context__, each.__cause__]
    return False


def _send() -> None:
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):  # wakes it, whatever it waits for
        signal.pthread_kill(main, signal.SIGTERM)
    else:
        import _thread

        _thread.interrupt_main(signal.SIGTERM)
