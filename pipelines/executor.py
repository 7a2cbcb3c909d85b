"""Executors: the same unit tasks in this process, in one replaceable child process, or under Ray; same files.

Each is a generator that yields one finished unit at a time and holds a bounded number of units. `ray_executor` holds
the one for Ray.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from lhmforge.datasets.errors import ForgeError
from lhmforge.pipelines.ledger import Ledger
from lhmforge.pipelines.unit import UnitTask, curate_unit

MAX_LOSSES_WITHOUT_VIDEO = 3
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDone:
    """What travels back from a worker about a finished unit; the rest is in its completion record."""

    unit: str
    num_videos: int


def run_inline(tasks: Iterable[UnitTask], on_video: Callable[[str], None] | None = None) -> Iterator[UnitDone]:
    """Every unit in this process, one after the other; a crash of native code ends the caller."""
    for task in tasks:
        yield curate_task(task, on_video)


def run_isolated(tasks: Iterable[UnitTask], on_video: Callable[[str], None] | None = None) -> Iterator[UnitDone]:
    """Every unit in one child process, which is replaced when a video crashes, hangs or overfeeds it.

    Raises what the child raised (`ForgeError` for faults of the set-up), and `ForgeError` when children keep dying
    without a video in hand.
    """
    losses = LossCount()
    child = _Child()
    try:
        for task in tasks:
            while (done := child.curate(replace(task, replaceable=True), on_video)) is None:
                losses.add(task, child.obituary())
                child = _Child()
            yield done
    finally:
        child.close()


def curate_task(task: UnitTask, on_video: Callable[[str], None] | None = None) -> UnitDone:
    """Curates one unit in this process, with backends of this process."""
    record = curate_unit(task, {}, on_video)
    return UnitDone(unit=record.unit, num_videos=len(record.videos))


class LossCount:
    """Bounds how often a unit is queued again after its worker was lost, and closes what the worker left open."""

    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}
        self._without_video: Counter[str] = Counter()

    def add(self, task: UnitTask, cause: str, *, blames_video: bool = True) -> None:
        """Accounts for one lost worker; raises `ForgeError` when workers keep dying with no video in hand.

        With a video in hand the bound is the video's own: it is quarantined after `max_attempts`. A lost node
        (`blames_video` off) is no video's fault, but may not go on without end either.
        """
        unit = task.unit.name
        attempts = Ledger(task.root).attempts(unit, task.fingerprint)
        attempts.close_open("failed" if blames_video else "interrupted", cause)
        failed_before, self._attempts[unit] = self._attempts.get(unit, 0), attempts.num_failed()
        if self._attempts[unit] > failed_before:
            return
        self._without_video[unit] += 1
        if self._without_video[unit] > MAX_LOSSES_WITHOUT_VIDEO:
            raise ForgeError(
                f"unit {unit} lost its worker {self._without_video[unit]} times with no video to blame; "
                f"the last time: {cause}"
            )


class _Child:
    """One process that curates units sent to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")  # imports once, so that a replacement starts at once
        context.set_forkserver_preload([__name__, "cv2", "torch"])
        self._connection, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote,), name="curate", daemon=True)
        self._process.start()
        remote.close()

    def curate(self, task: UnitTask, on_video: Callable[[str], None] | None) -> UnitDone | None:
        """The finished unit, or None when the process died over it."""
        try:
            self._connection.send(task)
            while True:
                message = self._connection.recv()
                if isinstance(message, UnitDone):
                    return message
                if isinstance(message, BaseException):
                    raise message
                if on_video is not None:
                    on_video(message)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return None

    def obituary(self) -> str:
        """How the process ended."""
        self._process.join()
        code = self._process.exitcode or 0
        self._connection.close()
        return f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit status {code}'}"

    def close(self) -> None:
        """Ends the process; a unit in hand stays undone."""
        self._connection.close()
        self._process.kill()
        self._process.join()


def _serve(connection: Connection) -> None:
    """The child's main loop; it dies with its parent, so that no two processes write one unit."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            connection.send(curate_task(task, connection.send))
        except ForgeError as error:
            connection.send(error)
