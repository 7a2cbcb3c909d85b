"""Stages: frozen dataclasses whose fields are their config, called with one record to yield records or rejects."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from lhmforge.datasets.records import Reject, Video
from lhmforge.pipelines.backends.roles import BackendSpec

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)


@runtime_checkable
class StageContext(Protocol):
    """What a stage may ask of its surroundings; the same in the inline and the Ray executor."""

    def frames(self, video: Video, frame_indices: Int64[np.ndarray, " N"]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The displayed RGB frames at ascending indices, decoded in bounded batches."""
        ...

    def local_path(self, uri: str) -> str:
        """A local file with the content of `uri` (fetched once per unit when remote)."""
        ...

    def backend(self, role: str, spec: BackendSpec) -> Any:
        """The loaded backend for a role, one instance per process or actor pool; see `backends.roles`."""
        ...


@runtime_checkable
class Stage(Protocol[In, Out]):
    """One step of curation; 1-to-n, filter and reject have the same shape."""

    name: ClassVar[str]
    version: ClassVar[int]  # raised whenever the code changes what it writes
    accepts: ClassVar[type]
    produces: ClassVar[type]

    def __call__(self, record: In, context: StageContext) -> Iterator[Out | Reject]: ...

    def weight_digests(self) -> Sequence[str]:
        """sha256 of every weight file that decides this stage's output, in a fixed order."""
        ...


def stage_fingerprint(stage: Stage[Any, Any], upstream: str) -> str:
    """Hex fingerprint of a stage's code version, config (its repr) and weights, chained to what came before."""
    parts = (upstream, stage.name, str(stage.version), repr(stage), *stage.weight_digests())
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def check_chain(stages: Sequence[Stage[Any, Any]]) -> None:
    """Asserts that each stage produces what the next one accepts."""
    for before, after in itertools.pairwise(stages):
        assert before.produces is after.accepts, (
            f"{before.name} produces {before.produces.__name__}, {after.name} accepts {after.accepts.__name__}"
        )
