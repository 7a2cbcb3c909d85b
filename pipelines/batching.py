"""Gathers the items of calls from several threads into one batch and hands each caller its own results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class _Request:
    items: list[Any]
    batch: Future[list[Any]] | None = None
    start: int = 0  # of its items in the batch


class Gatherer:
    """`run` gets the joined items of calls that came within `max_wait_s` of each other, or while it was busy.

    A batch is closed early when it has `max_items`; a call is never cut in two. `run` must give one result per item,
    whatever items come with it; it is called from one thread. An error of a batch is raised in each of its callers.
    """

    def __init__(self, run: Callable[[list[Any]], list[Any]], *, max_items: int, max_wait_s: float) -> None:
        self._run, self._max_items, self._max_wait_s = run, max_items, max_wait_s
        self._waiting: list[_Request] = []
        self._changed = threading.Condition()
        self._has_leader = False
        self._busy = False
        self._thread = ThreadPoolExecutor(1)

    def __call__(self, items: list[Any]) -> list[Any]:
        """The results of `items`, in their order."""
        if not items:
            return []
        request = _Request(items)
        with self._changed:
            self._waiting.append(request)
            self._changed.notify_all()
            while request.batch is None:
                if self._has_leader:
                    self._changed.wait()
                else:
                    self._lead()
        results = request.batch.result()
        return results[request.start : request.start + len(items)]

    def _lead(self) -> None:
        """Waits for company, then sends the calls that came first on their way."""
        self._has_leader = True
        deadline = time.monotonic() + self._max_wait_s
        while self._num_waiting() < self._max_items and (left := deadline - time.monotonic()) > 0:
            self._changed.wait(left)
        while self._busy:
            self._changed.wait()
        joined: list[Any] = []
        taken: list[_Request] = []
        while self._waiting and (not taken or len(joined) + len(self._waiting[0].items) <= self._max_items):
            request = self._waiting.pop(0)
            request.start = len(joined)
            joined += request.items
            taken.append(request)
        self._busy = True
        future = self._thread.submit(self._compute, joined)
        for request in taken:
            request.batch = future
        self._has_leader = False
        self._changed.notify_all()

    def _compute(self, joined: list[Any]) -> list[Any]:
        try:
            results = self._run(joined)
            assert len(results) == len(joined), f"{len(results)} results for {len(joined)} items"
            return results
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _num_waiting(self) -> int:
        return sum(len(request.items) for request in self._waiting)
