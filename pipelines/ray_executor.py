"""The Ray executor: one task per unit; models with accelerators live in the actor pools of `ray_pools`.

Ray schedules; attempts, retries and what is done are the ledger's. Ray's own retries are off.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from lhmforge.datasets.errors import ForgeError
from lhmforge.pipelines.context import ONE_THREAD
from lhmforge.pipelines.executor import LossCount, UnitDone
from lhmforge.pipelines.ray_pools import ActorPool, PoolConfig, RemotePool
from lhmforge.pipelines.unit import UnitTask, curate_unit


def start_ray(num_workers: int) -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts a local one of `num_workers` CPUs, unless that was done."""
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # else uv starts every worker anew: 48 s against 18 s
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, configure_logging=False)
    else:
        ray.init(num_cpus=num_workers, include_dashboard=False, log_to_driver=False, configure_logging=False)


def run_ray(tasks: Iterable[UnitTask], *, num_workers: int, pools: tuple[PoolConfig, ...] = ()) -> Iterator[UnitDone]:
    """At most `num_workers` units at once, each in a Ray task; units of lost workers and nodes are queued again.

    Raises what a unit raised (`ForgeError` for faults of the set-up).
    """
    start_ray(num_workers)
    import ray

    curate = ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": ONE_THREAD})(_curate_remote)
    actors = {pool.role: ActorPool(pool) for pool in pools}
    waiting = iter(tasks)
    losses = LossCount()
    running: dict[Any, UnitTask] = {}
    again: list[UnitTask] = []
    try:
        while True:
            room = num_workers - len(running)
            for task in itertools.islice(itertools.chain(_drain(again), waiting), room):
                handles = {role: pool.actors() for role, pool in actors.items()}
                running[curate.remote(replace(task, replaceable=True), handles)] = task
            if not running:
                return
            ready, _ = ray.wait(list(running), num_returns=1)
            task = running.pop(ready[0])
            done = _result(ready[0], task, losses)
            if done is None:
                again.append(task)
            else:
                yield done
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        for pool in actors.values():
            pool.close()


def _drain(tasks: list[UnitTask]) -> Iterator[UnitTask]:
    while tasks:
        yield tasks.pop(0)


def _result(reference: Any, task: UnitTask, losses: LossCount) -> UnitDone | None:
    """The finished unit, or None when its worker or node was lost."""
    import ray

    try:
        done = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ForgeError):
            raise error.cause from None
        raise
    except ray.exceptions.NodeDiedError as error:
        losses.add(task, str(error), blames_video=False)
        return None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        losses.add(task, _first_line(error))
        return None
    assert isinstance(done, UnitDone)
    return done


def _curate_remote(task: UnitTask, handles: Mapping[str, tuple[Any, ...]]) -> UnitDone:
    pools = {role: RemotePool(actors) for role, actors in handles.items()}
    record = curate_unit(task, pools)
    return UnitDone(unit=record.unit, num_videos=len(record.videos))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
