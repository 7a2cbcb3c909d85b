"""The Ray executor: one task per unit, models with accelerators in actor pools behind their roles.

Ray schedules; attempts, retries and what is done are the ledger's. Ray's own retries are off.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lhmforge.datasets.errors import ConfigError, ForgeError
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.context import ONE_THREAD
from lhmforge.pipelines.executor import LossCount, UnitDone
from lhmforge.pipelines.unit import UnitTask, curate_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """An actor pool for the backends of one role: how many actors, and what each of them occupies."""

    role: str
    num_actors: int = 1
    num_gpus: float = 0.0
    num_cpus: float = 1.0
    calls_per_actor: int = 2  # taken at once, so that the next call's frames travel while one computes

    def __post_init__(self) -> None:
        if self.num_actors < 1 or self.calls_per_actor < 1 or self.num_gpus < 0 or self.num_cpus < 0:
            raise ConfigError(f"pool of {self.role!r}: at least one actor and one call, no negative share: {self}")


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
    handles = {pool.role: _start_pool(pool) for pool in pools}
    waiting = iter(tasks)
    losses = LossCount()
    running: dict[Any, UnitTask] = {}
    again: list[UnitTask] = []
    try:
        while True:
            room = num_workers - len(running)
            for task in itertools.islice(itertools.chain(_drain(again), waiting), room):
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
        for actors in handles.values():
            for actor in actors:
                ray.kill(actor)


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


def _start_pool(config: PoolConfig) -> tuple[Any, ...]:
    import ray

    host = ray.remote(BackendHost).options(
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        max_concurrency=config.calls_per_actor,
        max_restarts=3,
        max_task_retries=0,
        runtime_env={"env_vars": ONE_THREAD},
    )
    return tuple(host.remote(config.role) for _ in range(config.num_actors))


class BackendHost:
    """The body of a pool's actor: holds the backends of one role."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._loaded: dict[BackendSpec, Any] = {}

    def call(self, spec: BackendSpec, method: str, positional: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """One call of a backend's method; iterators are sent back whole."""
        if spec not in self._loaded:
            self._loaded[spec] = load_backend(self._role, spec)
        result = getattr(self._loaded[spec], method)(*positional, **named)
        return list(result) if isinstance(result, Iterator) else result


@dataclass(frozen=True)
class RemotePool:
    """A worker's view of an actor pool."""

    actors: tuple[Any, ...]

    def backend(self, role: str, spec: BackendSpec) -> RemoteBackend:
        """A stand-in with the methods of the role's protocol."""
        return RemoteBackend(self.actors, spec)


class RemoteBackend:
    """Sends each call to the next actor of a pool; frames travel in chunks where the role allows it."""

    def __init__(self, actors: tuple[Any, ...], spec: BackendSpec) -> None:
        self._turns = itertools.cycle(actors[os.getpid() % len(actors) :] + actors[: os.getpid() % len(actors)])
        self._spec = spec

    def detect(self, frames: Iterable[Any]) -> Iterator[Any]:
        """`Detector.detect`, a few batches at a time: a detector keeps nothing from one frame to the next."""
        waiting = iter(frames)
        while chunk := list(itertools.islice(waiting, 4 * self._spec.batch_size)):
            yield from self._call("detect", chunk)

    def matte(self, frames: Iterable[Any], track: Any) -> Iterator[Any]:
        """`Matting.matte`; a temporal model must see the whole track at once."""
        return iter(self._call("matte", list(frames), track))

    def estimate(self, frames: Iterable[Any], track: Any) -> Any:
        """`KeypointEstimator.estimate`."""
        return self._call("estimate", list(frames), track)

    def embed(self, frames: Iterable[Any], boxes_px: Any) -> Any:
        """`FaceEmbedder.embed`."""
        return self._call("embed", list(frames), boxes_px)

    def link(self, detections: Any, *, fps: float) -> Any:
        """`Tracker.link`."""
        return self._call("link", detections, fps=fps)

    def cuts(self, path: str, *, num_frames: int, fps: float) -> Any:
        """`ShotDetector.cuts`; the actor must see the same files."""
        return self._call("cuts", path, num_frames=num_frames, fps=fps)

    def start(self, clip: Any, track: Any, keypoints: Any) -> Any:
        """`BodyInitialiser.start`."""
        return self._call("start", clip, track, keypoints)

    def weight_digests(self) -> Any:
        """The digests of the files that the pool's backend loads."""
        return self._call("weight_digests")

    def _call(self, method: str, *positional: Any, **named: Any) -> Any:
        import ray

        return ray.get(next(self._turns).call.remote(self._spec, method, positional, named))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
