"""Renders synthetic people under Ray: the same tasks as in processes of one machine, so the same bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lhmforge.datasets.errors import ForgeError
from lhmforge.datasets.synthetic.workers import Job, Result, Runner, on_one_thread
from lhmforge.jobs.ray_session import ensure_ray
from lhmforge.pipelines.context import ONE_THREAD

_RETRIES = 3  # of tasks whose worker or node was lost; a task publishes its files atomically and may run twice


def on_ray(num_workers: int) -> Runner:
    """A runner with at most `num_workers` tasks under Ray at once; output folders must be seen by all nodes.

    Errors that the user can fix come back as themselves.
    """

    def run(task: Callable[[Job], Result], jobs: Sequence[Job], /) -> Iterator[Result]:
        if not jobs:
            return
        ensure_ray(num_workers)
        import ray

        remote = ray.remote(num_cpus=1, max_retries=_RETRIES, runtime_env={"env_vars": ONE_THREAD})(on_one_thread)
        waiting = iter(jobs)
        running: list[Any] = [remote.remote(task, job) for job in itertools.islice(waiting, max(1, num_workers))]
        try:
            while running:
                ready, running = ray.wait(running, num_returns=1)
                running += [remote.remote(task, job) for job in itertools.islice(waiting, 1)]
                yield _result(ready[0])
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    return run


def _result(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ForgeError):
            raise error.cause from None
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        raise ForgeError(f"a rendering worker was lost {_RETRIES + 1} times, the last time: {error}") from error
