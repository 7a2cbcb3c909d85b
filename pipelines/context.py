"""What a stage may ask of its surroundings, served by the process that curates a unit."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from lhmforge.datasets import storage
from lhmforge.datasets.records import Video
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.corpus import is_remote
from lhmforge.pipelines.video import frames

# Numeric libraries start one thread per core unless told otherwise; workers already fill the cores.
_LIBRARIES = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in _LIBRARIES}


@runtime_checkable
class BackendPool(Protocol):
    """Stands in for the backends of one role, wherever they run."""

    def backend(self, role: str, spec: BackendSpec) -> Any: ...


class UnitContext:
    """The `StageContext` of one unit; fetched copies of remote sources are removed on exit."""

    def __init__(self, pools: Mapping[str, BackendPool]) -> None:
        self._pools = pools
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> UnitContext:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def frames(self, video: Video, frame_indices: Int64[np.ndarray, " N"]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The displayed RGB frames at ascending indices; raises `VideoError`."""
        return frames(self.local_path(video.source.uri), frame_indices)

    def local_path(self, uri: str) -> str:
        """A local file with the content of `uri`; raises `StorageError`."""
        if not is_remote(uri):
            return uri.removeprefix("file://")
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="lhmforge-")
        path = Path(self._folder.name, hashlib.sha256(uri.encode()).hexdigest()[:16] + Path(uri).suffix)
        if not path.exists():
            storage.publish(path, storage.read_chunks(uri))
        return str(path)

    def backend(self, role: str, spec: BackendSpec) -> Any:
        """The loaded backend of a role: from its pool when it has one, else one per process."""
        return self._pools[role].backend(role, spec) if role in self._pools else process_backend(role, spec)


@functools.lru_cache(maxsize=16)
def process_backend(role: str, spec: BackendSpec) -> Any:
    """This process's instance of a backend."""
    return load_backend(role, spec)
