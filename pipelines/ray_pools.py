"""Actor pools: models with accelerators behind their roles, sized by what the cluster has, batched across units.

Calls that ask something about single frames (detection, faces) are gathered for a moment and answered together; a call
about a track goes through alone, because a temporal model must see that track and no other.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lhmforge.datasets.errors import ConfigError
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.batching import Gatherer
from lhmforge.pipelines.context import ONE_THREAD

_CHUNK = 4  # batches that travel, and are gathered, at once


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """An actor pool for the backends of one role: how many actors, and what each of them occupies.

    The run starts when `num_actors` are up; up to `max_actors` (0: no more) join as the cluster has room for them.
    A call waits at most `max_wait_ms` for calls of other units to share its batch.
    """

    role: str
    num_actors: int = 1
    max_actors: int = 0
    num_gpus: float = 0.0
    num_cpus: float = 1.0
    calls_per_actor: int = 4  # taken at once: they share batches, and the next call's frames travel while one computes
    max_wait_ms: float = 20.0

    def __post_init__(self) -> None:
        if self.num_actors < 1 or self.calls_per_actor < 1 or self.num_gpus < 0 or self.num_cpus < 0:
            raise ConfigError(f"pool of {self.role!r}: at least one actor and one call, no negative share: {self}")
        if self.max_wait_ms < 0 or (self.max_actors and self.max_actors < self.num_actors):
            raise ConfigError(
                f"pool of {self.role!r}: max_actors {self.max_actors} must be 0 or at least num_actors "
                f"{self.num_actors}, and max_wait_ms {self.max_wait_ms:g} not negative"
            )


class ActorPool:
    """The actors of one role; those that are up take calls."""

    def __init__(self, config: PoolConfig) -> None:
        import ray

        host = ray.remote(BackendHost).options(
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            max_concurrency=config.calls_per_actor + 1,  # one is left for the question whether it is up
            max_restarts=3,
            max_task_retries=0,
            runtime_env={"env_vars": ONE_THREAD},
        )
        count = max(config.num_actors, config.max_actors)
        actors = [host.remote(config.role, config.max_wait_ms / 1000) for _ in range(count)]
        self._starting = {actor.is_up.remote(): actor for actor in actors}
        self._up: list[Any] = []
        self._admit(config.num_actors, timeout_s=None)

    def actors(self) -> tuple[Any, ...]:
        """The actors that are up now; at least `num_actors`."""
        if self._starting:
            self._admit(len(self._starting), timeout_s=0)
        return tuple(self._up)

    def close(self) -> None:
        """Ends all actors."""
        import ray

        for actor in (*self._up, *self._starting.values()):
            ray.kill(actor)

    def _admit(self, count: int, *, timeout_s: float | None) -> None:
        import ray

        ready, _ = ray.wait(list(self._starting), num_returns=count, timeout=timeout_s)
        self._up += [self._starting.pop(reference) for reference in ready]


class BackendHost:
    """The body of a pool's actor: holds the backends of one role, one call of which computes at a time."""

    def __init__(self, role: str, max_wait_s: float = 0.0) -> None:
        self._role, self._max_wait_s = role, max_wait_s
        self._loaded: dict[BackendSpec, Any] = {}
        self._gatherers: dict[tuple[BackendSpec, str], Gatherer] = {}
        self._computing, self._registering = threading.Lock(), threading.Lock()

    def is_up(self) -> bool:
        """Answers once the actor has its place."""
        return True

    def call(self, spec: BackendSpec, method: str, positional: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """One call of a backend's method; iterators are sent back whole."""
        if method == "detect":
            return self._gatherer(spec, method)(list(positional[0]))
        if method == "embed" and len(positional[0]):
            return np.stack(self._gatherer(spec, method)(list(zip(*positional, strict=True))))
        return self._compute(spec, method, positional, named)

    def _gatherer(self, spec: BackendSpec, method: str) -> Gatherer:
        with self._registering:
            if (spec, method) not in self._gatherers:
                run = self._detect_all if method == "detect" else self._embed_all
                self._gatherers[spec, method] = Gatherer(
                    lambda items: run(spec, items), max_items=_CHUNK * spec.batch_size, max_wait_s=self._max_wait_s
                )
            return self._gatherers[spec, method]

    def _detect_all(self, spec: BackendSpec, frames: list[Any]) -> list[Any]:
        return list(self._compute(spec, "detect", (frames,), {}))

    def _embed_all(self, spec: BackendSpec, pairs: list[Any]) -> list[Any]:
        frames, boxes = [frame for frame, _ in pairs], np.stack([box for _, box in pairs])
        return list(self._compute(spec, "embed", (frames, boxes), {}))

    def _compute(self, spec: BackendSpec, method: str, positional: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        with self._computing:
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
        while chunk := list(itertools.islice(waiting, _CHUNK * self._spec.batch_size)):
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
