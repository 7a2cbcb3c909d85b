"""Where rendering tasks run: here, in processes of this machine, or wherever a caller's runner puts them.

A task is a module-level function of one picklable argument that writes its files atomically, so it may run twice; each
runs on one thread, so that sums come out alike everywhere.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Protocol, TypeVar, runtime_checkable

from lhmforge.datasets.threads import single_threaded

Job = TypeVar("Job")
Result = TypeVar("Result")


@runtime_checkable
class Runner(Protocol):
    """Runs a task over jobs and gives the results, in any order, as they come."""

    def __call__(self, task: Callable[[Job], Result], jobs: Sequence[Job], /) -> Iterator[Result]: ...


def here(task: Callable[[Job], Result], jobs: Sequence[Job], /) -> Iterator[Result]:
    """One after the other in this process."""
    for job in jobs:
        yield on_one_thread(task, job)


def in_processes(num_workers: int) -> Runner:
    """A runner over fresh processes of this machine; `here` where one would do."""

    def run(task: Callable[[Job], Result], jobs: Sequence[Job], /) -> Iterator[Result]:
        if num_workers <= 1 or len(jobs) <= 1:
            yield from here(task, jobs)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(num_workers, len(jobs)), mp_context=context) as pool:
            yield from pool.map(on_one_thread, [task] * len(jobs), jobs)

    return run


def on_one_thread(task: Callable[[Job], Result], job: Job) -> Result:
    """The task's result, computed with one thread per numeric library."""
    with single_threaded():
        return task(job)
