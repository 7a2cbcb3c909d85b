"""`metrics.jsonl`: one line per report of a run, written by rank 0 and followed by the driver.

The file is the truth about a run's curves; MLflow and progress bars are fed from it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Values after `step` optimiser steps, at `time_s` (seconds since 1970)."""

    step: int
    time_s: float
    values: dict[str, float]


class MetricsLog:
    """Appends to the file; opened at a step, it first drops the lines of later steps, which will come again."""

    def __init__(self, path: Path, *, from_step: int) -> None:
        self._path = path
        kept = [entry for entry in read_entries(path) if entry.step <= from_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(map(_line, kept)))
        partial.replace(path)

    def append(self, step: int, values: Mapping[str, float]) -> None:
        with self._path.open("a") as stream:
            stream.write(_line(Entry(step=step, time_s=time.time(), values=dict(values))))


def read_entries(path: Path) -> list[Entry]:
    """All complete lines; a last line without its newline is still being written and left out."""
    if not path.is_file():
        return []
    complete = path.read_text().rpartition("\n")[0]
    return [Entry(**json.loads(line)) for line in complete.splitlines()]


class Follower:
    """Calls `handle` in a thread for every entry of a growing file, each step and set of names once.

    A restart of the run shortens and rewrites the file; entries that were handled before are not handled again.
    `handle` must not raise; an exception in it is raised again by `__exit__`.
    """

    def __init__(self, path: Path, handle: Callable[[Entry], None]) -> None:
        self._path, self._handle = path, handle
        self._seen: set[tuple[int, tuple[str, ...]]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _follow(self) -> None:
        size = -1
        while True:
            stopping = self._stop.wait(POLL_SECONDS)
            now = self._path.stat().st_size if self._path.is_file() else -1
            if now != size:
                size = now
                try:
                    self._handle_new()
                except (OSError, RuntimeError, ValueError) as error:
                    self._error = error
                    return
            if stopping:
                return

    def _handle_new(self) -> None:
        for entry in read_entries(self._path):
            mark = (entry.step, tuple(sorted(entry.values)))
            if mark not in self._seen:
                self._seen.add(mark)
                self._handle(entry)


def _line(entry: Entry) -> str:
    return json.dumps({"step": entry.step, "time_s": entry.time_s, "values": entry.values}) + "\n"
