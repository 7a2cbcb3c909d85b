"""Several manifests as one in memory, for training on all of them; nothing is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.manifest import ACCEPTED, Manifest


def join_manifests(parts: Sequence[Manifest]) -> Manifest:
    """The rows of all `parts`, shards named absolutely; one part is returned as it is.

    Raises `ShardError` when two parts hold one accepted sample.
    """
    if len(parts) == 1:
        return parts[0]
    frames = [part.frame.assign(shard=part.frame["shard"].map(_absolute(part))) for part in parts]
    frame = pd.concat(frames, ignore_index=True)
    accepted = frame["key"][frame["status"] == ACCEPTED]
    if accepted.duplicated().any():
        twice = accepted[accepted.duplicated()].iloc[0]
        raise ShardError(f"sample {twice!r} is in two of {', '.join(part.path for part in parts)}; give each data once")
    digest = hashlib.sha256("\n".join(part.digest for part in parts).encode()).hexdigest()
    return Manifest(path=parts[0].path, digest=digest, frame=frame)


def _absolute(part: Manifest) -> Callable[[str], str]:
    def place(shard: str) -> str:
        uri = part.shard_uri(shard) if shard else ""
        return uri if not uri or "://" in uri else str(Path(uri).resolve())

    return place
