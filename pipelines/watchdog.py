"""Ends a worker process whose video hangs or eats the memory, after saying so in the ledger."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

import psutil

EXIT_STATUS = 86
_INTERVAL_S = 0.25


@contextlib.contextmanager
def watchdog(*, timeout_s: float, memory_bytes: int, last_words: Callable[[str], None]) -> Iterator[None]:
    """While the body runs, a thread watches time and resident memory (children included).

    At a limit it calls `last_words` with the reason and ends the process at once: native code that hangs cannot be
    stopped in any other way. Only for processes that the driver can replace.
    """
    done = threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + timeout_s
        while not done.wait(_INTERVAL_S):
            used = _resident_bytes()
            if time.monotonic() > deadline:
                reason = f"timeout: not done after {timeout_s:g} s"
            elif used > memory_bytes:
                reason = f"out of memory: {used >> 20} MiB of at most {memory_bytes >> 20} MiB"
            else:
                continue
            try:
                last_words(reason)
            finally:
                os._exit(EXIT_STATUS)

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _resident_bytes() -> int:
    total = 0
    process = psutil.Process()
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_info().rss
    return total
